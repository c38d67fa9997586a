"""The verbs: each is one public function, and the command line calls it with the same argument names."""

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from weakseg._words import near
from weakseg.types import LABELS, WeaksegError

Say = Callable[[str], None]
BUILTIN = "builtin"
"""Value of `saliency` that asks for the training-free estimate."""


def _tell(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:  # of several processes the first one speaks
        print(line, file=sys.stderr, flush=True)


def run(
    recipe: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    set: Sequence[str] | Mapping[str, Any] = (),
    seeds: int = 1,
    weights: str | Path | None = None,
    train_list: str = "train",
    val_list: str = "val",
    reuse: Sequence[str | Path] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    layout: str | None = None,
    classes: str | Path | None = None,
    tags_from: str | None = None,
    saliency: str | Path | None = None,
    workers: int | None = None,
    precision: str = "no",
    tensorboard: bool = False,
    progress: bool = True,
    say: Say = _tell,
) -> dict[str, Any]:
    """Run a recipe over a data set; the same call resumes a run that was stopped, and skips what is done.

    Args:
        recipe: name of a recipe that ships (``cam-crf-mobile``), or a YAML file.
        data: the data set: VOC layout, COCO JSON beside images, or a plain folder.
        out: the run's folder.
        set: changes such as ``cam.crop=224``.
        seeds: how many seeds, 0 onwards; the report gives mean and spread.
        weights: weights file of the recipe's network, with its JSON beside it, instead of a download.
        train_list, val_list: which lists of the data set the recipe's ``train`` and ``val`` are.
        reuse: other runs whose matching steps are taken over by hard link.
        overwrite: move steps of an older configuration aside instead of refusing.
        dry_run: plan only; the result holds the plan and the estimated time, nothing is written.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        layout, classes, tags_from: how to read the data set (see `weakseg.data.dataset.open_dataset`).
        saliency: folder of saliency maps named like the photographs, or ``builtin``, a training-free estimate; in place
            of the data set's own.
        workers: loader processes; None = as suits the device (`weakseg.train.fit`).
        precision: ``no``, ``bf16`` or ``fp16`` training.
        tensorboard: also write its event files (needs the extra).
        progress: show bars with the time left.
        say: receives one line at a time about what is going on.

    Returns:
        The content of ``report.json`` with ``report``, the path of the HTML page; with `dry_run` the plan.

    Raises:
        WeaksegError: one sentence about what came, what was wanted and what to do.
    """
    from weakseg.data.dataset import open_dataset
    from weakseg.pipeline.plan import Lists
    from weakseg.pipeline.recipe import resolve
    from weakseg.pipeline.run import Options

    chosen = _chosen(recipe, set, weights, saliency)
    resolve(chosen)  # a wrong key is said before the data set is read
    dataset = open_dataset(
        data, layout=layout, classes=classes, tags_from=tags_from, saliency=_saliency_folder(saliency)
    )
    options = Options(device=device, workers=workers, precision=precision, progress=progress, tensorboard=tensorboard)
    lists = Lists(train_list, val_list)
    return _run(chosen, dataset, Path(out), seeds, lists, reuse, overwrite, dry_run, options, _command(), say)


def sweep(
    recipe: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    grid: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    study: str | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    seeds: int = 1,
    weights: str | Path | None = None,
    train_list: str = "train",
    val_list: str = "val",
    reuse: Sequence[str | Path] = (),
    overwrite: bool = False,
    device: str = "auto",
    layout: str | None = None,
    classes: str | Path | None = None,
    tags_from: str | None = None,
    saliency: str | Path | None = None,
    workers: int | None = None,
    precision: str = "no",
    progress: bool = True,
    say: Say = _tell,
) -> dict[str, Any]:
    """Run a recipe once for each of several settings; the same call goes on where a stopped one was.

    Steps that a setting does not touch are taken over from the runs before, by hard link.

    Args:
        recipe, data: as in `run`.
        out: holds a run folder for each setting, ``sweep.json`` and ``sweep.md``.
        grid: ``["eps.tau=0.2,0.4", "eps.lam=0.5,0.9"]`` or the same as a mapping: every combination is run.
        study: a table of one of the recipe's papers instead: ``strategies``, ``lambda`` or ``tau`` of EPS, ``label`` or
            ``layers`` of AMN, ``grid``, ``unreliable`` or ``classifier`` of BANA (`STUDIES` in the method's file).
        set: changes that all settings share.
        seeds, weights, train_list, val_list, reuse, overwrite, device, layout, classes, tags_from, saliency, workers,
            precision, progress, say: as in `run`.

    Returns:
        The content of ``sweep.json``: ``settings``, ``summary`` and ``classes`` (`pipeline.grid.summed_up`), and
        ``table``, the path of ``sweep.md``.

    Raises:
        WeaksegError: neither or both of `grid` and `study`; an unknown study; whatever `run` raises.
    """
    from weakseg import _ranks
    from weakseg.pipeline.grid import combinations, read_grid, run_settings, summed_up
    from weakseg.pipeline.grid import study as read_study
    from weakseg.pipeline.recipe import resolve

    if bool(grid) == (study is not None):
        raise WeaksegError("a sweep wants either --grid, such as eps.tau=0.2,0.4, or --study, such as tau")
    chosen = _chosen(recipe, set, weights, saliency)
    given = grid if isinstance(grid, Mapping) else read_grid(grid)
    settings = combinations(given) if study is None else read_study(chosen, study)
    for values in settings.values():  # a wrong key is said before any training
        resolve(_chosen(recipe, [*_lines(set), *_lines(values)], weights, saliency))

    def one(*, out: Path, set: Mapping[str, Any], reuse: Sequence[Path]) -> dict[str, Any]:
        say(f"setting {out.name}")
        return run(
            recipe, data, out, set=[*shared, *_lines(set)], seeds=seeds, weights=weights, train_list=train_list,
            val_list=val_list, reuse=[*others, *reuse], overwrite=overwrite, device=device, layout=layout,
            classes=classes, tags_from=tags_from, saliency=saliency, workers=workers, precision=precision,
            progress=progress, say=say,
        )  # fmt: skip

    shared, others = _lines(set), list(reuse)
    ran = run_settings(settings, Path(out), one)
    found: dict[str, Any] = _ranks.first(lambda: summed_up(settings, ran, Path(out)))
    return {**found, "table": Path(out) / "sweep.md"}


def demo(
    out: str | Path = "runs/demo",
    *,
    seeds: int = 1,
    count: int = 320,
    device: str = "auto",
    progress: bool = True,
    say: Say = _tell,
) -> dict[str, Any]:
    """The main job on the embedded data set, from scratch, in a few minutes on two cores.

    Args:
        out: folder for the scenes and the run.
        seeds: how many seeds.
        count: scenes to generate; a quarter of them is held out.
        device, progress, say: as in `run`.

    Returns:
        As `run`; the table is in ``summary``.
    """
    from weakseg import _ranks
    from weakseg._devices import cores, resolve_device, torch_threads

    out = Path(out)
    _ranks.join(device)
    data_scenes(out / "scenes", count=count, seed=0, progress=progress, say=say)
    more: dict[str, Any] = {"seeds": seeds, "device": device, "progress": progress, "say": say}
    if resolve_device(device).type != "cpu":
        return run("demo", out / "scenes", out / "run", **more)
    with torch_threads(max(1, cores() - 1)):  # its network is so small that one core serves better to load its batches
        return run("demo", out / "scenes", out / "run", workers=1, **more)


def label(
    photos: str | Path,
    tags: str | Path,
    out: str | Path,
    *,
    recipe: str | Path = "cam-crf-mobile",
    run: str | Path | None = None,
    weights: str | Path | None = None,
    set: Sequence[str] | Mapping[str, Any] = (),
    classes: str | Path | None = None,
    saliency: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    say: Say = _tell,
) -> dict[str, Any]:
    """Pseudo-masks for one's own photographs from a CSV of tags.

    Trains the recipe's localiser on them, or uses that of `run`. Photographs without a row are listed and skipped; an
    empty tag cell means background only.

    Args:
        photos: folder of photographs.
        tags: CSV ``image,tag1;tag2``; the first column is a file name or its stem.
        out: run folder; the masks come to ``out/labels`` as palette PNGs named by file stem, with previews.
        recipe: its steps up to the pseudo-masks are run.
        run: an ended run whose networks label the photographs without training.
        weights, set, overwrite, device, workers, progress, say: as in `run`.
        saliency: as in `run`, for a recipe that learns from saliency.
        classes: names or file that fix the order of the classes; else the run's, else the tags' sorted names.

    Returns:
        ``{"labels": folder, "previews": folder, "photographs": n, "skipped": [...], "findings": [...]}``.
    """
    from weakseg import _ranks
    from weakseg.data.dataset import open_photos
    from weakseg.pipeline.execute import run_recipe
    from weakseg.pipeline.labelling import labelling, recipe_of
    from weakseg.pipeline.networks import manifest_of
    from weakseg.pipeline.plan import Lists
    from weakseg.pipeline.recipe import override
    from weakseg.pipeline.run import Options

    out = Path(out)
    _ranks.join(device)
    if run is None:
        chosen = _chosen(recipe, set, weights, saliency)
        chosen, names = labelling(chosen), classes
    else:
        manifest = manifest_of(Path(run))
        chosen, names = labelling(override(recipe_of(manifest), set), Path(run), manifest), manifest["classes"]
    dataset = open_photos(photos, classes=names, tags_csv=tags, saliency=_saliency_folder(saliency))
    _tell_skipped(dataset, tags, say)
    ran = run_recipe(
        chosen,
        dataset,
        out,
        lists=Lists("tagged", "tagged"),
        overwrite=overwrite,
        command=_command(),
        say=say,
        options=Options(device=device, workers=workers, progress=progress),
    )
    last = ran.chains[0].steps[str(chosen.labels)]
    _ranks.first(lambda: _show_labels(dataset, last, out / "labels", progress))
    say(f"{len(last.ids)} masks in {out / 'labels'}, previews in {out / 'labels' / 'previews'}")
    return {
        "labels": out / "labels",
        "previews": out / "labels" / "previews",
        "photographs": len(last.ids),
        "skipped": list(dataset.untagged),
        "findings": list(ran.findings),
    }


def predict(
    run: str | Path,
    photos: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    say: Say = _tell,
) -> Path:
    """Segment photographs with the network of an ended run; no tags are needed.

    Args:
        run: the run's folder, or a ``.safetensors`` bundle of its network (`export_network`).
        photos: folder of photographs.
        out: receives palette PNGs named by file stem, at each photograph's own size; those that are there are kept.
            From a network of instances: ``instances.json`` (COCO, run lengths), ``instances/`` with a file for each
            photograph, and ``previews/`` with those of score 0.5 and more.
        seed: which of the run's seeds; a bundle holds one of them.
        device, workers, progress, say: as in `run`.

    Returns:
        `out`.
    """
    from weakseg import _ranks, infer
    from weakseg.data.dataset import open_photos
    from weakseg.data.view import View
    from weakseg.export.bundle import is_bundle, load_bundle
    from weakseg.pipeline.labelling import InstanceStore, prediction_store
    from weakseg.pipeline.networks import network_of

    _ranks.join(device)
    network = load_bundle(run, device) if is_bundle(run) else network_of(Path(run), seed, device)
    about = network.about
    dataset = open_photos(photos, classes=about.classes)
    store = prediction_store(network.method, Path(out))
    name = f"{about.step} of {run}, seed {about.seed}"
    _ranks.first(lambda: store.claim(dataset, network=name, digest=about.fingerprint))
    infer.map_samples(
        lambda sample: {store.key: network.method.predict(network.model, sample)},
        View(dataset=dataset, ids=dataset.ids, need_tags=False),
        store,
        workers=workers,
        device=device,
        progress=progress,
        label="predict",
    )
    if isinstance(store, InstanceStore):
        _ranks.first(lambda: _show_instances(dataset, store, progress))
    say(f"{len(dataset.ids)} {'photographs with instances' if store.key != LABELS else 'masks'} in {out}")
    return Path(out)


def review(
    masks: str | Path,
    photos: str | Path,
    out: str | Path,
    *,
    tags: str | Path | None = None,
    classes: str | Path | None = None,
    port: int = 8008,
    browser: bool = True,
    progress: bool = True,
    say: Say = _tell,
) -> dict[str, Any]:
    """Look at masks in a browser, mend them, accept or reject each; what is accepted becomes a data set in `out`.

    Doubtful masks come first (a tag without a pixel, hardly any foreground, many pieces). The same call goes on where
    an earlier one ended. Needs the extra ``review``.

    Args:
        masks: folder of palette PNGs named by file stem, with ``classes.txt``; or a run folder, also `label`'s `out`.
        photos: folder of their photographs.
        out: a plain-folder data set of what was accepted: ``images``, ``masks``, ``tags.csv``, ``classes.txt``,
            ``lists/train.txt``; and ``review`` with decisions and corrections.
        tags: CSV ``image,tag1;tag2``, to find masks that contradict it.
        classes: names in the order of their ids, where `masks` has no ``classes.txt``.
        port: of this machine alone; 0 takes a free one.
        browser: open the page.
        progress, say: as in `run`.

    Returns:
        how many are ``open``, ``accepted`` and ``rejected``, and how many were ``edited``, when the page is closed.

    Raises:
        WeaksegError: nothing to review, another review in `out`, a port that is taken, or the extra is missing.
    """
    from weakseg.data.dataset import open_photos
    from weakseg.data.interchange import find_masks
    from weakseg.pipeline.execute import locked
    from weakseg.progress import ticking

    try:
        from weakseg.studio.review import Review
        from weakseg.studio.server import serve
    except ModuleNotFoundError as error:
        raise WeaksegError(
            f"the review page needs {error.name}; install it with `pip install weakseg[review]`"
        ) from error
    paths, names = find_masks(Path(masks), classes)
    dataset = open_photos(photos, classes=names, tags_csv=tags)
    out = Path(out)
    with locked(out):
        with ticking("masks", show=progress) as tick:
            made = Review(dataset, dict(paths.items()), names, out, tick=tick)
        if made.skipped:
            more = f" (and {len(made.skipped) - 1} more)" if len(made.skipped) > 1 else ""
            say(f"left out: {made.skipped[0]}{more}")
        serve(made, port=port, browser=browser, say=say)
    counts = made.counts()
    say(f"{counts['accepted']} accepted, {counts['rejected']} rejected, {counts['open']} open; a data set in {out}")
    return counts


def export_network(
    run: str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    to: str | None = None,
    say: Say = _tell,
) -> Path:
    """The segmentation network of an ended run as one file: ONNX for other runtimes, or a bundle for weakseg.

    ONNX holds one look at each photograph (`weakseg.export.onnx`); a bundle (`weakseg.export.bundle`) predicts what
    the run predicts, and `predict` takes it in place of the run's folder.

    Args:
        run: the run's folder.
        out: ``FILE.onnx`` or ``FILE.safetensors``; what is there is replaced.
        seed: which of the run's seeds.
        to: ``onnx`` or ``safetensors``; None = as `out` ends.
        say: receives what the file is, and what it does not do.

    Returns:
        `out`.

    Raises:
        WeaksegError: another kind of file; a run that has not ended or has no such network; ONNX without its extra, of
            a network of instances, or of one that ONNX Runtime computes differently.
    """
    from weakseg.export.bundle import export_bundle
    from weakseg.export.onnx import export_onnx

    kind = Path(out).suffix.removeprefix(".") if to is None else to
    if kind == "onnx":
        say(export_onnx(run, out, seed=seed).sentence())
    elif kind == "safetensors":
        export_bundle(run, out, seed=seed)
        say(f"{out}: weights and settings in one file; `weakseg predict` takes it in place of the run's folder")
    else:
        raise WeaksegError(
            f"a network leaves as .onnx or .safetensors, not as {kind or Path(out).name!r}: name such a file"
        )
    return Path(out)


def evaluate(
    pred: str | Path | None,
    truth: str | Path,
    *,
    scores: str | Path | None = None,
    key: str = "full",
    fixed: float = 0.2,
    thresholds: int = 256,
    share: float = 1.0,
    saliency_maps: str | Path | None = None,
    given: str | Path | None = None,
    classes: str | Path | None = None,
    ignored_prediction: Literal["miss", "drop", "background", "class"] = "miss",
    absent: Literal["irn", "zero", "skip_truthless"] = "irn",
    boundaries: bool = False,
    true_boundaries: str | Path | None = None,
    confusion: bool = False,
    context: str | Path | None = None,
    pairs: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """A folder of masks, of score maps or of saliency maps against a folder of true masks.

    Masks give one confusion matrix over all files; score maps the mIoU at every background threshold, the plateau
    around the best, each photograph's own best and how high the maps are on their objects (AMN); saliency maps their
    errors to the true foreground and to `given` ones (EPS).

    Args:
        pred: label maps as PNG, named by file stem; or None with one of the others.
        truth: true masks as PNG.
        scores: instead of `pred`, score maps (.npz) or a step's folder that holds them; wants `classes`.
        key, fixed, thresholds, share: of `scores`: which maps of a file, the threshold chosen beforehand, how many are
            tried, a random part of the photographs.
        saliency_maps, given: instead of `pred`, saliency maps (PNG, or a step's folder), and what to compare them with.
        classes: names file; else the ids that occur.
        ignored_prediction: a predicted 255 counts as ``miss``, ``drop``, ``background`` or ``class`` (methods.md 1.5).
        absent: how a class without pixels counts: ``irn``, ``zero`` or ``skip_truthless``.
        boundaries: also boundary precision, recall and F1 (EPS, sec. 5.1).
        true_boundaries: folder of true boundaries, PNG or SBD's .mat, instead of those of the true masks.
        confusion: also what classes are confused with, and how often they stand together.
        context: folder of context labels (the generated scenes' ContextClass, PASCAL-Context): confusion with these.
        pairs: pairs such as ``"train/rail"`` to list instead of the most distinct ones.
        progress: show a bar with the time left.

    Returns:
        mIoU, per class IoU, precision and recall, and the conventions they follow; with ``boundaries`` and
        ``confusion_ratios`` as asked for.
    """
    from weakseg import _ranks
    from weakseg.evaluate.folders import analyse_folders, evaluate_folders, evaluate_score_folder
    from weakseg.evaluate.saliency import evaluate_saliency_folder
    from weakseg.progress import hidden

    if sum(folder is not None for folder in (pred, scores, saliency_maps)) != 1:
        raise WeaksegError("evaluate wants one of --pred (masks), --scores (score maps) and --saliency-maps")
    if scores is not None and classes is None:
        raise WeaksegError("score maps bear ids only: name the classes with --classes FILE, one a line")
    _ranks.join()
    with hidden(not progress):
        if saliency_maps is not None:
            return evaluate_saliency_folder(saliency_maps, truth, given)
        if scores is not None and classes is not None:
            return evaluate_score_folder(
                scores, truth, classes, key=key, fixed=fixed, thresholds=thresholds, share=share, absent=absent
            )
        assert pred is not None
        result = evaluate_folders(
            Path(pred), Path(truth), classes=classes, ignored_prediction=ignored_prediction, absent=absent
        )
        more = analyse_folders(
            Path(pred),
            Path(truth),
            result["classes"][1:],
            boundaries=boundaries if true_boundaries is None else Path(true_boundaries),
            confusion=confusion,
            context=context,
            pairs=pairs,
        )
    return {**result, **more}


def results(
    runs: str | Path | Sequence[str | Path],
    out: str | Path = "results",
    *,
    name: str | None = None,
    data: str | None = None,
    overwrite: bool = False,
    say: Say = _tell,
) -> list[Path]:
    """Write the numbers of runs as one JSON for each recipe, seed and training list, and the table of all of them.

    Args:
        runs: a run folder, or several; every seed that has ended is taken.
        out: keeps the JSON files and ``table.md``, which is made from all that lie there.
        name: row of the table instead of the recipe's name, for a run with settings of its own.
        data: name of the data set instead of its folder's.
        overwrite: replace files of the same name that tell of other settings.
        say: receives one line a file.

    Returns:
        The files that were written, ``table.md`` last.

    Raises:
        WeaksegError: no ended seed; a file of the same name tells of other settings.
    """
    from weakseg.pipeline.results import write_results

    several = [runs] if isinstance(runs, (str, Path)) else runs
    written = [
        path
        for run in several
        for path in write_results(Path(run), Path(out), name=name, data=data, overwrite=overwrite)
    ]
    written.append(table(out))
    for path in written:
        say(str(path))
    return written


def table(results: str | Path = "results") -> Path:
    """Write ``table.md`` into a folder of results from the JSON files that lie there; its path."""
    from weakseg.data.store import write_text
    from weakseg.pipeline.results import read_results
    from weakseg.report.table import markdown, rows

    path = Path(results) / "table.md"
    write_text(path, markdown(rows(read_results(Path(results)))))
    return path


def compare(runs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """One table over runs: recipes and settings as rows, their seeds together (see `weakseg.report.table.rows`)."""
    from weakseg.pipeline.networks import run_folder
    from weakseg.pipeline.results import run_results
    from weakseg.report.table import rows

    return rows([record for run in runs for record in run_results(run_folder(Path(run)))])


def export(
    source: str | Path,
    out: str | Path,
    *,
    to: str,
    photos: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    what: Literal["labels", "predictions"] = "labels",
    seed: int = 0,
    per: Literal["region", "class"] = "region",
    overwrite: bool = False,
    progress: bool = True,
    say: Say = _tell,
) -> Path:
    """Pseudo-masks or predictions as an annotation tool opens them, or a run's trained network for other runtimes.

    Args:
        source: a run folder (also the `out` of `label`), or a folder of palette PNGs named by file stem.
        out: the file (``.zip``, ``.json``, ``.onnx``, ``.safetensors``), or a folder to put masks into.
        to: ``cvat``, ``coco``, ``labelme``, ``label-studio`` or ``yolo``; what each holds and how 255 travels stands
            in its file in `weakseg.data.formats`. ``onnx`` or ``safetensors``: as `export_network`, which reads
            `seed` of the arguments below and no other.
        photos: folder of the photographs, for their file names; without it ``<id>.jpg`` is assumed.
        classes: names in the order of their ids; else the run's, or classes.txt beside the masks.
        what, seed: which masks of a run.
        per: one annotation for each connected ``region``, or for each ``class``.
        overwrite: replace files that are there.
        progress, say: as in `run`.

    Returns:
        The file or folder that was written.

    Raises:
        WeaksegError: an unknown tool, no masks, no names of classes, a mask of another size than its photograph.
    """
    from weakseg.data import formats
    from weakseg.data.interchange import export_masks
    from weakseg.progress import ticking

    if to in ("onnx", "safetensors"):
        if Path(out).is_file() and not overwrite:
            raise WeaksegError(f"{out} exists; nothing was written, so name another --out or give --overwrite")
        return export_network(source, out, seed=seed, to=to, say=say)
    if to not in formats.names():
        known = [*formats.names(), "onnx", "safetensors"]
        raise WeaksegError(f"nothing is exported to {to!r}{near(to, known, or_all=True)}")
    if formats.load(to).NAMES_PHOTOS and photos is None:
        say("without --photos each photograph is taken to be ID.jpg")
    with ticking("export", show=progress) as tick:
        target, count = export_masks(
            Path(source), Path(out), to, photos=_path(photos), classes=classes, what=what, seed=seed, per=per,
            overwrite=overwrite, tick=tick,
        )  # fmt: skip
    say(f"{count} masks for {to} in {target}")
    return target


def import_masks(
    file: str | Path,
    out: str | Path,
    *,
    from_: str,
    classes: str | Path | Sequence[str] | None = None,
    photos: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    say: Say = _tell,
) -> Path:
    """Masks that were drawn or corrected in an annotation tool, as palette PNGs.

    Args:
        file: what the tool exported: a file, or a folder (labelme, yolo).
        out: receives ``<id>.png`` and ``classes.txt``: the ``masks`` folder of a plain-folder data set, from where a
            run takes them by its step ``labels.truth``.
        from_: ``cvat``, ``coco``, ``labelme``, ``label-studio`` or ``yolo``.
        classes: names in the order of their ids; else classes.txt in `out` or in the folder around it, else the order
            of the file.
        photos: folder of the photographs: masks are compared with their sizes. YOLO's files ask for it.
        overwrite: replace masks that are there.
        progress, say: as in `run`.

    Returns:
        `out`.

    Raises:
        WeaksegError: an unknown tool, a damaged file, a label that is no class, a mask that is there already.
    """
    from weakseg.data.interchange import import_masks as write_masks
    from weakseg.progress import ticking

    with ticking("import", show=progress) as tick:
        done = write_masks(
            Path(file), Path(out), from_, classes=classes, photos=_path(photos), overwrite=overwrite, tick=tick
        )
    for note in done.notes:
        say(note)
    if done.empty:
        say(f"{len(done.empty)} of {len(done.ids)} photographs have no annotation: their masks are background alone")
    say(f"{len(done.ids)} masks of {len(done.classes)} classes in {done.out}")
    return done.out


def report(run: str | Path) -> Path:
    """Write ``report.html`` of an ended run anew from its ``report.json``; the page's path."""
    from weakseg.report.html import write_report

    run = Path(run)
    if not (run / "report.json").is_file():
        raise WeaksegError(f"{run} has no report.json: is it a run folder that ended? `weakseg run` writes one")
    return write_report(run)


def methods() -> list[dict[str, Any]]:
    """Every method and recipe that ships: name, what it is, what it needs, its constants."""
    from weakseg import methods as shelf
    from weakseg.pipeline.recipe import constants, read_recipe, shipped

    found = []
    for name in shelf.names():
        method = shelf.load(name)
        roles = {"score": "localiser", "refine": "refiner", "predict": "segmenter"}
        found.append(
            {
                "name": name,
                "role": ", ".join(r for verb, r in roles.items() if hasattr(method, verb)),
                "about": (sys.modules[type(method).__module__].__doc__ or "").strip().splitlines()[0],
                "needs": sorted(getattr(method, "needs", ())),
                "constants": constants(method),
            }
        )
    return found + [{"name": n, "role": "recipe", "about": read_recipe(n).summary, "needs": []} for n in shipped()]


def data_check(
    path: str | Path,
    *,
    layout: str | None = None,
    classes: str | Path | None = None,
    tags_from: str | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Any:
    """Everything that is wrong with a data set, in one pass (`weakseg.data.check.CheckReport`)."""
    from weakseg.data.check import check
    from weakseg.progress import ticking

    with ticking("check", show=progress) as tick:
        return check(path, layout=layout, classes=classes, tags_from=tags_from, strict=strict, tick=tick)


def data_scenes(
    out: str | Path, *, count: int = 320, seed: int = 0, size: int = 128, progress: bool = True, say: Say = _tell
) -> Path:
    """Generate the embedded data set: photo-like scenes in VOC layout with exact masks, boxes, tags and saliency."""
    from weakseg import _ranks
    from weakseg.data.scenes import make_scenes
    from weakseg.progress import ticking

    _ranks.join()
    with ticking("scenes", show=progress) as tick:
        _ranks.first(lambda: make_scenes(Path(out), count=count, seed=seed, size=size, tick=tick))
    say(f"{count} scenes in {out}")
    return Path(out)


def data_convert(
    path: str | Path,
    out: str | Path,
    *,
    to: str = "voc",
    layout: str | None = None,
    classes: str | Path | None = None,
    tags_from: str | None = None,
    progress: bool = True,
    say: Say = _tell,
) -> Path:
    """Convert a data set between the VOC, COCO and plain folder layouts."""
    from weakseg.data.convert import convert
    from weakseg.progress import ticking

    with ticking("convert", show=progress) as tick:
        convert(path, out, to=to, layout=layout, classes=classes, tags_from=tags_from, tick=tick)
    say(f"{path} is now in {to} layout in {out}")
    return Path(out)


def weights_convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    leave_out: Sequence[str] = (),
    say: Say = _tell,
) -> Path:
    """Published weights of a backbone as a safetensors file that `weights` takes, with its description beside it.

    Args:
        source: MXNet's `.params`, Caffe's `.caffemodel`, safetensors, or a `.pth` of torchvision, timm or the authors.
        out: ``FILE.safetensors``.
        to: the network (``resnet38d``, ``vgg16d``, ``resnet101_caffe``, ``irn_resnet50``, or timm's name); None = found
            out from the file's names.
        leave_out: beginnings of further names that may be left over; classifiers and heads always may.
        say: receives what was done, with the sha256 that a run's manifest records.

    Returns:
        `out`.
    """
    from weakseg.models.weights_convert import convert_weights

    made = convert_weights(source, out, to=to, leave_out=leave_out)
    say(f"{made.path}: {made.tensors} tensors of {made.name}, sha256 {made.sha256}")
    if made.left_out:
        shown = ", ".join(made.left_out[:5]) + (", ..." if len(made.left_out) > 5 else "")
        say(f"left out, no part of the backbone: {len(made.left_out)} ({shown})")
    return made.path


def doctor() -> dict[str, Any]:
    """What weakseg finds on this machine: versions, devices, cores, memory, disk, and whether its kernels compile."""
    import torch

    from weakseg.ops import crf
    from weakseg.pipeline.book import versions

    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    try:
        for labels in (2, 3, 4, 6, 10, 21):  # each has kernels of its own; up to 21 labels these are all
            crf.dense_crf(image, torch.rand(labels, 8, 8), crf.RECIPES["psa"])
        kernels = "ok"
    except Exception as error:
        kernels = f"{type(error).__name__}: {error}"
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "versions": versions(),
        "devices": ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "free_disk_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "crf_kernels": kernels,
        "ok": kernels == "ok",
    }


def _run(
    recipe: Any,
    dataset: Any,
    out: Path,
    seeds: int,
    lists: Any,
    reuse: Sequence[str | Path],
    overwrite: bool,
    dry_run: bool,
    options: Any,
    command: str,
    say: Say,
) -> dict[str, Any]:
    from weakseg import _ranks
    from weakseg.data.store import read_json
    from weakseg.pipeline.execute import plan_seeds, run_recipe
    from weakseg.pipeline.networks import run_folder

    _ranks.join(options.device)
    runs = [run_folder(Path(r)) for r in reuse]
    if dry_run:
        from weakseg.pipeline.estimate import estimate
        from weakseg.pipeline.rehearsal import published_rates, rehearse

        plans = plan_seeds(recipe, dataset, out, seeds=seeds, lists=lists, options=options)
        rehearse(plans[0], dataset, options)
        planned: dict[str, Any] = _ranks.first(lambda: estimate(plans, dataset, runs, options))
        if (warning := published_rates(plans[0])) and _ranks.rank() == 0:
            say(f"warning: {warning}")
        return planned
    ran = run_recipe(
        recipe,
        dataset,
        out,
        seeds=seeds,
        lists=lists,
        reuse_runs=runs,
        overwrite=overwrite,
        options=options,
        command=command,
        say=say,
    )
    page = _ranks.first(lambda: _report(ran, dataset, command, options.progress))
    say(f"report: {page}")
    return {**read_json(out / "report.json", dict), "report": page}


def _report(ran: Any, dataset: Any, command: str, progress: bool) -> Path:
    """Previews, gallery, ``report.json`` and the page of a run that ended; the page's path."""
    from weakseg.data.store import write_json
    from weakseg.evaluate.conventions import CONVENTIONS
    from weakseg.pipeline import book
    from weakseg.report.html import write_report
    from weakseg.report.pictures import gallery, write_previews

    entries = []
    for chain in ran.chains:
        folder = ran.out / f"seed-{chain.seed}"
        entries += gallery(ran.recipe, chain, folder, ran.out)
        if ran.recipe.labels in chain.steps:
            write_previews(dataset, chain.steps[ran.recipe.labels], folder / "labels" / "previews", progress=progress)
    result = book.report_data(
        ran.recipe,
        ran.chains,
        ran.out,
        command=command,
        findings=ran.findings,
        entries=entries,
        conventions=CONVENTIONS,
    )
    write_json(ran.out / "report.json", result)
    return write_report(ran.out)


def _show_labels(dataset: Any, planned: Any, folder: Path, progress: bool) -> None:
    """The masks people came for, the names of their ids, and previews."""
    from weakseg.data.store import write_text
    from weakseg.pipeline.files import link_masks
    from weakseg.report.pictures import write_previews

    link_masks(planned, folder)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in dataset.classes))
    write_previews(dataset, planned, folder / "previews", progress=progress)


def _show_instances(dataset: Any, store: Any, progress: bool) -> None:
    """One file of all predicted instances, and previews."""
    from weakseg.report.pictures import write_instance_previews

    store.finish(dataset)
    write_instance_previews(dataset, dataset.ids, store.instances, store.folder / "previews", progress=progress)


def _tell_skipped(dataset: Any, tags: str | Path, say: Say) -> None:
    """List the photographs without a row; WeaksegError if there is no other."""
    skipped = dataset.untagged
    if len(skipped) == len(dataset.ids):
        raise WeaksegError(f"{tags} has no row for any of the {len(skipped)} photographs in {dataset.root}; add some")
    if skipped:
        say(f"skipped, for {tags} has no row of them: {', '.join(skipped)}")


def _chosen(
    recipe: str | Path,
    set: Sequence[str] | Mapping[str, Any],
    weights: str | Path | None,
    saliency: str | Path | None = None,
) -> Any:
    """The recipe with its settings, with the networks of the weights file, and with saliency of its own if asked."""
    from weakseg.pipeline.execute import with_weights
    from weakseg.pipeline.recipe import override, read_recipe, with_builtin_saliency

    read = read_recipe(recipe)
    if saliency == BUILTIN:
        read = with_builtin_saliency(read)
    return override(with_weights(override(read, _only_backbone(set)), _path(weights)), set)


def _saliency_folder(saliency: str | Path | None) -> str | Path | None:
    return None if saliency == BUILTIN else saliency


def _only_backbone(settings: Sequence[str] | Mapping[str, Any]) -> Any:
    """The settings that choose the network: they come before the weights file is compared with it."""
    if isinstance(settings, Mapping):
        return {k: v for k, v in settings.items() if k.startswith("backbone.")}
    return [s for s in settings if s.startswith("backbone.")]


def _lines(settings: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Settings as ``step.key=value``; JSON is YAML."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return list(settings)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _command() -> str:
    """The command line as a person would type it; ``python -m weakseg`` has the module's file in its first word."""
    name = Path(sys.argv[0]).name
    return shlex.join(["weakseg" if name == "__main__.py" else name, *sys.argv[1:]])

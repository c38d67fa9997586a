"""The command line: each verb calls the function of the same name in `weakseg.api` with the same argument names.

Nothing heavy is imported before a verb runs, so ``weakseg --help`` answers at once.
"""

import errno
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    name="weakseg",
    help="Cheap labels (image tags, boxes, saliency maps) in, segmentation models out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Look at a data set, generate the embedded one, convert between layouts.", no_args_is_help=True)
app.add_typer(data, name="data")
weights_app = typer.Typer(help="Published weights, made usable.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="STEP.KEY=VALUE", help="Change a constant, e.g. cam.crop=224.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Weights file (its FILE.json beside it) instead of a download.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Loader processes; by default none on the CPU, one a core beside a GPU."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Move steps of an older configuration aside.")]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Bars with the time left.")]
Layout = Annotated[str | None, typer.Option("--layout", help="voc, coco or folder; recognised by itself.")]
Classes = Annotated[
    str | None,
    typer.Option("--classes", metavar="FILE|A,B", help="Names in the order of their ids: a file, or with commas."),
]
TagsFrom = Annotated[
    str | None, typer.Option("--tags-from", help="tags.csv, boxes, folders, masks, or a .csv or .npy file.")
]
Saliency = Annotated[
    str | None,
    typer.Option(
        "--saliency", metavar="FOLDER|builtin", help="Saliency maps named like the photographs; builtin estimates them."
    ),
]
Photos = Annotated[
    Path | None, typer.Option("--photos", help="Folder of the photographs, for their file names and sizes.")
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _help(text: str, example: str) -> str:
    return f"{text}\n\n\b\nExample:\n  {example}"


@app.command(
    help=_help("The main job on generated scenes, from scratch, in a few minutes.", "weakseg demo --out runs/demo")
)
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 1,
    count: Annotated[int, typer.Option("--count", min=16, help="Scenes to generate.")] = 320,
    device: Device = "auto",
    progress: Progress = True,
) -> None:
    """The main job on the embedded data set."""
    from weakseg import api

    _show(api.demo(out, seeds=seeds, count=count, device=device, progress=progress))


@app.command(
    help=_help(
        "Run a recipe over a data set. The same command resumes a run that was stopped.",
        "weakseg run cam-crf-mobile --data VOC2012 --out runs/cam --seeds 3",
    )
)
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `weakseg methods`) or a YAML file.")],
    data: Annotated[Path, typer.Option("--data", help="VOC layout, COCO JSON beside images, or a plain folder.")],
    out: Out,
    set: Set = [],  # noqa: B006
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds; the report gives mean and spread.")] = 1,
    weights: Weights = None,
    train_list: Annotated[str, typer.Option("--train-list", help="List the recipe's `train` means.")] = "train",
    val_list: Annotated[str, typer.Option("--val-list", help="List the recipe's `val` means.")] = "val",
    reuse: Annotated[list[Path], typer.Option("--reuse", help="Other runs whose matching steps are taken over.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps, what is skipped and the estimated time.")
    ] = False,
    device: Device = "auto",
    layout: Layout = None,
    classes: Classes = None,
    tags_from: TagsFrom = None,
    saliency: Saliency = None,
    workers: Workers = None,
    precision: Annotated[str, typer.Option("--precision", help="no, bf16 or fp16 training.")] = "no",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write its event files.")] = False,
    progress: Progress = True,
) -> None:
    """Run a recipe over a data set."""
    from weakseg import api

    result = api.run(
        recipe, data, out, set=set, seeds=seeds, weights=weights, train_list=train_list, val_list=val_list,
        reuse=reuse, overwrite=overwrite, dry_run=dry_run, device=device, layout=layout, classes=classes,
        tags_from=tags_from, saliency=saliency, workers=workers, precision=precision, tensorboard=tensorboard,
        progress=progress,
    )  # fmt: skip
    if dry_run:
        _show_plan(result)
    else:
        _show(result)


@app.command(
    help=_help(
        "Run a recipe for each of several settings and put their numbers side by side, class by class.",
        "weakseg sweep eps-mobile --data VOC2012 --out runs/tau --grid eps.tau=0.2,0.3,0.4,0.5",
    )
)
def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (see `weakseg methods`) or a YAML file.")],
    data: Annotated[Path, typer.Option("--data", help="VOC layout, COCO JSON beside images, or a plain folder.")],
    out: Out,
    grid: Annotated[
        list[str], typer.Option("--grid", metavar="STEP.KEY=V,V", help="Values to try; of several, every combination.")
    ] = [],  # noqa: B006
    study: Annotated[
        str | None,
        typer.Option(
            "--study", help="A paper's table: strategies, lambda, tau (EPS); label, layers (AMN); grid (BANA)."
        ),
    ] = None,
    set: Set = [],  # noqa: B006
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds of each setting.")] = 1,
    weights: Weights = None,
    train_list: Annotated[str, typer.Option("--train-list", help="List the recipe's `train` means.")] = "train",
    val_list: Annotated[str, typer.Option("--val-list", help="List the recipe's `val` means.")] = "val",
    reuse: Annotated[list[Path], typer.Option("--reuse", help="Other runs whose matching steps are taken over.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
    device: Device = "auto",
    layout: Layout = None,
    classes: Classes = None,
    tags_from: TagsFrom = None,
    saliency: Saliency = None,
    workers: Workers = None,
    precision: Annotated[str, typer.Option("--precision", help="no, bf16 or fp16 training.")] = "no",
    progress: Progress = True,
) -> None:
    """Run a recipe for each of several settings."""
    from weakseg import api

    result = api.sweep(
        recipe, data, out, grid=grid, study=study, set=set, seeds=seeds, weights=weights, train_list=train_list,
        val_list=val_list, reuse=reuse, overwrite=overwrite, device=device, layout=layout, classes=classes,
        tags_from=tags_from, saliency=saliency, workers=workers, precision=precision, progress=progress,
    )  # fmt: skip
    settings = list(result["settings"])
    rows = [
        (title, *(f"{100 * row[name]['mean']:.1f}" if name in row else "" for name in settings))
        for title, row in result["summary"].items()
    ]
    _table(("%", *settings), rows)
    print(f"\nclass by class: {result['table']}")


@app.command(
    help=_help(
        "Pseudo-masks for your own photographs from a CSV of tags (image,tag1;tag2).",
        "weakseg label photos --tags tags.csv --out masks",
    )
)
def label(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    tags: Annotated[
        Path, typer.Option("--tags", help="CSV: image,tag1;tag2. An empty tag cell means background only.")
    ],
    out: Out,
    recipe: Annotated[
        str, typer.Option("--recipe", help="Its steps up to the pseudo-masks are run.")
    ] = "cam-crf-mobile",
    run: Annotated[
        Path | None, typer.Option("--run", help="An ended run whose networks label without training.")
    ] = None,
    weights: Weights = None,
    set: Set = [],  # noqa: B006
    classes: Classes = None,
    saliency: Saliency = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    workers: Workers = None,
    progress: Progress = True,
) -> None:
    """Pseudo-masks for one's own photographs."""
    from weakseg import api

    api.label(
        photos, tags, out, recipe=recipe, run=run, weights=weights, set=set, classes=classes, saliency=saliency,
        overwrite=overwrite, device=device, workers=workers, progress=progress,
    )  # fmt: skip


@app.command(
    help=_help("Segment photographs with the network of an ended run.", "weakseg predict runs/cam photos --out masks")
)
def predict(
    run: Annotated[Path, typer.Argument(help="Folder of an ended run, or a .safetensors bundle of its network.")],
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    out: Out,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which of the run's seeds.")] = 0,
    device: Device = "auto",
    workers: Workers = None,
    progress: Progress = True,
) -> None:
    """Segment photographs with the network of an ended run."""
    from weakseg import api

    api.predict(run, photos, out, seed=seed, device=device, workers=workers, progress=progress)


@app.command(
    help=_help(
        "Look at masks in a browser, mend them, keep the good ones as a data set.",
        "weakseg review masks photos --tags tags.csv --out reviewed",
    )
)
def review(
    masks: Annotated[Path, typer.Argument(help="A run folder, or a folder of palette PNGs with classes.txt.")],
    photos: Annotated[Path, typer.Argument(help="Folder of their photographs.")],
    out: Annotated[Path, typer.Option("--out", help="Receives what was accepted as a data set, and the decisions.")],
    tags: Annotated[
        Path | None, typer.Option("--tags", help="CSV: image,tag1;tag2; masks that contradict it come first.")
    ] = None,
    classes: Classes = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of this machine alone; 0: a free one.")] = 8008,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    progress: Progress = True,
) -> None:
    """Look at masks in a browser."""
    from weakseg import api

    api.review(masks, photos, out, tags=tags, classes=classes, port=port, browser=browser, progress=progress)


@app.command(
    help=_help(
        "A folder of masks, score maps or saliency maps against a folder of true masks.",
        "weakseg evaluate --pred runs/cam/seed-0/predictions --truth VOC2012/SegmentationClass",
    )
)
def evaluate(
    truth: Annotated[Path, typer.Option("--truth", help="True masks (PNG).")],
    pred: Annotated[Path | None, typer.Option("--pred", help="Masks (PNG) named by file stem.")] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Score maps (a step's folder) at every background threshold.")
    ] = None,
    key: Annotated[str, typer.Option("--key", help="Which score maps of a file.")] = "full",
    fixed: Annotated[float, typer.Option("--fixed", help="Background threshold that was chosen beforehand.")] = 0.2,
    thresholds: Annotated[int, typer.Option("--thresholds", min=2, help="How many are tried.")] = 256,
    share: Annotated[float, typer.Option("--share", help="Random part of the photographs, e.g. 0.1.")] = 1.0,
    saliency_maps: Annotated[
        Path | None, typer.Option("--saliency-maps", help="Saliency maps (PNG, or a step's folder) to be judged.")
    ] = None,
    given: Annotated[Path | None, typer.Option("--given", help="Saliency maps to compare those with.")] = None,
    classes: Classes = None,
    ignored_prediction: Annotated[
        Literal["miss", "drop", "background", "class"],
        typer.Option("--ignored-prediction", help="How a predicted 255 counts."),
    ] = "miss",
    absent: Annotated[
        Literal["irn", "zero", "skip_truthless"], typer.Option("--absent", help="How a class without pixels counts.")
    ] = "irn",
    boundaries: Annotated[bool, typer.Option("--boundaries", help="Boundary precision, recall and F1.")] = False,
    true_boundaries: Annotated[
        Path | None, typer.Option("--true-boundaries", help="Boundary files (PNG, SBD's .mat) instead of the masks'.")
    ] = None,
    confusion: Annotated[bool, typer.Option("--confusion", help="What classes are confused with.")] = False,
    context: Annotated[
        Path | None, typer.Option("--context", help="Context labels (PNG, PASCAL-Context's .mat) to be confused with.")
    ] = None,
    pairs: Annotated[list[str], typer.Option("--pair", metavar="CLASS/LABEL", help="A pair to list.")] = [],  # noqa: B006
    progress: Progress = True,
    as_json: Json = False,
) -> None:
    """A folder of masks, score maps or saliency maps."""
    from weakseg import api
    from weakseg.evaluate.folders import format_table
    from weakseg.evaluate.saliency import format_saliency

    result = api.evaluate(
        pred, truth, scores=scores, key=key, fixed=fixed, thresholds=thresholds, share=share,
        saliency_maps=saliency_maps, given=given, classes=classes, ignored_prediction=ignored_prediction,
        absent=absent, boundaries=boundaries, true_boundaries=true_boundaries, confusion=confusion, context=context,
        pairs=pairs, progress=progress,
    )  # fmt: skip
    table = format_table if saliency_maps is None else format_saliency
    print(json.dumps(result, indent=1) if as_json else table(result))


@app.command(
    help=_help(
        "Masks for annotation tools (cvat, coco, labelme, label-studio, yolo), or a network for other runtimes (onnx).",
        "weakseg export runs/cam --to cvat --out cvat.zip --photos photos",
    )
)
def export(
    source: Annotated[Path, typer.Argument(help="A run folder, or a folder of palette PNGs with classes.txt.")],
    to: Annotated[str, typer.Option("--to", help="cvat, coco, labelme, label-studio, yolo, onnx or safetensors.")],
    out: Annotated[Path, typer.Option("--out", help="The file (.zip, .json, .onnx, .safetensors), or a folder.")],
    photos: Photos = None,
    classes: Classes = None,
    what: Annotated[Literal["labels", "predictions"], typer.Option("--what", help="Which masks of a run.")] = "labels",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which of the run's seeds.")] = 0,
    per: Annotated[
        Literal["region", "class"], typer.Option("--per", help="What becomes an annotation of its own.")
    ] = "region",
    overwrite: Replace = False,
    progress: Progress = True,
) -> None:
    """Masks as an annotation tool opens them, or a network for other runtimes."""
    from weakseg import api

    api.export(
        source, out, to=to, photos=photos, classes=classes, what=what, seed=seed, per=per, overwrite=overwrite,
        progress=progress,
    )  # fmt: skip


@app.command(
    "import",
    help=_help(
        "Masks that were corrected in an annotation tool, as palette PNGs: the masks folder of a data set.",
        "weakseg import export.zip --from cvat --out data/masks --photos data/images",
    ),
)
def import_masks(
    file: Annotated[Path, typer.Argument(help="What the tool exported: a file, or a folder (labelme, yolo).")],
    from_: Annotated[str, typer.Option("--from", help="cvat, coco, labelme, label-studio or yolo.")],
    out: Annotated[Path, typer.Option("--out", help="Receives ID.png and classes.txt.")],
    classes: Classes = None,
    photos: Photos = None,
    overwrite: Replace = False,
    progress: Progress = True,
) -> None:
    """Masks that were corrected in an annotation tool."""
    from weakseg import api

    api.import_masks(file, out, from_=from_, classes=classes, photos=photos, overwrite=overwrite, progress=progress)


@app.command(help=_help("Write the HTML report of an ended run anew.", "weakseg report runs/cam"))
def report(run: Annotated[Path, typer.Argument(help="Folder of an ended run.")]) -> None:
    """Write the HTML report of an ended run anew."""
    from weakseg import api

    print(api.report(run))


@app.command(
    help=_help(
        "Write runs' numbers as JSON, one a seed, and the table made from all of them.",
        "weakseg results runs/eps runs/cam --out results",
    )
)
def results(
    runs: Annotated[list[Path], typer.Argument(help="Folders of ended runs.")],
    out: Annotated[Path, typer.Option("--out", help="Keeps the JSON files and table.md.")] = Path("results"),
    name: Annotated[str | None, typer.Option("--name", help="Row of the table instead of the recipe's name.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Name of the data set instead of its folder's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that tell of other settings.")] = False,
) -> None:
    """Write runs' numbers and the table of results."""
    from weakseg import api

    api.results(runs, out, name=name, data=data, overwrite=overwrite)


@app.command(help=_help("Every method and recipe that ships.", "weakseg methods"))
def methods(as_json: Json = False) -> None:
    """Every method and recipe that ships."""
    from weakseg import api

    found = api.methods()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    rows = [(m["name"], m["role"], ", ".join(m["needs"]), m["about"]) for m in found]
    _table(("name", "what", "needs", "about"), rows)


@app.command(help=_help("What weakseg finds on this machine.", "weakseg doctor"))
def doctor(as_json: Json = False) -> None:
    """What weakseg finds on this machine."""
    from weakseg import api

    found = api.doctor()
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        for key, value in found.items():
            text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{key:14} {', '.join(text) if isinstance(text, list) else text}")
    if not found["ok"]:
        raise typer.Exit(1)


@data.command(
    "check", help=_help("Everything that is wrong with a data set, in one pass.", "weakseg data check VOC2012 --strict")
)
def data_check(
    path: Annotated[Path, typer.Argument(help="The data set.")],
    layout: Layout = None,
    classes: Classes = None,
    tags_from: TagsFrom = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    progress: Progress = True,
) -> None:
    """Everything that is wrong with a data set."""
    from weakseg import api

    found = api.data_check(path, layout=layout, classes=classes, tags_from=tags_from, strict=strict, progress=progress)
    for line in found.lines():
        print(line)
    if not found.ok:
        raise typer.Exit(1)


@data.command(
    "scenes",
    help=_help(
        "Generate the embedded data set in VOC layout.", "weakseg data scenes --out scenes --count 320 --seed 0"
    ),
)
def data_scenes(
    out: Out,
    count: Annotated[int, typer.Option("--count", min=1, help="How many scenes.")] = 320,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Everything derives from it.")] = 0,
    size: Annotated[int, typer.Option("--size", min=64, max=1024, help="Side in pixels, about.")] = 128,
    progress: Progress = True,
) -> None:
    """Generate the embedded data set."""
    from weakseg import api

    api.data_scenes(out, count=count, seed=seed, size=size, progress=progress)


@data.command(
    "convert", help=_help("Convert a data set between layouts.", "weakseg data convert coco --to voc --out voc")
)
def data_convert(
    path: Annotated[Path, typer.Argument(help="The data set.")],
    out: Out,
    to: Annotated[Literal["voc", "coco", "folder"], typer.Option("--to", help="The layout that is wanted.")] = "voc",
    layout: Layout = None,
    classes: Classes = None,
    tags_from: TagsFrom = None,
    progress: Progress = True,
) -> None:
    """Convert a data set between layouts."""
    from weakseg import api

    api.data_convert(path, out, to=to, layout=layout, classes=classes, tags_from=tags_from, progress=progress)


@weights_app.command(
    "convert",
    help=_help(
        "Weights of MXNet, Caffe or PyTorch as a file for --weights; neither MXNet nor Caffe is needed.",
        "weakseg weights convert vgg16_20M.caffemodel vgg16.safetensors --to vgg16d",
    ),
)
def weights_convert(
    source: Annotated[Path, typer.Argument(help="A .params, .caffemodel, .safetensors or .pth file.")],
    out: Annotated[Path, typer.Argument(help="FILE.safetensors; its FILE.safetensors.json is written beside it.")],
    to: Annotated[
        str | None,
        typer.Option("--to", help="resnet38d, vgg16d, resnet101_caffe, irn_resnet50 or a timm name; found by itself."),
    ] = None,
    leave_out: Annotated[
        list[str], typer.Option("--leave-out", metavar="NAME", help="Beginning of a name that may be left over.")
    ] = [],  # noqa: B006
) -> None:
    """Weights of another tool as a file for --weights."""
    from weakseg import api

    api.weights_convert(source, out, to=to, leave_out=leave_out)


def main() -> None:
    """Run the command line; a person's mistake ends in one sentence and a non-zero exit, never in a traceback."""
    if int(os.environ.get("RANK", 0)):  # of the processes of a launcher the first one speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's; ours is an error
    try:
        app()
    except KeyboardInterrupt:
        _stop("stopped; the same command goes on where this one was", 130)
    except Exception as error:
        if os.environ.get("WEAKSEG_DEBUG"):
            raise
        if not _speaks():
            raise SystemExit(1) from None
        _stop(_sentence(error), 1)


def _speaks() -> bool:
    """Whether this process tells of its failure: the only one, or the first of several to fail."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return True
    from weakseg import _ranks

    return _ranks.speaks()


def _sentence(error: Exception) -> str:
    from weakseg.types import WeaksegError

    if isinstance(error, WeaksegError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        full = "; make room and start the same command again" if error.errno == errno.ENOSPC else ""
        return f"{error.filename or 'a file'}: {error.strerror}{full}"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} (this is a fault of weakseg; WEAKSEG_DEBUG=1 shows where)"


def _stop(text: str, code: int) -> None:
    print(f"weakseg: {text}", file=sys.stderr)
    raise SystemExit(code)


def _show(result: dict[str, Any]) -> None:
    """The headline table: fractions in percent, mean and spread over seeds, and where the report is."""
    from weakseg.report.html import number

    rows = []
    for row in result["summary"]:
        spread = "" if row["std"] is None else f"± {number(row['std'], row['unit'])}"
        values = ", ".join(number(v, row["unit"]) for v in row["values"]) if row["std"] is not None else ""
        rows.append((row["name"], row["split"], row["unit"], number(row["mean"], row["unit"]), spread, values))
    _table(("", "list", "", "value", "", "seeds"), rows)
    print(f"\nreport: {result['report']}")


def _show_plan(result: dict[str, Any]) -> None:
    rows = [(f"seed {s['seed']}", s["name"], s["method"], s["state"], s["work"], s["time"]) for s in result["steps"]]
    _table(("", "step", "method", "state", "work", "about"), rows)
    print(f"\nestimated time: {result['time']}; nothing was written")


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        table.add_column(title, justify="right" if title in ("%", "value") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(markup=False, highlight=False).print(table)


if __name__ == "__main__":
    main()

"""What a run writes down: the manifest of each seed, the label maps and predictions people come for, report.json."""

import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from weakseg.data.coco_write import write_coco_instances
from weakseg.data.store import Store, read_json, write_json
from weakseg.evaluate.health import check_masks, check_predictions, mask_stats
from weakseg.infer import resolve_device
from weakseg.pipeline.circumstances import circumstances
from weakseg.pipeline.files import link_masks
from weakseg.pipeline.plan import Lists, Planned, digest, weights_hash
from weakseg.pipeline.recipe import Recipe, constants
from weakseg.pipeline.run import Chain
from weakseg.types import LABELS, Instances, WeaksegError

INSTANCES, RELIABLE = "instances", "reliable"
"""Keys of a step's instances, and of a label map that is 255 where they are unreliable."""

PACKAGES = ("weakseg", "torch", "torchvision", "timm", "accelerate", "numba", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class Origin:
    """What is running, known before the first step: an update of the checkout during a run changes nothing in it.

    Attributes:
        command: the command line, or "".
        commit: see `git_commit`.
    """

    command: str
    commit: str | None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout that holds `folder`, with ``+changes`` if it is not clean; None outside of one."""
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        state = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if state.stdout.strip() else "")


def write_manifest(
    recipe: Recipe, chain: Chain, out: Path, *, lists: Lists, origin: Origin, findings: Sequence[Mapping[str, Any]]
) -> None:
    """``manifest.json``: enough to run this seed again and to trust or doubt its numbers."""
    steps = []
    for p in chain.steps.values():
        done = read_json(p.folder / "done.json") if (p.folder / "done.json").is_file() else {}
        steps.append(
            {
                "name": p.name,
                "method": p.step.spec.method,
                "needs": sorted(getattr(p.step.method, "needs", ())),
                "constants": constants(p.step.method),
                "folder": p.folder.relative_to(out).as_posix(),
                "fingerprint": p.fingerprint,
                "photographs": {"fit": len(p.fit_ids), "outputs": len(p.ids)},
                "truth": len(p.ids) if {"mask", "instances"} & set(getattr(p.step.method, "needs", ())) else 0,
                "backbone": None if p.backbone is None else {**asdict(p.backbone), "create": dict(p.backbone.create)},
                "weights_sha256": None if p.backbone is None else weights_hash(p.backbone.weights),
                "seconds": done.get("seconds"),
                "times": done.get("times", {}),
            }
        )
    write_json(
        out / "manifest.json",
        {
            "recipe": recipe.model_dump(mode="json"),
            "seed": chain.seed,
            "classes": list(chain.dataset.classes),
            "data": {
                "name": chain.dataset.root.name,
                "layout": chain.dataset.layout,
                "tags_source": chain.dataset.tags_source,
                "saliency_source": saliency_source(chain),
                "has": sorted(chain.dataset.has),
                "lists": asdict(lists),
                "inputs_sha256": digest([p.parts["data"] for p in chain.steps.values()]),
            },
            "steps": steps,
            "findings": list(findings),
            "device": str(resolve_device(chain.options.device)),
            "options": asdict(chain.options),
            "versions": versions(),
            "git_commit": origin.commit,
            "command": origin.command,
        },
    )


def saliency_source(chain: Chain) -> str | None:
    """Where the saliency maps come from that the run's steps read: ``data set``, ``folder NAME``, a method; or None.

    A built-in, training-free estimate says so; several sources are joined by ``and``.
    """
    found: dict[str, None] = {}
    for planned in chain.steps.values():
        if planned.step.saliency is not None:
            maker = chain.steps[planned.step.saliency.step].step
            found[getattr(maker.method, "source", None) or f"step {maker.name}"] = None
        elif "saliency" in planned.step.needs:
            found[chain.dataset.saliency_source] = None
    return " and ".join(found) or None


def health(chain: Chain, planned: Planned) -> list[dict[str, Any]]:
    """Findings about a step's outputs, in plain words; tags are all they know, never the truth."""
    found: list[Any] = []
    if planned.step.evaluates:
        found = read_json(planned.folder / "result.json")["findings"]
    elif not _for_labels(chain, planned):
        return []
    elif hasattr(planned.step.method, "predict"):
        found = check_predictions(_stats(chain, planned, tags=False))
    elif "tags" in chain.dataset.has:
        found = check_masks(_stats(chain, planned, tags=True))
    plain = [f if isinstance(f, Mapping) else asdict(f) for f in found]
    return [{"seed": chain.seed, "step": planned.name, **f} for f in plain]


def _for_labels(chain: Chain, planned: Planned) -> bool:
    """Whether a step's label maps are what it is there for: of PSA's two CRFs only the scores are read."""
    read = {ref.key for p in chain.steps.values() for ref in p.step.inputs if ref.step == planned.name}
    return LABELS in planned.step.writes and (LABELS in read or not read)


def _stats(chain: Chain, planned: Planned, *, tags: bool) -> Any:
    store = planned.store
    return mask_stats(
        lambda id: store.labels(id, LABELS),
        planned.ids,
        chain.dataset.classes,
        tags=chain.dataset.tags if tags else None,
        threads=chain.options.cores,
    )


def link_outputs(recipe: Recipe, chain: Chain, out: Path) -> None:
    """What people came for under one name: ``labels/*.png`` with previews, ``predictions/*.png``, ``instances/*.json``.

    Each step that makes instances has one COCO JSON.
    """
    for role, folder in ((recipe.labels, out / "labels"), (recipe.predictions, out / "predictions")):
        made = chain.steps.get(role or "")
        if made is not None and LABELS in made.step.writes:  # instances have a file of their own
            link_masks(made, folder)
    for planned in chain.steps.values():
        if INSTANCES in planned.step.writes and not planned.step.evaluates:
            write_instances_json(chain, planned, out / INSTANCES / f"{INSTANCES}_{planned.name}.json")


def write_instances_json(chain: Chain, planned: Planned, path: Path) -> int:
    """The instances of a step as one COCO JSON, with the pixels that its ``reliable`` map doubts; returns how many."""
    store = planned.store
    doubts = (lambda id: store.labels(id, RELIABLE)) if RELIABLE in planned.step.writes else None
    return write_coco_instances(path, chain.dataset, planned.ids, lambda id: read_instances(store, id), doubts)


def read_instances(store: Store, id: str) -> Instances:
    """The instances of photograph `id` in a step's store; raises WeaksegError if it holds something else there."""
    found = store.read(id, INSTANCES)
    if not isinstance(found, Instances):
        raise WeaksegError(f"{store.folder} holds {store.kind(INSTANCES)} under {INSTANCES!r}; instances were wanted")
    return found


def report_data(
    recipe: Recipe,
    chains: Sequence[Chain],
    run: Path,
    *,
    command: str,
    findings: Sequence[Mapping[str, Any]],
    entries: Sequence[Mapping[str, Any]],
    conventions: Mapping[str, str],
) -> dict[str, Any]:
    """The numbers of all seeds, as ``report.json`` holds them."""
    around = circumstances(read_json(run / f"seed-{chains[0].seed}" / "manifest.json"))
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    evaluations, times = [], []
    for chain in chains:
        for p in chain.steps.values():
            done = read_json(p.folder / "done.json")
            times += [{"seed": chain.seed, "step": p.name, "stage": s, **t} for s, t in done["times"].items()]
            if not done["times"]:
                times.append({"seed": chain.seed, "step": p.name, "stage": "all", "seconds": done["seconds"]})
            if not p.step.evaluates:
                continue
            judged = read_json(p.folder / "result.json")
            title, split = p.step.spec.title or p.name, ", ".join(p.step.lists)
            evaluations.append(
                {
                    "seed": chain.seed,
                    "step": p.name,
                    "title": title,
                    "kind": judged["kind"],
                    "of": judged["of"],
                    "split": split,
                    "result": judged["result"],
                }
            )
            for name, value, unit in judged["headline"]:
                full = f"{title} {name}".strip()
                row = rows.setdefault(
                    (p.name, name, unit), {"name": full, "step": p.name, "split": split, "unit": unit, "values": []}
                )
                row["values"].append(value)
    for row in rows.values():
        row["mean"] = statistics.fmean(row["values"])
        row["std"] = statistics.stdev(row["values"]) if len(row["values"]) > 1 else None
    return {
        "recipe": recipe.name,
        "about": recipe.summary,
        "seeds": [c.seed for c in chains],
        "classes": list(chains[0].dataset.classes),
        "summary": list(rows.values()),
        "conventions": {**conventions, **around},
        "findings": list(findings),
        "times": times,
        "evaluations": evaluations,
        "gallery": list(entries),
        "versions": versions(),
        "command": command,
    }

"""Run a recipe: plan every seed, refuse or reuse what is there, run the steps, write it all down.

Under a launcher (``accelerate launch``) every process runs the same steps; the first one alone locks the folder,
decides what is to do, writes what belongs to a run as a whole, and speaks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from weakseg import _ranks
from weakseg.data.dataset import Dataset
from weakseg.data.store import refused, remove_leftovers
from weakseg.models.weights import backbone_from_file
from weakseg.pipeline import book
from weakseg.pipeline.files import complete, reuse, settle
from weakseg.pipeline.plan import Lists, Planned, plan
from weakseg.pipeline.recipe import Recipe, resolve
from weakseg.pipeline.rehearsal import published_rates, rehearse
from weakseg.pipeline.run import Chain, Options, run_step
from weakseg.progress import hidden
from weakseg.types import WeaksegError


@dataclass(frozen=True)
class Ran:
    """A run that ended: its folder, one chain a seed, and the findings of its health checks."""

    recipe: Recipe
    out: Path
    chains: tuple[Chain, ...]
    findings: tuple[Mapping[str, Any], ...]


def run_recipe(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    seeds: int = 1,
    lists: Lists = Lists(),
    reuse_runs: Sequence[Path] = (),
    overwrite: bool = False,
    options: Options = Options(),
    command: str = "",
    say: Callable[[str], None] = print,
) -> Ran:
    """Run every step of every seed under `out`, skipping and resuming; the same call continues a killed run.

    Raises:
        WeaksegError: anything a person can mend, before work starts wherever it can be known then.
    """
    _ranks.join(options.device)
    origin = book.Origin(command, book.git_commit(Path(__file__).parent))
    plans = plan_seeds(recipe, dataset, out, seeds=seeds, lists=lists, options=options)
    rehearse(plans[0], dataset, options)
    if (warning := published_rates(plans[0])) and _ranks.rank() == 0:
        say(f"warning: {warning}")
    with ExitStack() as stack:
        stack.enter_context(hidden(not options.progress))
        _ranks.first(lambda: stack.enter_context(locked(out)))
        _ranks.first(lambda: _settle(plans, out, overwrite))
        chains, findings = [], []
        for seed, planned in plans.items():
            speaker = say if _ranks.rank() == 0 else _silent
            chain = Chain(dataset, {p.name: p for p in planned}, seed, options, speaker)
            found = _run_seed(chain, reuse_runs)
            _ranks.first(partial(_write_down, recipe, chain, out / f"seed-{seed}", lists, origin, found))
            chains.append(chain)
            findings += found
        _ranks.wait()
    return Ran(recipe, out, tuple(chains), tuple(findings))


def plan_seeds(
    recipe: Recipe, dataset: Dataset, out: Path, *, seeds: int, lists: Lists, options: Options
) -> dict[int, tuple[Planned, ...]]:
    """The plan of each seed 0..seeds-1."""
    if seeds < 1:
        raise WeaksegError(f"--seeds wants 1 or more, got {seeds}")
    steps = resolve(recipe)
    return {
        seed: plan(steps, dataset, lists, out / f"seed-{seed}", seed=seed, precision=options.precision)
        for seed in range(seeds)
    }


def with_weights(recipe: Recipe, weights: Path | None) -> Recipe:
    """The recipe with the networks of that file in place of a download.

    The JSON beside the file names its network, mean, std and creation options; a recipe all of whose steps train
    another network is refused.
    """
    if weights is None:
        return recipe
    found = backbone_from_file(weights)
    loaded = {
        "name": found.name,
        "weights": found.weights,
        "mean": found.mean,
        "std": found.std,
        "create": dict(found.create),
    }
    names = {step.backbone.get("name", recipe.backbone.get("name")) for step in recipe.steps}
    if found.name not in names:
        wanted = ", ".join(sorted(n for n in names if n))
        raise WeaksegError(
            f"{weights} holds {found.name}, recipe {recipe.name} trains {wanted}; give weights of that network, "
            f"or --set backbone.name={found.name}"
        )
    steps = tuple(
        s.model_copy(update={"backbone": {**s.backbone, **loaded}}) if s.backbone.get("name") == found.name else s
        for s in recipe.steps
    )
    main = {**recipe.backbone, **loaded} if recipe.backbone.get("name") == found.name else recipe.backbone
    return recipe.model_copy(update={"backbone": main, "steps": steps})


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep a second process out of the run folder; the lock dies with its process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeaksegError(f"{out} cannot be made: {error.strerror}; choose another --out") from None
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise WeaksegError(f"another process is working on {out}; wait for it, or choose another --out") from None
    except OSError as error:
        raise refused(out / ".lock", error) from error
    try:
        yield
    finally:
        lock.release()


def _settle(plans: Mapping[int, Sequence[Planned]], out: Path, overwrite: bool) -> None:
    remove_leftovers(out)
    for seed, planned in plans.items():
        settle(planned, out / f"seed-{seed}", overwrite=overwrite)


def _run_seed(chain: Chain, reuse_runs: Sequence[Path]) -> list[dict[str, Any]]:
    findings: list[dict[str, Any]] = []
    for number, planned in enumerate(chain.steps.values(), start=1):
        place, method = f"[seed {chain.seed}, {number}/{len(chain.steps)}]", planned.step.spec.method or "folder"
        head = f"{place} {planned.name} ({method})"
        there = _ranks.first(partial(_there, planned, reuse_runs))
        chain.say(f"{head}: {there or _work(planned)}")
        if not there:
            done = run_step(chain, planned)
            chain.say(f"{head}: {done['seconds']:.1f} s")
        for finding in book.health(chain, planned):
            findings.append(finding)
            if finding["level"] != "ok":
                chain.say(f"  {finding['level']}: {finding['title']}. {finding['text']}")
    return findings


def _there(planned: Planned, reuse_runs: Sequence[Path]) -> str:
    """Why the step needs no work, or nothing if it does; what another run made is taken over."""
    if planned.done and complete(planned):
        return "done before"
    return "reused" if reuse(planned, reuse_runs) else ""


def _write_down(
    recipe: Recipe, chain: Chain, out: Path, lists: Lists, origin: book.Origin, findings: Sequence[Mapping[str, Any]]
) -> None:
    book.link_outputs(recipe, chain, out)
    book.write_manifest(recipe, chain, out, lists=lists, origin=origin, findings=findings)


def _work(planned: Planned) -> str:
    parts = [f"learns from {len(planned.fit_ids)}"] if planned.fit_ids else []
    parts.append(f"{'judges' if planned.step.evaluates else 'writes'} {len(planned.ids)} photographs")
    half = (planned.folder / "plan.json").is_file()
    return ", ".join(parts) + (", resumed" if half else "")


def _silent(line: str) -> None:
    pass

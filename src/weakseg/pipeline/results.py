"""A run's numbers for the table of results: one JSON for each recipe, seed and training list, without machine paths.

The JSON holds what a reader needs to trust, doubt or repeat a number: the command, commit and versions, the networks
with the hash of their weights, the supervision, the hours, the conventions, and each mIoU with the list it is of.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from weakseg import methods
from weakseg.data.store import read_json, safe_name, write_json
from weakseg.pipeline.plan import digest
from weakseg.types import WeaksegError

FORMAT = 1
_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.~+-]+/)+")  # of an absolute path somewhere in a string
_LEVELS = ("fixed", "best")


def write_results(
    run: Path, out: Path, *, name: str | None = None, data: str | None = None, overwrite: bool = False
) -> list[Path]:
    """Write ``<data>.<name>.<training list>.seed-<n>.json`` for every ended seed of `run`; the files' paths.

    Args:
        run: a run folder.
        out: where the JSON files are kept, the table's source.
        name: row of the table; the recipe's name if None. Needed where one recipe has rows of several settings.
        data: name of the data set; that of its folder if None.
        overwrite: replace a file of the same name that tells of other settings or another data set.

    Raises:
        WeaksegError: no ended seed; a file of the same name tells of other settings.
    """
    seeds = sorted(run.glob("seed-*/manifest.json"), key=lambda path: int(path.parent.name.removeprefix("seed-")))
    if not seeds:
        raise WeaksegError(f"{run} holds no seed-*/manifest.json: it is no run folder, or its first seed has not ended")
    records = [seed_result(manifest.parent, name=name, data=data) for manifest in seeds]
    paths = [out / f"{_file_name(record)}.json" for record in records]
    for path, record in zip(paths, records, strict=True):
        if not overwrite and path.is_file() and (kept := read_json(path)).get("settings") != record["settings"]:
            changed = differences([kept, record])
            raise WeaksegError(
                f"{path} tells of other settings ({', '.join(changed[1]) or 'another data set or list'}); give this "
                "run's row a --name of its own, or --overwrite to replace it"
            )
    for path, record in zip(paths, records, strict=True):
        write_json(path, record)
    return paths


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The records of every JSON in `folder`, in the order of their file names.

    Raises:
        WeaksegError: no JSON there, or one that `write_results` did not write.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise WeaksegError(f"{path} is no result of this version; write it again with `weakseg results RUN`")
        records.append(record)
    if not records:
        raise WeaksegError(f"{folder} holds no results; `weakseg results RUN --out {folder}` writes them")
    return records


def run_results(run: Path) -> list[dict[str, Any]]:
    """The records of a run folder's ended seeds, without writing them."""
    return [seed_result(path.parent) for path in sorted(run.glob("seed-*/manifest.json"))]


def seed_result(folder: Path, *, name: str | None = None, data: str | None = None) -> dict[str, Any]:
    """The record of one ended seed, all fractions 0-1.

    Args:
        folder: ``<run>/seed-<n>``.
        name, data: as in `write_results`.

    Returns:
        ``maps`` (the last `evaluate.scores` on the training list of maps that lead to the labels and are not refined
        from others; ``fixed`` and ``best`` threshold and mIoU), ``labels`` (the pseudo-masks on the training list) and
        ``val`` (the network on the validation list), each with its step and list, or None where the recipe does not
        measure it; ``evaluations``, the headline of each; ``supervision``, ``backbones``, ``hours`` of the steps that
        lead to the result (those of a reused step included), ``settings`` (a digest of all that decides the numbers,
        but for the seed and the code), ``constants`` by step, ``conventions``, ``truth_photographs``, ``device``,
        ``versions``, ``commit`` and ``command``.

    Raises:
        WeaksegError: the manifest is missing or damaged.
    """
    manifest = read_json(folder / "manifest.json")
    try:
        record = _record(folder, manifest, name, data)
    except (KeyError, TypeError, AttributeError) as error:
        raise WeaksegError(
            f"{folder / 'manifest.json'} is damaged or of another version ({type(error).__name__}: {error}); "
            "the command that made the run writes it again"
        ) from error
    return record


def _record(folder: Path, manifest: Mapping[str, Any], name: str | None, data: str | None) -> dict[str, Any]:
    recipe, lists = manifest["recipe"], manifest["data"]["lists"]
    specs = {s["name"]: s for s in recipe["steps"]}
    on_the_way = leading(specs, [recipe["predictions"], recipe["labels"]])
    steps = [s for s in manifest["steps"] if s["name"] in on_the_way]
    judged = _judged(folder, manifest, specs)
    facts = {
        "name": name or recipe["name"],
        "recipe": recipe["name"],
        "data": data or manifest["data"].get("name") or _from_command(manifest["command"], "--data") or "scenes",
        "list": lists["train"],
        "val_list": lists["val"],
        "photographs": _photographs(steps),
        "supervision": _supervision(steps, specs),
        "truth_photographs": max((s["truth"] for s in steps), default=0),
        "saliency_source": manifest["data"].get("saliency_source"),
        "backbones": _backbones(steps),
        "constants": {s["name"]: s["constants"] for s in steps},
    }
    facts = without_paths(facts)
    return {
        "format": FORMAT,
        **facts,
        "seed": manifest["seed"],
        "settings": digest({**facts, "name": None, "methods": [(s["name"], s["method"]) for s in steps]})[:16],
        "maps": _maps(judged, {name for name in on_the_way if not specs[name]["scores"]}),
        "labels": _masks(judged, recipe["labels"], "train"),
        "val": _masks(judged, recipe["predictions"], "val"),
        "evaluations": [{k: j[k] for k in ("step", "title", "of", "lists", "headline")} for j in judged],
        "conventions": next((j["result"]["conventions"] for j in judged if "conventions" in j["result"]), {}),
        "hours": round(sum(s["seconds"] or 0.0 for s in steps) / 3600, 4),
        "device": manifest["device"],
        "versions": manifest["versions"],
        "commit": manifest["git_commit"],
        "command": clean_command(manifest["command"]),
    }


def differences(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each record the settings ``step.key=value`` in which it is not like all the others."""
    flat = [_flat(record) for record in records]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if len({json.dumps(f.get(k)) for f in flat}) > 1]
    return [[f"{k}={_short(f[k])}" for k in keys if k in f] for f in flat]


def leading(specs: Mapping[str, Mapping[str, Any]], ends: Iterable[str | None]) -> set[str]:
    """Names of the steps that lead to the steps `ends`, these included.

    Args:
        specs: the recipe's steps by name, as the manifest holds them.
        ends: names; None is passed over.
    """
    wanted: set[str] = set()
    queue = [end for end in ends if end is not None]
    while queue:
        name = queue.pop()
        if name in wanted:
            continue
        wanted.add(name)
        spec = specs[name]
        queue += [ref.partition("/")[0] for role in ("scores", "seeds") for ref in spec[role].values()]
        queue += [spec["model"]] if spec["model"] else []
        queue += [spec["saliency"].partition("/")[0]] if spec.get("saliency") else []
    return wanted


def clean_command(command: str) -> str:
    """The command with the last part of each path that leads out of the working folder.

    >>> clean_command("/opt/bin/weakseg run eps --data ../sets/voc --out runs/eps --weights=/data/net.pth")
    'weakseg run eps --data voc --out runs/eps --weights=net.pth'
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return str(without_paths(command))
    return shlex.join(str(without_paths(word)) for word in words)


def without_paths(value: Any) -> Any:
    """A JSON-able value in which strings name files, not folders of a machine: absolute, home and ``..`` paths."""
    if isinstance(value, Mapping):
        return {k: without_paths(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_paths(v) for v in value]
    if not isinstance(value, str) or "://" in value:
        return value
    key, equals, path = value.rpartition("=")
    if path.startswith(("/", "~/", "../", "..\\", "\\\\")) or PureWindowsPath(path).drive:
        name = PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
        return f"{key}{equals}{name}"
    return _FOLDERS.sub("", value)


def _judged(folder: Path, manifest: Mapping[str, Any], specs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every evaluation's result with its step, title and lists, in the recipe's order."""
    found = []
    for step in manifest["steps"]:
        path, spec = folder / step["folder"] / "result.json", specs[step["name"]]
        if path.is_file():
            own = {"step": step["name"], "title": spec["title"] or step["name"], "lists": spec["list"] or ["train"]}
            found.append({**read_json(path), **own})
    return found


def _maps(judged: Sequence[Mapping[str, Any]], localisers: set[str]) -> dict[str, Any] | None:
    """The score maps' mIoU; several are evaluated where several networks score: the last is the method's own."""
    for j in reversed(judged):
        if j["kind"] == "sweep" and j["lists"] == ["train"] and j["of"].partition("/")[0] in localisers:
            levels = {k: {"threshold": j["result"][k]["threshold"], "miou": j["result"][k]["miou"]} for k in _LEVELS}
            return {"step": j["step"], "of": j["of"], **levels}
    return None


def _masks(judged: Sequence[Mapping[str, Any]], step: str | None, split: str) -> dict[str, Any] | None:
    """mIoU of the label maps of `step` on the recipe's list `split`."""
    for j in judged:
        if j["kind"] == "masks" and j["of"].partition("/")[0] == step and j["lists"] == [split]:
            return {"step": j["step"], "of": j["of"], "miou": j["result"]["miou"]}
    return None


def _supervision(steps: Sequence[Mapping[str, Any]], specs: Mapping[str, Any]) -> list[str]:
    """What the leading steps need: ``tags``, ``boxes``, ``saliency``, ``masks``; ``given``: a stranger's folder."""
    found = set()
    for step in steps:
        needs = step.get("needs")
        if specs[step["name"]].get("folder"):
            found.add("given")
        elif needs is None:  # a manifest of before this key
            needs = getattr(methods.load(step["method"]), "needs", ())
        found |= {"masks" if n == "mask" else n for n in needs or ()}
    order = ["tags", "boxes", "saliency", "masks", "given"]
    return sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))


def _backbones(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The networks the leading steps train, each once."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        if step["backbone"] is not None:
            name, weights = step["backbone"]["name"], step["weights_sha256"]
            found.setdefault(f"{name} {weights}", {"name": name, "weights_sha256": weights})
    return list(found.values())


def _photographs(steps: Sequence[Mapping[str, Any]]) -> int:
    """How many photographs the chain learns from."""
    return max((s["photographs"]["fit"] for s in steps), default=0)


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that `settings` is a digest of and a person can read."""
    flat = {f"{step}.{k}": v for step, values in record["constants"].items() for k, v in values.items()}
    weights = {b["name"]: b["weights_sha256"] for b in record["backbones"]}
    return {**flat, **{f"weights of {name}": value for name, value in weights.items()}}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:12]}..."


def _file_name(record: Mapping[str, Any]) -> str:
    words = (record["data"], record["name"], PurePosixPath(record["list"]).stem, f"seed-{record['seed']}")
    return safe_name(".".join(words))


def _from_command(command: str, option: str) -> str | None:
    """The last part of an option's path: manifests of before `data.name` hold it there alone."""
    words = shlex.split(command.replace(f"{option}=", f"{option} "))
    return PurePosixPath(words[words.index(option) + 1]).name if option in words[:-1] else None

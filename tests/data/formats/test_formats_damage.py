"""Files of every tool with a few bytes or values changed: read, or refused in one sentence."""

import json
import random

import pytest

from toy_masks import MASKS, export, read_back
from weakseg.types import WeaksegError

SOME = {id: MASKS[id] for id in ("regions", "hole", "ignored", "empty")}
VALUES = (None, True, -1, 0, 1.5, 1e308, 10**30, "", "x", "é\ud800", [], [[]], {}, {"a": 1}, [1, 2], float("nan"))


def with_bytes_changed(data, rng):
    spoiled = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, length = rng.randrange(len(spoiled)), rng.randrange(1, 20)
        choice = rng.randrange(3)
        if choice == 0:
            spoiled[at] = rng.randrange(256)
        elif choice == 1 and len(spoiled) > 40:
            del spoiled[at : at + length]
        else:
            spoiled[at:at] = spoiled[at : at + length]
    return bytes(spoiled)


def with_a_value_changed(data, rng):
    content = json.loads(data)
    places, queue = [], [content]
    while queue:
        each = queue.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each))
        places += [(each, key) for key in keys]
        queue += [each[key] for key in keys if isinstance(each[key], dict | list)]
    container, key = rng.choice(places)
    container[key] = rng.choice(VALUES)
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("tool", "out", "name"),
    [
        ("cvat", "x.zip", ""),
        ("coco", "x.json", ""),
        ("label-studio", "x.json", ""),
        ("labelme", "x", "hole.json"),
        ("yolo", "x", "labels/hole.txt"),
        ("yolo", "x", "data.yaml"),
    ],
)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(tmp_path, tool, out, name):
    place = export(tool, tmp_path / out, SOME)
    file = place / name if name else place
    good = file.read_bytes().replace(b'"predictions"', b'"annotations"')
    rng, said = random.Random(f"{tool} {name}"), []
    for k in range(60):
        is_json = file.suffix == ".json" and k % 2
        file.write_bytes(with_a_value_changed(good, rng) if is_json else with_bytes_changed(good, rng))
        try:
            read_back(tool, place, None, lambda id: SOME[id].shape if id in SOME else (3, 3))
        except WeaksegError as error:
            said.append(str(error))
    assert len(said) > 20
    assert all(len(sentence.splitlines()) == 1 for sentence in said)

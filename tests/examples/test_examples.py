"""Every example runs as a person would run it, and says what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"
EXPECTED = {  # file -> what it prints
    "refine_one_photograph.py": r"rough +(?P<before>[\d.]+) mIoU\nafter CRF +(?P<after>[\d.]+) mIoU",
    "own_method.py": r"Boxes after CRF +(?P<before>[\d.]+) mIoU\nHoles filled +(?P<after>[\d.]+) mIoU\n.*report.html",
}


def test_each_example_is_tested():
    assert {f.name for f in FOLDER.glob("*.py")} == set(EXPECTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs_and_improves_what_it_began_with(name, tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / name],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(EXPECTED[name], done.stdout)
    assert found, done.stdout
    assert float(found["after"]) > float(found["before"])

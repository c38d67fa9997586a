"""The command line as people meet it: its help."""

import subprocess
import sys

import pytest

from weakseg import api, cli

VERBS = (["demo"], ["run"], ["sweep"], ["label"], ["predict"], ["evaluate"], ["report"], ["export"], ["import"], ["results"], ["methods"],
         ["doctor"],
         ["data", "check"], ["data", "scenes"], ["data", "convert"], ["weights", "convert"])  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["weakseg", *verb, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert f"weakseg {' '.join(verb)}" in capsys.readouterr().out


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "weakseg", "methods", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "weakseg methods" in done.stdout


def test_a_run_as_a_module_notes_the_command_that_a_person_would_type(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/weakseg/__main__.py", "run", "eps-mobile", "--out", "a b"])
    assert api._command() == "weakseg run eps-mobile --out 'a b'"

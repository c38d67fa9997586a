import subprocess
import sys

import pytest


def weakseg(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from weakseg.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


VERBS = (["demo"], ["run"], ["label"], ["predict"], ["evaluate"], ["report"], ["methods"], ["doctor"],
         ["data", "check"], ["data", "scenes"], ["data", "convert"], ["weights", "convert"])  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(verb):
    done = weakseg(*verb, "--help")
    assert done.returncode == 0
    assert f"weakseg {' '.join(verb)}" in done.stdout


@pytest.mark.slow
def test_bad_input_is_one_sentence_and_no_traceback(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"not weights")
    cases = [
        (["run", "cam-crf-mobile", "--data", tmp_path / "empty", "--out", tmp_path / "o"], "photograph"),
        (["run", "cam-crf-mobil", "--data", tmp_path, "--out", tmp_path / "o"], "did you mean 'cam-crf-mobile'"),
        (["run", "demo", "--data", tmp_path, "--out", tmp_path / "o", "--set", "cam.crp=3"], "did you mean 'crop'"),
        (
            ["run", "demo", "--data", tmp_path, "--out", tmp_path / "o", "--weights", tmp_path / "weights.pth"],
            "missing",
        ),
        (["predict", tmp_path / "empty", tmp_path, "--out", tmp_path / "o"], "run folder"),
        (["report", tmp_path / "empty"], "report.json"),
        (["evaluate", "--pred", tmp_path / "empty", "--truth", tmp_path / "empty"], "PNG"),
        (["data", "check", tmp_path / "nowhere"], "nowhere"),
        (["weights", "convert", tmp_path / "weights.pth", tmp_path / "w.safetensors"], "not readable weights"),
    ]
    for arguments, says in cases:
        done = weakseg(*arguments)
        assert done.returncode != 0, arguments
        assert "Traceback" not in done.stderr + done.stdout, arguments
        assert says in done.stderr + done.stdout, (arguments, done.stderr)
    assert not (tmp_path / "o").exists()

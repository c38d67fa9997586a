"""Mapping over photographs: what is written, what is skipped, what a failure says, and how much is held in memory."""

import threading
import time
from dataclasses import dataclass, field

import pytest
import torch

from toy_learner import ToyData, network, view
from weakseg.data.store import Store, write_tensors
from weakseg.infer import load_model, map_samples
from weakseg.progress import _Lines, track
from weakseg.types import Instances, ScoreMap, WeaksegError


def outputs(sample):
    size = sample.size
    score = sample.image.float().mean() / 255
    ids = sample.present.to(sample.image.device)
    return {
        "full": ScoreMap(ids, score.expand(len(ids), *size).contiguous(), size),
        "labels": sample.image[0].gt(100).to(torch.uint8),
    }


def run(function, samples, store, **options):
    return map_samples(function, samples, store, **{"device": "cpu", "progress": False, **options})


@dataclass
class Notes:
    """A store in memory that remembers the order."""

    finished: set = field(default_factory=set)
    written: dict = field(default_factory=dict)

    def done(self):
        return self.finished

    def write(self, id, outputs):
        self.written[id] = outputs


@pytest.mark.parametrize("options", [{}, {"workers": 0}, {"workers": 3}, {"threads": 3}])
def test_every_sample_is_written_as_the_function_made_it(tmp_path, options):
    store, samples = Store(tmp_path, ("full", "labels")), view(9)
    assert run(outputs, samples, store, **options) == 9
    assert store.done() == set(samples.ids)
    for sample in samples:
        made = outputs(sample)
        assert torch.equal(store.read(sample.id, "labels"), made["labels"])
        torch.testing.assert_close(store.read(sample.id, "full").scores, made["full"].scores, atol=5e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_done_is_skipped(threads):
    seen = []
    store = Notes(finished={"p1", "p3"})
    assert run(lambda s: seen.append(s.id) or outputs(s), view(5), store, threads=threads) == 3
    assert sorted(seen) == ["p0", "p2", "p4"]
    assert run(outputs, view(2), Notes(finished={"p0", "p1"}), threads=threads) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_no_gradient_is_recorded(threads):
    model, modes = network(), []

    def function(sample):
        modes.append((torch.is_inference_mode_enabled(), model(sample.image[None].float()).requires_grad))
        return outputs(sample)

    run(function, view(4), Notes(), threads=threads)
    assert modes == [(True, False)] * 4


def test_outputs_come_back_to_the_cpu_with_every_field():
    def function(sample):
        k = torch.ones(1, dtype=torch.int64)
        masks = Instances(torch.ones(1, 2, 2, dtype=torch.bool), k, torch.ones(1), torch.zeros(1, 4))
        box = torch.zeros(1, dtype=torch.int32)
        return {"masks": masks, "full": ScoreMap(k.to(torch.uint8), torch.ones(1, 2, 2), (4, 4), box)}

    store = Notes()
    run(function, view(1), store)
    assert torch.equal(store.written["p0"]["full"].box, torch.zeros(1, dtype=torch.int32))
    assert store.written["p0"]["full"].size == (4, 4)
    assert store.written["p0"]["masks"].masks.all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (WeaksegError("tags are empty; add one"), WeaksegError, r"^p2: tags are empty; add one$"),
        (WeaksegError("p2: tags are empty"), WeaksegError, r"^p2: tags are empty$"),
        (IndexError("index 3"), RuntimeError, r"^p2: IndexError: index 3$"),
        (torch.OutOfMemoryError("CUDA out of memory"), WeaksegError, r"^p2: the device's memory does not hold"),
    ],
)
def test_a_failure_names_the_photograph_and_keeps_what_is_finished(fault, kind, message, threads):
    def function(sample):
        if sample.id == "p2":
            raise fault
        return outputs(sample)

    store = Notes()
    with pytest.raises(kind, match=message):
        run(function, view(40), store, threads=threads)
    assert {"p0", "p1"} <= set(store.written)
    assert len(store.written) < 20


@pytest.mark.parametrize("threads", [1, 2])
def test_a_photograph_that_cannot_be_read_or_written_is_named(threads):
    with pytest.raises(WeaksegError, match=r"^p3: the photograph is truncated$"):
        run(outputs, view(6, broken="p3"), Notes(), threads=threads)

    class Full(Notes):
        def write(self, id, outputs):
            if id == "p5":
                raise WeaksegError("no space left on the device")
            super().write(id, outputs)

    with pytest.raises(WeaksegError, match=r"^p5: no space left"):
        run(outputs, view(6), Full(), threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_stays_flat(threads, monkeypatch):
    """However slow the function, only a few photographs are read ahead of it."""
    read, lock, finished, most = 0, threading.Lock(), 0, 0
    sample_of = ToyData.sample

    def counted(self, id, **options):
        nonlocal read
        with lock:
            read += 1
        return sample_of(self, id, **options)

    def slow(sample):
        nonlocal finished, most
        time.sleep(0.01)
        with lock:
            most = max(most, read - finished)
            finished += 1
        return outputs(sample)

    monkeypatch.setattr(ToyData, "sample", counted)
    run(slow, view(30), Notes(), threads=threads, workers=2)
    assert finished == 30
    assert most <= 6


def test_load_model_wants_exactly_its_names_and_shapes(tmp_path):
    model, other = network(), network()
    torch.nn.init.ones_(model.head.weight)
    write_tensors(tmp_path / "m.safetensors", model.state_dict())
    loaded = load_model(other.train(), tmp_path / "m.safetensors")
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert not loaded.training
    wide = network()
    wide.head = torch.nn.Conv2d(8, 4, 1)
    with pytest.raises(
        WeaksegError, match=r"head\.weight is \(3, 8, 1, 1\) instead of \(4, 8, 1, 1\).*number of classes"
    ):
        load_model(wide, tmp_path / "m.safetensors")
    with pytest.raises(WeaksegError, match=r"norm\.weight is missing; .* and 2 more"):
        load_model(network(norm=True), tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").write_bytes(b"torn")
    with pytest.raises(WeaksegError, match=r"m\.safetensors"):
        load_model(other, tmp_path / "m.safetensors")


def test_progress_is_a_plain_line_with_the_time_left(capsys, monkeypatch):
    lines = _Lines(10, "cam", done=2)
    now = lines.start
    monkeypatch.setattr("weakseg.progress.time.monotonic", lambda: now)
    for _ in range(4):
        now += 10
        lines.advance(1, "loss 0.5")
    printed = capsys.readouterr().err.splitlines()
    assert printed == ["cam 5/10, 50 s left loss 0.5"]  # 3 done in 30 s, 5 to go


def test_progress_can_be_silent(capsys):
    with track(3, "cam", show=False) as advance:
        advance()
        advance(2, note="x")
    with track(3, "cam", done=3) as advance:
        advance()
    assert capsys.readouterr() == ("", "")

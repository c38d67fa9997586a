"""The loop: batches, schedules, groups, several processes, accumulation, resume and guards."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from toy_learner import Toy, network, view
from weakseg._batches import MicroBatches, load_batches, parts
from weakseg._optimisation import build_optimiser, make_plan, parameter_groups, rate
from weakseg.data.store import read_tensors
from weakseg.train import _configuration, fit, resolve_device
from weakseg.types import Augmentation, Normalise, Optimisation, WeaksegError, deciding_constants

SCRIPT = Path(__file__).with_name("toy_learner.py")
PLAIN = Augmentation((Normalise(),))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(out, optimisation=None, model=None, samples=None, augmentation=None, **options):
    optimisation = optimisation or Optimisation(epochs=2, batch_size=4, lr=0.1)
    method = Toy(optimisation=optimisation, **({"augmentation": augmentation} if augmentation else {}))
    options = {"device": "cpu", "workers": 0, "progress": False, **options}
    return fit(method, model or network(), samples or view(), out, **options)


def weights(out, name="model.safetensors"):
    return read_tensors(out / name)


def lines(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_close(a, b, atol):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0)


# --- the plan and the batches ---


def test_plan_of_phases_iterations_and_short_lists():
    plan = make_plan(Optimisation(phases=((1, 4), (2, 3))), 10)
    assert plan.sizes == (4, 3, 3)
    assert plan.total == 2 + 3 + 3
    assert [plan.locate(s) for s in range(8)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert [s for s in range(8) if plan.ends_epoch(s)] == [1, 4, 7]
    assert make_plan(Optimisation(iterations=7, epochs=1, batch_size=5), 10).locate(6) == (3, 0)
    assert make_plan(Optimisation(iterations=3, epochs=9, batch_size=5), 10).total == 3
    assert make_plan(Optimisation(epochs=2, batch_size=16), 3).sizes == (3, 3)


@pytest.mark.parametrize(
    ("options", "count", "processes", "message"),
    [
        ({}, 0, 1, "list is empty"),
        ({"epochs": 0}, 5, 1, "train nothing"),
        ({"batch_size": 0}, 5, 1, "train"),
        ({"iterations": 0}, 5, 1, "train nothing"),
        ({}, 1, 2, "2 processes cannot share"),
        ({"accumulate": 0}, 5, 1, "accumulate 0"),
    ],
)
def test_plan_refuses_what_trains_nothing(options, count, processes, message):
    with pytest.raises(WeaksegError, match=message):
        make_plan(Optimisation(**options), count, processes)


def test_every_epoch_takes_each_photograph_once_in_another_order():
    plan = make_plan(Optimisation(epochs=2, batch_size=5), 10)
    items = [item for batch in MicroBatches(plan, seed=3) for item in batch]
    first, second = [i for e, i in items if e == 0], [i for e, i in items if e == 1]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert items != [item for batch in MicroBatches(plan, seed=4) for item in batch]


def test_processes_and_parts_share_the_same_global_batches():
    plan = make_plan(Optimisation(epochs=2, batch_size=5), 11)
    whole = list(MicroBatches(plan, 0))
    shares = [list(MicroBatches(plan, 0, rank=r, world=2, accumulate=2)) for r in range(2)]
    assert [MicroBatches(plan, 0, rank=r, world=2, accumulate=2).per_step(0) for r in range(2)] == [2, 2]
    for step, batch in enumerate(whole):
        mine = [item for share in shares for part in share[2 * step : 2 * step + 2] for item in part]
        assert sorted(mine) == sorted(batch)
    assert list(MicroBatches(plan, 0, start=3)) == whole[3:]


def test_parts_cover_everything_and_none_is_empty():
    for n in range(1, 9):
        for count in range(1, 9):
            made = parts(list(range(n)), count)
            assert [item for part in made for item in part] == list(range(n))
            assert len(made) == min(n, count)
            assert max(map(len, made)) - min(map(len, made)) <= 1


def test_a_resumed_run_loads_no_skipped_photograph():
    loaded = []

    class Spy:
        def __getitem__(self, index):
            loaded.append(index)
            return index

    plan = make_plan(Optimisation(epochs=2, batch_size=2), 6)
    made = list(load_batches(Spy(), lambda sample, epoch: (epoch, sample), list, MicroBatches(plan, 0, start=4), 0))
    assert [item for batch in made for item in batch] == [i for b in list(MicroBatches(plan, 0))[4:] for i in b]
    assert len(loaded) == 4


# --- schedule and groups ---


def test_poly_schedule_by_hand():
    o = Optimisation(power=0.9)
    assert rate(o, 0, 100) == 1.0
    assert rate(o, 50, 100) == pytest.approx(0.5358867)  # 0.5 ** 0.9
    assert rate(o, 90, 100) == pytest.approx(0.1258925)  # 0.1 ** 0.9
    late = Optimisation(power=1.0, horizon=200, interval=10)
    assert [rate(late, t, 100) for t in (0, 9, 10, 99)] == pytest.approx([1, 1, 0.95, 0.55])
    assert rate(Optimisation(horizon=10), 11, 100) == 0.0
    aeft = Optimisation(phases=((18, 8), (22, 32)), horizon="first_phase")  # methods.md 9.4
    plan = make_plan(aeft, 10_582)
    assert (plan.total, plan.horizon(aeft)) == (31_056, 52_880)
    assert [rate(aeft, t, plan.horizon(aeft)) for t in (23_796, 31_056)] == pytest.approx([0.584, 0.451], abs=1e-3)
    assert make_plan(o, 1000).horizon(o) == make_plan(o, 1000).total


def test_step_and_constant_schedules_by_hand():
    step = Optimisation(schedule="step", milestones=(10, 20), gamma=0.5)
    assert [rate(step, t, 30) for t in (0, 9, 10, 19, 20, 29)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert rate(Optimisation(schedule="constant"), 29, 30) == 1.0
    with pytest.raises(WeaksegError, match="cosine"):
        rate(Optimisation(schedule="cosine"), 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_warm_up_is_torchs(schedule):
    """LinearLR chained to the schedule, as torchvision trains detectors; no rate but these before it was there."""
    o = Optimisation(lr=0.02, schedule=schedule, milestones=(3, 9), warmup=5)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=o.lr)
    torchs = [torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1e-3, total_iters=5)]
    if schedule == "step":
        torchs.append(torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[3, 9], gamma=0.1))
    chained = torch.optim.lr_scheduler.ChainedScheduler(torchs)
    for step in range(12):
        assert o.lr * rate(o, step, 12) == pytest.approx(chained.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        chained.step()
    assert rate(Optimisation(warmup=10, interval=4, schedule="constant"), 7, 20) == pytest.approx(0.001 + 0.999 * 0.4)


def test_a_run_begun_before_there_was_a_warm_up_is_continued():
    """Its checkpoint does not name one, and none is what it had."""

    def facts(**more):
        return _configuration(Toy(optimisation=Optimisation(**more)), view(), 0, "no")

    assert "optimisation.warmup" not in facts()
    assert facts(warmup=3)["optimisation.warmup"] == 3
    assert set(facts(warmup=3)) - set(facts()) == {"optimisation.warmup"}


def test_two_groups_or_the_four_of_the_psa_family():
    model = network()
    o = Optimisation(lr=0.1, new_factor=10, weight_decay=5e-4)
    two = [(g["lr"], g["weight_decay"], len(g["params"])) for g in parameter_groups(model, o)]
    assert two == [(0.1, 5e-4, 3), (1.0, 5e-4, 2)]
    four = parameter_groups(model, Optimisation(lr=0.1, new_factor=10, bias_factor=2, weight_decay=5e-4))
    assert [(g["lr"], g["weight_decay"]) for g in four] == [(0.1, 5e-4), (0.2, 0.0), (1.0, 5e-4), (2.0, 0.0)]
    assert four[1]["params"][0] is model.body.bias
    assert four[3]["params"][0] is model.head.bias


def test_frozen_parameters_are_in_no_group():
    model = network()
    model.body.requires_grad_(False)
    grouped = [p for g in parameter_groups(model, Optimisation()) for p in g["params"]]
    assert len(grouped) == 3
    model.requires_grad_(False)
    with pytest.raises(WeaksegError, match="no trainable parameter"):
        parameter_groups(model, Optimisation())


def test_optimisers_by_name():
    assert isinstance(build_optimiser(network(), Optimisation(optimiser="adam")), torch.optim.Adam)
    sgd = build_optimiser(network(), Optimisation(momentum=1e-4))
    assert {g["momentum"] for g in sgd.param_groups} == {1e-4}
    with pytest.raises(WeaksegError, match="lion"):
        build_optimiser(network(), Optimisation(optimiser="lion"))  # type: ignore[arg-type]


# --- a run ---


def test_fit_equals_a_loop_written_out(tmp_path):
    o = Optimisation(epochs=2, batch_size=5, lr=0.1, new_factor=3, momentum=0.9, weight_decay=1e-3, power=0.9)
    train(tmp_path, o, samples=view(10), augmentation=PLAIN)
    model = network()
    new = [model.head.weight, model.head.bias]
    old = [model.body.weight, model.body.bias]
    sgd = torch.optim.SGD([{"params": old}, {"params": new}], lr=0.1, momentum=0.9, weight_decay=1e-3)
    method, samples = Toy(), view(10)
    for step, batch in enumerate(MicroBatches(make_plan(o, 10), 0)):
        images = torch.stack([model.normalise(samples[i].image.as_subclass(torch.Tensor)) for _, i in batch])
        tags = torch.stack([samples[i].tags for _, i in batch]).float()
        lr = 0.1 * (1 - step / 4) ** 0.9
        sgd.param_groups[0]["lr"], sgd.param_groups[1]["lr"] = lr, 3 * lr
        logits = model(images)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, tags) + 1e-3 * logits.square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    assert method.needs
    assert_close(weights(tmp_path), dict(model.state_dict()), 1e-6)


def test_loss_falls_and_the_summary_and_log_say_so(tmp_path):
    model = network()
    summary = train(tmp_path, Optimisation(epochs=15, batch_size=4, lr=0.3, new_factor=1), model)
    assert summary.steps == 30
    assert summary.epochs == 15
    assert summary.losses_last["cls"] < 0.85 * summary.losses_first["cls"]
    assert not model.training
    log = lines(tmp_path)
    assert [line["step"] for line in log] == list(range(1, 31))
    assert log[0]["lr"] == pytest.approx(0.3)
    assert log[15]["lr"] == pytest.approx(0.3 * 0.5**0.9)
    assert log[-1]["epoch"] == 14
    assert set(log[0]["losses"]) == {"cls", "size"}
    assert summary.losses_last == log[-1]["losses"]
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_finished_run_is_loaded_not_repeated(tmp_path):
    summary = train(tmp_path)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    model = network(dropout=0.1)
    torch.nn.init.zeros_(model.head.weight)
    assert train(tmp_path, model=model) == summary
    assert_close(dict(model.state_dict()), weights(tmp_path), 0)
    assert not model.training
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(WeaksegError, match=r"norm\.weight is missing"):
        train(tmp_path, model=network(norm=True))


def test_loader_workers_change_nothing(tmp_path):
    for workers in (0, 2):
        train(tmp_path / str(workers), model=network(dropout=0.5), workers=workers)
    assert (tmp_path / "0/model.safetensors").read_bytes() == (tmp_path / "2/model.safetensors").read_bytes()


def test_the_callers_randomness_is_left_alone_and_does_not_matter(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(tmp_path / "a", model=network(dropout=0.5))
    assert torch.equal(torch.rand(3), expected)
    train(tmp_path / "b", model=network(dropout=0.5))
    train(tmp_path / "c", model=network(dropout=0.5), seed=1)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()


@pytest.mark.parametrize("accumulate", [2, 3, 9])
def test_accumulation_equals_the_big_batch(tmp_path, accumulate):
    options = {"epochs": 3, "batch_size": 5, "lr": 0.3, "new_factor": 1.0}
    train(tmp_path / "one", Optimisation(**options))
    train(tmp_path / "parts", Optimisation(**options, accumulate=accumulate))
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "parts"), 1e-6)
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "parts"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-6)


def test_phases_and_kept_epochs(tmp_path):
    summary = train(tmp_path, Optimisation(phases=((1, 5), (2, 2)), keep_epochs=True))
    assert summary.steps == 2 + 5 + 5
    assert sorted(p.name for p in tmp_path.glob("epoch-*")) == [f"epoch-{k}.safetensors" for k in (1, 2, 3)]
    assert_close(weights(tmp_path, "epoch-3.safetensors"), weights(tmp_path), 0)
    first = train(tmp_path / "one", Optimisation(epochs=1, batch_size=5, horizon=12))
    assert first.steps == 2
    assert_close(weights(tmp_path, "epoch-1.safetensors"), weights(tmp_path / "one"), 0)


def test_weights_are_kept_after_every_so_many_steps(tmp_path):
    """AEFT chooses its AffinityNet among those of every 200 steps (methods.md 9.5)."""
    train(tmp_path, Optimisation(epochs=4, batch_size=5, keep_steps=3))  # eight steps of two an epoch
    assert sorted(p.name for p in tmp_path.glob("*-*.safetensors")) == ["step-3.safetensors", "step-6.safetensors"]
    train(tmp_path / "short", Optimisation(batch_size=5, iterations=6, horizon=8))
    assert_close(weights(tmp_path, "step-6.safetensors"), weights(tmp_path / "short"), 0)
    plain, asked = Optimisation(), Optimisation(keep_steps=200)
    assert "keep_steps" not in deciding_constants(plain)  # older runs stay done
    assert deciding_constants(asked)["keep_steps"] == 200


def test_bf16_reaches_the_network_and_the_losses_stay_float32(tmp_path):
    model, seen = network(), set()

    class Spy(Toy):
        def objective(self, model, batch, step):
            logits = model(batch.images)
            seen.update({logits.dtype, (logits.detach().T @ batch.tags).dtype})
            return super().objective(model, batch, step)

    fit(Spy(), model, view(), tmp_path, device="cpu", workers=0, progress=False, precision="bf16")
    assert model.dtypes == {torch.bfloat16}
    assert seen == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert "forward" not in vars(model)
    train(tmp_path / "next")  # another precision in the same process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16"}, "needs a CUDA GPU"),
        ({"precision": "half"}, "use no, bf16 or fp16"),
        ({"samples": view(8, broken="p4")}, "p4: the photograph is truncated"),
        ({"samples": view(8, broken="p4"), "workers": 2}, "p4: the photograph is truncated"),
    ],
)
def test_bad_input_is_told_in_a_sentence(tmp_path, options, message):
    with pytest.raises(WeaksegError, match=message) as error:
        train(tmp_path, **options)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_do_not_fit_together_are_told_in_a_sentence(workers):
    def collate(items):
        raise WeaksegError("p1 has no saliency map")

    sampler = MicroBatches(make_plan(Optimisation(batch_size=2), 2), 0)
    with pytest.raises(WeaksegError, match=r"^p1 has no saliency map$"):
        next(load_batches(view(2), lambda sample, epoch: sample, collate, sampler, workers))


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for bad in ("gpu", "cpu:1", "cuda:x", "mps:0"):
        with pytest.raises(WeaksegError, match="is unknown"):
            resolve_device(bad)
    with pytest.raises(WeaksegError, match="is not available"):
        resolve_device("cuda:99")


def test_tensorboard_has_the_same_numbers(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, tensorboard=True)
    read = events.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [e.value for e in read.Scalars("loss/cls")] == pytest.approx([i["losses"]["cls"] for i in lines(tmp_path)])


# --- guards and resume ---


def test_a_loss_that_is_not_finite_is_named_and_the_checkpoint_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_NAN_AT", "3")
    with pytest.raises(WeaksegError, match=r'the loss "cls" became nan at step 3 \(epoch 1.*learning rate is too high'):
        train(tmp_path, checkpoint_seconds=0)
    assert not (tmp_path / "model.safetensors").exists()
    kept = read_tensors(tmp_path / "checkpoint.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    monkeypatch.delenv("TOY_NAN_AT")
    train(tmp_path)
    train(tmp_path / "undisturbed")
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "undisturbed/model.safetensors").read_bytes()


def test_a_gradient_that_is_not_finite_is_named(tmp_path):
    class Kink(Toy):
        def objective(self, model, batch, step):
            zero = (model.head.bias * 0).sum()
            return {"cls": zero.sqrt() if step.index == 1 else model(batch.images).sum()}

    with pytest.raises(WeaksegError, match=r"the gradient of head\.bias became nan at step 1"):
        fit(Kink(), network(), view(), tmp_path, device="cpu", workers=0, progress=False)


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_NAN_AT", "3")
    with pytest.raises(WeaksegError, match="nan"):
        train(tmp_path, checkpoint_seconds=0)
    with pytest.raises(WeaksegError, match=r"another configuration \(optimisation, optimisation.lr changed\)"):
        train(tmp_path, Optimisation(epochs=2, batch_size=4, lr=0.01))
    with pytest.raises(WeaksegError, match=r"\(seed changed\)"):
        train(tmp_path, seed=1)
    with pytest.raises(WeaksegError, match=r"\(ids changed\)"):
        train(tmp_path, samples=view(9))


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def run_script(out, options, **more):
    command = [sys.executable, str(SCRIPT), str(out), json.dumps(options)]
    return subprocess.run(command, env=environment(**more), timeout=120, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path, optimiser):
    options = {
        "optimisation": {
            "epochs": 4,
            "batch_size": 3,
            "lr": 0.02,
            "optimiser": optimiser,
            "accumulate": 2,
            "warmup": 9,
        },
        "network": {"dropout": 0.3, "norm": True},
        "workers": 2,
        "count": 14,
    }
    assert run_script(tmp_path / "whole", options).returncode == 0
    out = tmp_path / "killed"
    for kill_at, seconds in (("2", 1000), ("6", 0), ("9", 1000)):  # before any checkpoint, within an epoch, after one
        killed = run_script(out, {**options, "checkpoint_seconds": seconds}, TOY_KILL_AT=kill_at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (out / "model.safetensors").exists()
        with (out / "log.jsonl").open("a") as log:
            log.write('{"step": 11, "torn')
    done = run_script(out, options)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    drop = ("images_per_second", "seconds")
    a, b = ([{k: v for k, v in line.items() if k not in drop} for line in lines(f)] for f in (out, tmp_path / "whole"))
    assert a == b
    assert not list(out.glob(".*"))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(tmp_path, accumulate):
    """Batches of 5 do not divide by 2: processes get 3 and 2 photographs and must still give the mean over 5."""
    optimisation = {"epochs": 3, "batch_size": 5, "lr": 0.3, "new_factor": 1.0, "accumulate": accumulate}
    train(tmp_path / "one", Optimisation(**{**optimisation, "accumulate": 1}))
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    options = json.dumps({"optimisation": optimisation, "workers": 0})
    command = [*launcher, str(SCRIPT), str(tmp_path / "two"), options]
    done = subprocess.run(command, env=environment(), timeout=180, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), 1e-6)
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-6)

"""Training: it learns, it goes on where it was killed, and its settings are checked."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment.batches import batch_of, picture_of
from probeloop.plugins.segment.commands import train
from probeloop.plugins.segment.curves import curves
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.schedule import Training, rate_at, stages
from probeloop.plugins.segment.training import Trainer
from probeloop.plugins.segment.weights import SHIPPED, Card, load, save

from probeloop.api import DropInError, SettingsError
from probeloop.cli import main

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")
pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")

TINY: dict[str, Any] = {"filters": 4, "members": 2, "cycles": 6, "member_cycles": 3, "batch": 2, "crop": 32,
                        "held_out": 8, "simulated": 0.0, "again_cycles": 0}  # fmt: skip


def said(_: str) -> None:
    """Say nothing."""


def run(folder: Path, **changes: Any) -> Trainer:
    trainer = Trainer(Training(**(TINY | changes)), folder, said)
    trainer.run()
    return trainer


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns(tmp_path: Path) -> None:
    trainer = run(tmp_path, cycles=50, member_cycles=1, members=1, batch=4, rate=1e-2)
    losses = trainer.losses[0]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.parametrize(("strategy", "count"), [("from_baseline", 3), ("from_scratch", 2), ("swag", 1)])
def test_members_differ_whatever_the_strategy(strategy: Any, count: int, tmp_path: Path) -> None:
    trainer = run(tmp_path, strategy=strategy)
    assert len(trainer.plan) == count
    assert len(trainer.members) == 2
    assert not same(trainer.members[0], trainer.members[1])
    for each in trainer.members:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in each.values())


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.plugins.segment import training

    whole = run(tmp_path / "whole", again_cycles=2)
    monkeypatch.setattr(training, "_KEEP_S", -1.0)  # after every cycle
    real, left = training._step, [4]

    def killed(*args: Any) -> float:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args)

    monkeypatch.setattr(training, "_step", killed)
    for cycles in (4, 4, 100):  # in the baseline, in a member, then to the end
        left[0] = cycles
        try:
            trainer = run(tmp_path / "parts", again_cycles=2)
        except KeyboardInterrupt:
            continue
    assert left[0] > 0
    assert all(same(one, other) for one, other in zip(whole.members, trainer.members, strict=True))
    assert trainer.losses == whole.losses


def test_a_training_begins_with_given_weights(tmp_path: Path) -> None:
    first = run(tmp_path / "a", members=1)
    save(tmp_path / "w.safetensors", first.members, Card(4, 1))
    start = str(tmp_path / "w.safetensors")
    given = run(tmp_path / "b", members=1, cycles=1, member_cycles=1, rate=1e-12, member_rate=1e-12, start=start)
    assert torch.allclose(given.members[0]["fuse.weight"], first.members[0]["fuse.weight"], atol=1e-4)
    with pytest.raises(DropInError, match="4 filters, the training 8"):
        run(tmp_path / "c", filters=8, start=start)


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(DropInError, match="other settings"):
        run(tmp_path, seed=5)
    assert run(tmp_path, makers=2, threads=2).members  # where it is learned makes it no other one
    (tmp_path / "checkpoint.safetensors").write_bytes(b"no")
    with pytest.raises(DropInError, match=r"corrupt.*delete it"):
        run(tmp_path)


def test_pictures_depend_on_seed_stage_and_cycle_alone() -> None:
    config = Training(**TINY)
    first, second = stages(config)[:2]
    one = batch_of(config, first, 3, [])
    assert all(np.array_equal(a, b) for a, b in zip(one, batch_of(config, first, 3, []), strict=True))
    elsewhere = batch_of(Training(**TINY, seed=1), first, 3, [])
    for other in (batch_of(config, first, 4, []), batch_of(config, second, 3, []), elsewhere):
        assert not np.array_equal(one[0], other[0])
    assert one[0].shape == one[1].shape == one[2].shape == (2, 1, 32, 32)


def test_makers_in_processes_make_the_same_pictures(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"cycles": 2, "members": 1, "member_cycles": 1, "simulated": 0.5, "specimens": 2}
    one, two = (run(tmp_path / str(makers), makers=makers, **changes) for makers in (1, 2))
    assert same(one.members[0], two.members[0])
    assert one.losses == two.losses


def test_a_batch_that_is_looked_at_again_is_flipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.plugins.segment import training

    shown: list[Any] = []
    real = training._step
    monkeypatch.setattr(training, "_step", lambda n, o, batch, b: shown.append(batch) or real(n, o, batch, b))
    trainer = run(tmp_path, cycles=1, members=1, member_cycles=1, looks=3)
    assert [len(each) for each in trainer.losses] == [1, 1]
    assert len(shown) == 6
    for first, second, third in zip(*shown[:3], strict=True):
        assert torch.equal(first.flip(3), second)
        assert torch.equal(first.flip(2), third)
        assert not torch.equal(first, second)


def test_a_gpu_that_is_not_there_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DropInError, match=r"no GPU that torch .* nvidia-smi"):
        run(tmp_path / "a", device="cuda")
    assert not (tmp_path / "a").exists()
    with pytest.raises(DropInError, match="no GPU"):
        Ensemble.from_file(SHIPPED, "cuda")


@pytest.mark.hardware
def test_a_real_gpu_learns_and_predicts_as_the_cpu(tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        trainer = run(tmp_path / device, device=device, cycles=60, members=1, batch=4, rate=1e-2, filters=8)
        losses[device] = trainer.losses[0]
        assert all(tensor.device.type == "cpu" for tensor in trainer.members[0].values())
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=0.02)
    assert np.mean(losses["cuda"][-10:]) == pytest.approx(np.mean(losses["cpu"][-10:]), rel=0.15)
    again = run(tmp_path / "cuda", device="cuda", cycles=60, members=1, batch=4, rate=1e-2, filters=8)
    assert again.losses[0] == losses["cuda"]
    values = lamellae(generator("calibration", 0, 1), 128).values
    here, there = (Ensemble.from_file(SHIPPED, device).predict(values, keep_each=True) for device in ("cpu", "cuda"))
    assert np.abs(here.mean - there.mean).max() < 0.05
    assert np.abs(here.mean - there.mean).mean() < 0.002
    assert there.frame == pytest.approx(here.frame, abs=0.05)


def test_members_draw_from_ranges_of_their_own() -> None:
    """The second member's is the noisy one: half of its pictures are noisier than any usual one."""
    config = Training(**(TINY | {"members": 2}))
    usual, noisy = (
        [picture_of(generator("training", 0, i), config, stage.own, []).snr for i in range(30)]
        for stage in stages(config)[1:]
    )
    assert min(usual) > 6.0
    assert 5 < sum(snr < 8.0 for snr in noisy) < 25


def test_threshold_and_scores_are_set_anew_without_training(tmp_path: Path) -> None:
    given, again = tmp_path / "w.safetensors", tmp_path / "again.safetensors"
    trained = run(tmp_path / "a", members=1, cycles=1, member_cycles=1)
    save(given, trained.members, Card(4, 1, trained={"seed": 4}))
    told = train({"calibrate": str(given), "held_out": 9, "out": str(again)})
    (one,), _ = load(given)
    (other,), card = load(again)
    assert same(one.state_dict(), other.state_dict())
    assert told["frames"] == card.trained["calibration"]["frames"] == 9
    assert card.trained["seed"] == told["seed"] == 4
    assert card.familiar is not None
    assert (card.threshold, card.weak) == (told["threshold"], told["weak"])
    assert not (tmp_path / "again.training").exists()


def test_the_rate_rises_and_falls() -> None:
    stage = stages(Training(**(TINY | {"cycles": 200})))[0]
    rates = [rate_at(stage, cycle) for cycle in range(200)]
    assert np.argmax(rates) in range(8, 12)
    assert max(rates) == pytest.approx(stage.rate)
    assert rates[-1] < 0.01 * stage.rate


def test_the_command_trains_and_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out = tmp_path / "t.toml", tmp_path / "w.safetensors"
    config.write_text("".join(f"{name} = {value}\n" for name, value in TINY.items()))
    monkey = ["train", "segment", str(config), "--seed", "4", "--out", str(out)]
    assert main(monkey) == 0
    told = capsys.readouterr()
    assert '"boundary_f1"' in told.out
    assert "baseline: 6/6" in told.err
    assert "left" in told.err
    members, card = load(out)
    assert len(members) == 2
    assert card.trained["seed"] == 4
    assert card.familiar is not None
    assert card.familiar.limit > 0
    assert (tmp_path / "w.training" / "curves.svg").read_text().startswith("<svg")


def test_wrong_settings_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="learning: a training has no such setting"):
        train({"learning": 1})
    with pytest.raises(SettingsError, match="filters"):
        train({"filters": 1000})
    (tmp_path / "t.toml").write_text("filters = ")
    assert main(["train", "segment", str(tmp_path / "t.toml")]) == 2
    assert main(["train", "segment", str(tmp_path / "nowhere.toml")]) == 2
    assert main(["train", "icom"]) == 2
    told = capsys.readouterr().err
    assert "can't read" in told
    assert "learns nothing" in told
    assert "Traceback" not in told


def test_curves_of_every_stage() -> None:
    made = curves(["baseline", "a<b"], [[0.7, 0.5, 0.3], [0.3, 0.2]])
    assert made.count("<polyline") == 2
    assert "a&lt;b" in made


@pytest.mark.bench
@pytest.mark.timeout(1500)
def test_quick_training_reaches_the_shipped_quality(tmp_path: Path) -> None:
    """On two cores, in 15 minutes and 3 GB; the figures within 0.05 of the shipped ensemble's."""
    from probeloop.plugins.segment.quality import quality

    out = tmp_path / "w.safetensors"
    began = time.monotonic()
    program = "import sys; from probeloop.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run(
        [sys.executable, "-c", program, "train", "segment", "--quick", "--out", str(out)], check=True, timeout=1400
    )
    assert time.monotonic() - began < 900
    import resource

    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3 * 2**20  # KiB
    fresh, shipped = quality(Ensemble.from_file(out), 1), quality(Ensemble.from_file(), 1)
    for name in ("boundary_f1_in", "frame_ood_auroc"):
        assert fresh[name] > shipped[name] - 0.05
    assert fresh["boundary_f1_ood"]["ensemble"] > shipped["boundary_f1_ood"]["ensemble"] - 0.05

"""The detectors' bench: it measures, it compares with whoever serves rounds, and it notices one wrong byte."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import emulated_gpu
import numpy as np
import pytest

from probeloop.bench import detectors, detectors_cuda, detectors_rival
from probeloop.bench.detectors import bench, measured, table
from probeloop.bench.detectors_task import CENTRE, Task, cold_frames
from probeloop.cli import main
from probeloop.compute import cuda
from probeloop.compute.kernels import VirtualDetectors
from probeloop.data.errors import ProbeloopError

FRAMES = 96


def silent(done: int, of: int) -> None:
    """Tell nobody."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be without LiberTEM."""
    monkeypatch.setattr(detectors_rival, "missing", lambda: "it is not here: get it")


def test_the_figures_and_their_table(alone: None) -> None:
    found = bench(0.1, frames=FRAMES)
    assert found["rounds"] >= 5
    assert found["fps"] > 0
    assert found["x_read_bandwidth"] > 0
    assert found["max_relative_error"] < 1e-14
    assert found["x_libertem_per_cpu_s"] is None
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    lines = table(found)
    assert "no LiberTEM: it is not here: get it" in lines
    assert "x_read_bandwidth" in lines
    assert "x_libertem_per_cpu_s" not in lines


@pytest.mark.parametrize("where", [(77, 128, 250), (64, 0, 0)], ids=["in the bright disc", "where no mask is"])
def test_a_flipped_byte_is_caught(where: tuple[int, int, int]) -> None:
    task = Task.of(FRAMES)
    task.frames.view(np.uint8)[where] ^= 128
    with pytest.raises(ProbeloopError, match=f"the bytes of frame {where[0]} are not those that were written"):
        measured(task, 0.0, None, silent)
    sums = np.hstack(VirtualDetectors(task.masks).sums_and_moments(task.frames, CENTRE))
    with pytest.raises(ProbeloopError, match=rf"me: [a-z ]+ of frame {where[0]} is \S+, should be"):
        task.check("me", sums, 1e-12)


def test_a_byte_that_flips_while_it_measures_is_caught() -> None:
    task = Task.of(FRAMES)

    def flip(done: int, of: int) -> None:
        if done == 3:
            task.frames[5, 100, 7] ^= 0x4000

    with pytest.raises(ProbeloopError, match="of frame 5 "):
        measured(task, 0.0, None, flip)


@pytest.mark.parametrize(("figure", "name"), list(enumerate(["bf", "adf", "total", "moment x", "moment y"])))
def test_a_wrong_kernel_is_caught(figure: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = VirtualDetectors.sums_and_moments

    def wrong(self: VirtualDetectors, *given: Any) -> Any:
        sums, moments = true(self, *given)
        (sums if figure < 2 else moments)[41, figure % 2 if figure < 2 else figure - 2] += 1
        return sums, moments

    monkeypatch.setattr(VirtualDetectors, "sums_and_moments", wrong)
    with pytest.raises(ProbeloopError, match=f"probeloop: {name} of frame 41 is"):
        measured(Task.of(FRAMES), 0.0, None, silent)


def test_a_sum_that_is_no_number_or_missing_is_caught() -> None:
    task = Task.of(4)
    found = task.expected.copy()
    assert task.check("me", found, 0.0) == 0.0
    found[2, 1] = np.nan
    with pytest.raises(ProbeloopError, match="me: adf of frame 2 is nan"):
        task.check("me", found, 1.0)
    with pytest.raises(ProbeloopError, match="me returned sums of shape"):
        task.check("me", found[:3], 1.0)


STAND_IN = """
    import json, sys, time
    from pathlib import Path
    import numpy as np
    if sys.argv[1] != "try":
        folder = Path(sys.argv[1])
        task = json.loads((folder / "task.json").read_text())
        data = np.concatenate([np.load(folder / "frames.npy")] * task["times"]).astype(float)
        y, x = np.mgrid[: data.shape[1], : data.shape[2]]
        weights = [*np.load(folder / "masks.npy"), x * 0 + 1, x - task["centre"][1], y - task["centre"][0]]
        print(json.dumps({"version": "0", "variants": ["slow"]}), flush=True)
        for line in sys.stdin:
            began = time.process_time()
            sums = np.stack([(data * weight).sum((1, 2)) for weight in weights], -1)
            FAULT
            np.save(folder / "slow.npy", sums)
            print(json.dumps({"cpu_s": time.process_time() - began, "wall_s": 1.0}), flush=True)
"""


@pytest.fixture
def rival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a script of ours serve the rival's rounds, with a fault in it."""

    def with_fault(fault: str) -> None:
        script = tmp_path / "rival.py"
        script.write_text(textwrap.dedent(STAND_IN).replace("FAULT", fault))
        monkeypatch.setattr(detectors_rival.missing, "__defaults__", (script,))
        monkeypatch.setattr(detectors_rival.LiberTEM.__init__, "__defaults__", (script,))

    return with_fault


def test_the_ratio_is_of_the_same_frames(rival: Any) -> None:
    rival("pass")
    found = bench(0.1, frames=64)
    assert found["x_libertem_per_cpu_s"] > 1
    assert found["contestants"]["slow"]["max_relative_error"] < 1e-12
    assert "x_libertem_per_cpu_s" in table(found)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("sums[3, 0] *= 1.001", "LiberTEM slow: bf of frame 3 is"),
        ("raise ArithmeticError('out of luck')", "LiberTEM does not answer: ArithmeticError: out of luck"),
    ],
)
def test_a_rival_that_is_wrong_or_dies_is_one_line(fault: str, words: str, rival: Any) -> None:
    rival(fault)
    with pytest.raises(ProbeloopError, match=words):
        bench(0.1, frames=64)


def test_a_rival_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    assert "run this from a checkout" in detectors_rival.missing(tmp_path / "no.py")
    (tmp_path / "no.py").write_text("import libertem_that_nobody_has\n")
    why = detectors_rival.missing(tmp_path / "no.py")
    assert why.startswith("ModuleNotFoundError: No module named 'libertem_that_nobody_has'")
    assert why.endswith("pip install -c constraints.txt -e '.[bench]'")
    assert detectors_rival.SCRIPT.exists()


def test_the_command_prints_json_and_a_missing_gpu_is_one_line(
    alone: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(detectors, "cold_frames", lambda: 64)
    assert main(["bench", "detectors", "--seconds", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"fps", "x_libertem_per_cpu_s", "x_read_bandwidth", "max_relative_error"} <= set(found)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["bench", "detectors", "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "no GPU" in said.err


def test_there_is_memory_enough_or_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1024)
    with pytest.raises(ProbeloopError, match="1 MiB of memory are free, frames beyond the cache"):
        cold_frames()


def test_the_bench_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda._kernel.cache_clear()
    emulated_gpu.put_in_place(tmp_path, monkeypatch)
    found = detectors_cuda.measure(Task.of(4), 0.0, least_bytes=1 << 20)
    assert found["gpu_max_relative_error"] < 1e-12
    assert min(found["gpu_fps"], found["gb_s"], found["gpu_memory_gb_s"], found["x_memory_bandwidth"]) > 0
    monkeypatch.setattr(cuda, "_KERNEL", cuda._KERNEL.replace("down += (Wide)top", "down += (Wide)1"))
    cuda._kernel.cache_clear()
    with pytest.raises(ProbeloopError, match="probeloop on the GPU: moment y of frame"):
        detectors_cuda.measure(Task.of(4), 0.0, least_bytes=1 << 20)
    cuda._kernel.cache_clear()


@pytest.mark.bench
def test_libertem_itself_is_served_and_right() -> None:
    why = detectors_rival.missing()
    if why:
        pytest.skip(why)
    found = bench(2.0)
    assert found["x_libertem_per_cpu_s"] >= 3
    assert found["x_read_bandwidth"] >= 0.25

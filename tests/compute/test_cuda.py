"""The GPU's code where there is no GPU: its kernels compiled for the CPU, its order of work, and how it says no."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import emulated_gpu
import numpy as np
import pytest

from probeloop.compute import cuda
from probeloop.compute.backend import array_module
from probeloop.compute.kernels import VirtualDetectors
from probeloop.data.errors import DropInError


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put the stand-in where cupy is looked for."""
    cuda._kernel.cache_clear()
    yield emulated_gpu.put_in_place(tmp_path, monkeypatch)
    cuda._kernel.cache_clear()


def compared(dtype: str, shape: tuple[int, int], count: int) -> None:
    rng, kind = np.random.default_rng(3), np.dtype(dtype)
    if kind.kind in "ui":
        info = np.iinfo(kind)
        data = rng.integers(info.min, info.max, (count, *shape), kind, endpoint=True)
    else:
        data = (rng.standard_normal((count, *shape)) * 100).astype(kind)
    masks = rng.random((3, *shape)) < 0.4
    masks[2, : shape[0] // 2] = False
    here, there = VirtualDetectors(masks), VirtualDetectors(masks, "cuda")
    sums, moments = there.sums_and_moments(data, (1.5, 2.25))
    expected, expected_moments = here.sums_and_moments(data, (1.5, 2.25))
    scale = np.abs(data.astype(np.float64)).sum() * 1e-14
    exact = kind.kind in "ui" and kind.itemsize <= 4
    np.testing.assert_allclose(sums, expected, rtol=0, atol=0 if exact else scale)
    np.testing.assert_allclose(moments, expected_moments, rtol=0, atol=0 if exact else scale * max(shape))
    np.testing.assert_allclose(there.sums(data), expected, rtol=0, atol=0 if exact else scale)


@pytest.mark.parametrize("shape", [(20, 256), (33, 47)], ids=["many pixels a thread", "one, and an edge"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8"])
def test_the_kernels_sum_as_those_of_the_cpu(gpu: Any, dtype: str, shape: tuple[int, int]) -> None:
    assert cuda.packed(np.dtype(dtype), shape[1]) == (1 if shape[1] == 47 else 16 // np.dtype(dtype).itemsize)
    compared(dtype, shape, 3)


def test_batches_overlap_and_no_buffer_is_used_too_early(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_BATCH_BYTES", 2 * 20 * 256 * 2)
    compared("u2", (20, 256), 13)  # seven batches of two frames, the last of one
    assert gpu.most_waiting == 3
    assert gpu.orders == {("copy in", "kernel", "copy out")}
    assert all(not stream.waiting for stream in gpu.streams)


def test_the_brightest_pixels_run_over_nothing(gpu: Any) -> None:
    data = np.full((1, 3, 11552), 65535, np.uint16)
    masks = np.ones((1, 3, 11552))
    sums, moments = VirtualDetectors(masks, "cuda").sums_and_moments(data, (0.0, 0.0))
    assert sums.tolist() == [[65535.0 * 3 * 11552]]
    assert moments.tolist() == [[65535.0 * 3 * 11552, 65535.0 * 3 * (11552 * 11551 // 2), 65535.0 * 3 * 11552]]


def test_another_shape_and_no_frames_at_all(gpu: Any) -> None:
    compared("u2", (20, 64), 0)
    detectors = VirtualDetectors(np.ones((1, 8, 40)), "cuda")
    for count in (1, 5, 2):
        assert detectors.sums(np.ones((count, 8, 40), np.uint8)).tolist() == [[320.0]] * count


def test_a_wrong_kernel_is_found(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_KERNEL", cuda._KERNEL.replace("pack.quad[q], ones", "pack.quad[0], ones"))
    with pytest.raises(AssertionError):
        compared("u2", (20, 256), 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 10])
def test_a_slot_is_finished_before_it_starts_again(count: int) -> None:
    told: list[tuple[str, int, int, int]] = []
    cuda.overlapped(
        count, 2, 3, lambda *batch: told.append(("start", *batch)), lambda *batch: told.append(("finish", *batch))
    )
    started = [each[1:] for each in told if each[0] == "start"]
    assert [each[1:] for each in told if each[0] == "finish"] == started
    assert [first for _, first, _ in started] == list(range(0, count, 2))
    assert not started or started[-1][2] == count
    busy: set[int] = set()
    for what, slot, _, _ in told:
        assert (slot in busy) == (what == "finish")
        busy ^= {slot}
        assert len(busy) <= 3
    if count > 6:
        assert [what for what, *_ in told[:5]] == ["start", "start", "start", "finish", "start"]


def failing(error: Exception | None, count: int = 0) -> types.ModuleType:
    module = types.ModuleType("cupy")

    def devices() -> int:
        if error is not None:
            raise error
        return count

    runtime = types.SimpleNamespace(getDeviceCount=devices)
    module.cuda = types.SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "pip install 'probeloop\\[cuda\\]'"),
        (
            failing(RuntimeError("cudaErrorInsufficientDriver: too old\nmore")),
            "cudaErrorInsufficientDriver: too old. ",
        ),
        (failing(None, 0), "the driver sees none"),
        (failing(RuntimeError("\n====\n  CuPy failed to load libnvrtc\n====\n")), "no GPU: CuPy failed to load"),
    ],
)
def test_a_missing_gpu_is_one_line(
    module: types.ModuleType | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(DropInError, match=words) as caught:
        VirtualDetectors(np.ones((1, 4, 4)), "cuda")
    assert "\n" not in str(caught.value)
    assert array_module() is np


@pytest.mark.hardware
def test_a_real_gpu_sums_as_the_cpu() -> None:
    pytest.importorskip("cupy", reason="no cupy: pip install 'probeloop[cuda]'")
    for dtype in ("u1", "u2", "u4", "f4"):
        for shape in ((256, 256), (33, 47)):
            compared(dtype, shape, 200)

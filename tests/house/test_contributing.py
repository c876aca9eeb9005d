"""The plug-in that CONTRIBUTING.md shows is a plug-in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.data.frame import FrameBlock, FrameBuffer, block_bytes
from probeloop.data.settings import convert, unbounded_floats
from probeloop.discover import load_path

ROOT = Path(__file__).parents[2]
CAMERA = StreamSpec("camera", "frames", "<u2", nav=(Axis("y", 2), Axis("x", 3)), sig=(Axis("ky", 4), Axis("kx", 4)))


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    (source,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    path = tmp_path / "signal_to_noise.py"
    path.write_text(source)
    (found,) = load_path(path)
    return found


@pytest.mark.parametrize("count", [0, 1, 6])
def test_it_is_the_naive_numpy_line(plugin: Any, count: int) -> None:
    memory = np.zeros(block_bytes(CAMERA, count), np.uint8)
    buffer = FrameBuffer.over(memory, CAMERA, count)
    frames = np.random.default_rng(1).poisson(5, (count, 4, 4))
    buffer.data[:] = frames
    buffer.seal(count, index=0, generation=1)
    spec = plugin().outputs(CAMERA)["snr"]
    made = plugin(plugin.Parameters(background=3.0)).process(FrameBlock.parse(memory, CAMERA))["snr"]
    naive = [max(f.sum() - 3, 0) / max(f.sum() + 3, 1) ** 0.5 for f in frames]
    assert made.shape == (count, *spec.frame_shape)
    assert made.dtype == spec.numpy_dtype
    np.testing.assert_allclose(made, naive, rtol=1e-6)


def test_its_parameters_are_bounded_and_checked(plugin: Any) -> None:
    assert unbounded_floats(plugin.Parameters) == []
    with pytest.raises(SettingsError, match="low must be smaller than high"):
        convert(plugin.Parameters, {"low": 5.0, "high": 5.0})

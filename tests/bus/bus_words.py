"""Specs and small actions that the tests of this room share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from probeloop.bus.publish import Publisher
from probeloop.data.axes import Axis, StreamSpec

CHILD = Path(__file__).with_name("child.py")
Spawn = Callable[..., "subprocess.Popen[str]"]


def frames(side: int = 8, dtype: str = "<u2", name: str = "camera") -> StreamSpec:
    """A 4D stream of side x side frames."""
    return StreamSpec(
        name, "frames", dtype, nav=(Axis("y", 4), Axis("x", 4)), sig=(Axis("ky", side), Axis("kx", side))
    )


def send(publisher: Publisher, value: int, count: int = 1, generation: int = 1, capacity: int | None = None) -> int:
    """Send a block whose pixels are all `value`; return its index."""
    buffer = publisher.loan(capacity or count)
    buffer.data[:] = value
    return publisher.send(buffer, count, generation=generation)

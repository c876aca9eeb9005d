"""What the simulated scanning probe microscope offers to the command line's benches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probeloop.api import Approach, Clock, FrameBuffer, MonotonicClock, Region, Scan, SetDrive

from .instrument import SpmSimulator
from .settings import SpmSettings

_SHAPE, _DWELL = (512, 256), 1e-3
_LEAST = 3000.0  # lines a second


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure `lines_per_second`; options: seconds (None = 5). ok: 3,000 lines a second or more."""
    found = spm_lines_per_second(float(options.get("seconds") or 5.0))
    return {"lines_per_second": found, "pixels_a_line": _SHAPE[1], "ok": found >= _LEAST}


def spm_lines_per_second(seconds: float = 3.0, clock: Clock | None = None) -> float:
    """Return how many lines a second an unlimited scan makes: 256 pixels at 1 ms, forth and back, all channels.

    Every line is a fresh one, on another place and with other noise. seconds: to measure for, warm-up aside.
    """
    clock = clock or MonotonicClock()
    spm = SpmSimulator(SpmSettings(pace="unlimited"))
    try:
        spm.approach(Approach())
        spm.set_drive(SetDrive(amplitude=1.0))
        (x0, y0), (x1, y1) = spm.describe().limits.region
        scan = Scan(Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), _SHAPE, _DWELL, frames=1000)
        acquisition = spm.scan(scan)
        frames, buffer = acquisition.frames, FrameBuffer.allocate(acquisition.spec, _SHAPE[1])
        next(frames)
        for _ in range(8):
            frames.send(buffer)
        lines, began = 0, clock.now_ns()
        while (took := clock.now_ns() - began) < seconds * 1e9:
            frames.send(buffer)
            lines += 1
        frames.close()
        return lines / (took * 1e-9)
    finally:
        spm.close()

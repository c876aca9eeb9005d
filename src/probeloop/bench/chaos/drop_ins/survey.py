"""What runs while faults are injected: one small scan after another, and a plan that hangs its whole process."""

from __future__ import annotations

import ctypes
from typing import Annotated

import msgspec

from probeloop.api import Plan, PlanContext, PlanSteps, Region, Scan, Settings, Submit, Unblank

_AREA = Region(0.0, 0.0, 1e-9, 1e-9)
_DWELL = 0.25e-3  # [s]: 4,000 frames/s


class Survey(Plan):
    """Scans until somebody ends it."""

    class Parameters(Settings):
        """scans: how many at most; shape: of each."""

        scans: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100_000
        shape: tuple[int, int] = (32, 64)

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Scan, and scan again."""
        yield Unblank()
        for _ in range(self.parameters.scans):
            yield Scan(_AREA, self.parameters.shape, _DWELL)
        return {"succeeded": True, "message": "scanned"}


class Hold(Plan):
    """Begins a scan of a minute and then keeps Python's lock, so that no thread of its process runs any more."""

    class Parameters(Settings):
        """seconds: for how long."""

        seconds: Annotated[int, msgspec.Meta(ge=1, le=60)] = 6

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Hang in the middle of a scan; what it commands afterwards must be refused."""
        yield Unblank()
        yield Submit(Scan(_AREA, (480, 500), _DWELL))
        ctypes.PyDLL(None).sleep(self.parameters.seconds)
        yield Unblank()
        return {"succeeded": False, "message": "nobody noticed"}

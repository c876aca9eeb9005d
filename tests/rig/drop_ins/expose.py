"""A plan that leaves nothing safe: beam on, tip engaged, bias up, and scans of 40 s."""

from __future__ import annotations

from probeloop.api import Approach, Plan, PlanContext, PlanSteps, Region, Scan, SetBias, Unblank


class Expose(Plan):
    """Beam, tip and bias on, then scan for minutes."""

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Leave the safe state, and scan."""
        yield Unblank()
        yield SetBias(0.5)
        yield Approach()
        for _ in range(10):
            yield Scan(Region(50e-9, 50e-9, 80e-9, 80e-9), (128, 128), 2.5e-3)
        return {"succeeded": True, "message": "scanned"}

"""A plan that tells the gate how far the specimen has moved."""

from __future__ import annotations

from typing import Any

from probeloop.data.errors import RefusedError
from probeloop.plugin.contract import Plan, PlanContext, PlanSteps, Register


class Tells(Plan):
    """Registers well, then poorly."""

    def run(self, ctx: PlanContext) -> PlanSteps:
        nothing = yield Register((1e-9, -2e-9), 3e-10, 4.0)
        try:
            yield Register((0.0, 0.0), 3e-10, 1.1)
        except RefusedError as error:
            return {"succeeded": True, "message": "", "limit": error.limit, "answer": nothing}
        return {"succeeded": False, "message": "a poor registration was taken"}


def test_the_gate_is_told_and_the_plan_hears_of_a_poor_registration(rig: Any) -> None:
    summary = rig.run(Tells)
    assert (summary["limit"], summary["answer"]) == ("peak_ratio", None)
    assert rig.registered == [((1e-9, -2e-9), 3e-10, 4.0)]

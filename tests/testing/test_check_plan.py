"""check_plan and check_policy find what is wrong, and nothing where nothing is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from probeloop.data.commands import MoveProbe
from probeloop.data.errors import RefusedError
from probeloop.discover import load_class
from probeloop.plugin.contract import Checkpoint, Plan, PlanContext, PlanSteps, Policy
from probeloop.testing.check_plan import check_plan
from probeloop.testing.check_policy import check_policy

DONE = {"succeeded": True, "message": ""}
_calls = 0


def a_plan(steps: Callable[[PlanContext], PlanSteps]) -> type[Plan]:
    class Made(Plan):
        def run(self, ctx: PlanContext) -> PlanSteps:
            return steps(ctx)

    return Made


def moves(x: Callable[[PlanContext], float]) -> type[Plan]:
    def steps(ctx: PlanContext) -> PlanSteps:
        for _ in range(5):
            yield MoveProbe((x(ctx), 0.0))
        return DONE

    return a_plan(steps)


def global_counter(ctx: PlanContext) -> float:
    global _calls
    _calls += 1
    return _calls * 1e-9


@pytest.mark.parametrize("name", ["explore", "overview", "zoom"])
def test_the_shipped_plans_keep_their_contract(name: str) -> None:
    plan = load_class(name, "Plan")
    parameters = plan.Parameters(order="hill_climb", count=12, shape=(20, 20)) if name == "explore" else None
    assert check_plan(plan, parameters) == []


@pytest.mark.parametrize("name", ["raster", "random", "hill_climb"])
def test_the_shipped_policies_keep_their_contract(name: str) -> None:
    assert check_policy(load_class(name, "Policy")) == []


def test_chance_from_ctx_is_fine() -> None:
    assert check_plan(moves(lambda ctx: float(ctx.rng.uniform(0, 1e-7)))) == []


@pytest.mark.parametrize(
    "x",
    [
        lambda ctx: time.time() % 1e-7,
        lambda ctx: time.time() // 3600 * 1e-12,
        lambda ctx: time.monotonic_ns() * 1e-22,
        lambda ctx: random.random() * 1e-7,
        lambda ctx: np.random.random() * 1e-7,  # noqa: NPY002
        lambda ctx: float(np.random.default_rng().random()) * 1e-7,
        global_counter,
    ],
    ids=["clock", "hour", "monotonic", "random", "numpy", "unseeded", "global"],
)
def test_what_is_not_deterministic_is_found(x: Callable[[PlanContext], float]) -> None:
    (fault,) = check_plan(moves(x))
    assert "it looks at a clock, at chance other than ctx.rng, or at something global" in fault


@pytest.mark.parametrize("bad", [None, 42, "Scan", {"type": "Scan"}, b"bytes"])
def test_garbage_is_found(bad: Any) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        yield Checkpoint(0.0)
        yield bad
        return DONE

    (fault,) = check_plan(a_plan(steps))
    assert "which is no step" in fault


def test_a_plan_without_end_is_found() -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        while True:
            yield Checkpoint(0.0)

    assert "it goes on after 5000 steps" in check_plan(a_plan(steps))[0]


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (None, "not a summary"),
        ({"succeeded": True}, "no 'message'"),
        ({"succeeded": 1, "message": ""}, "no 'succeeded'"),
        ({**DONE, "map": object()}, "no plain data"),
    ],
)
def test_a_summary_that_is_none_is_found(summary: Any, words: str) -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        yield Checkpoint(1.0)
        return summary

    assert words in "; ".join(check_plan(a_plan(steps)))


def test_a_plan_that_breaks_when_it_is_stopped_is_found() -> None:
    def steps(ctx: PlanContext) -> PlanSteps:
        found: list[int] = []
        try:
            yield MoveProbe((0.0, 0.0))
        except RefusedError:
            return DONE | {"first": found[0]}
        return DONE

    assert "stopped at its first step it raises IndexError" in check_plan(a_plan(steps))[0]


class Bad(Policy):
    """Suggests what `how` says."""

    how = ""

    def context_images(self, candidates: Any, shape: Any, images: Any) -> None:
        self._left = [tuple(place) for place in candidates.tolist()]

    def suggest(self, n: int) -> Sequence[Any]:
        if self.how == "twice":
            return self._left[:1]
        if self.how == "strange":
            return [(7.0, 7.0)]
        if self.how == "many":
            return self._left[: n + 1]
        if self.how == "chance":
            random.shuffle(self._left)
        inside = [place for place in self._left if self.pinned is None or self.pinned.holds([place])[0]]
        taken = inside[:n]
        self._left = [place for place in self._left if place not in taken]
        return taken


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("twice", "a second time"),
        ("strange", "no candidate"),
        ("many", "2 places where 1"),
        ("chance", "same seed"),
        ("", ""),
    ],
)
def test_a_bad_policy_is_found(how: str, words: str) -> None:
    faults = check_policy(type("Made", (Bad,), {"how": how}))
    assert (words in "; ".join(faults)) if words else faults == []

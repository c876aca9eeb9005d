"""The Ronchigram's plan: off focus, at rest, and back to focus whatever happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore.ronchigram import Ronchigram

from probeloop.api import (
    Annotate,
    Limits,
    PlanContext,
    RefusedError,
    Result,
    Scan,
    SetAberrations,
    Unblank,
)
from probeloop.data.driver import InstrumentInfo
from probeloop.testing.check_plan import check_plan

INFO = InstrumentInfo(
    name="column", modality="stem", origin="simulation", commands=("Scan", "Unblank", "SetAberrations"),
    limits=Limits(region=((-1e-8, -1e-8), (1e-8, 1e-8)), dwell_time=(1e-6, 1.0), knobs={"C10": (-1e-6, 1e-6)}),
)  # fmt: skip


def played(info: InstrumentInfo = INFO, refuse: tuple[type, ...] = ()) -> tuple[list[Any], dict[str, Any]]:
    """Answer every step of the plan; return the commands, and what it says at the end."""
    context = PlanContext(np.random.default_rng(0), info, lambda name, parameters: None)  # type: ignore[arg-type, return-value]
    steps = Ronchigram(Ronchigram.Parameters(x=1.0, defocus=-150.0)).run(context)
    taken, answer = [], None
    try:
        step = next(steps)
        while True:
            taken.append(step)
            if isinstance(step, refuse):
                step = steps.throw(RefusedError("the dose is spent", "dose", "none"))
                continue
            answer = Result(generation=7) if isinstance(step, Scan) else Result()
            step = steps.send(answer)
    except StopIteration as end:
        return taken, end.value


def test_it_defocuses_exposes_at_one_place_and_focuses_again() -> None:
    taken, said = played()
    assert [type(step) for step in taken[:5]] == [Unblank, SetAberrations, Annotate, Scan, SetAberrations]
    assert taken[1].values == {"C10": pytest.approx(-150e-9)}
    assert taken[4].values == {"C10": pytest.approx(150e-9)}
    assert not taken[4].absolute
    places = taken[3].region.positions(taken[3].shape)
    assert np.ptp(places, axis=0).max() < 1e-12
    assert places.mean(axis=0) == pytest.approx([1e-9, 0.0])
    assert (said["succeeded"], said["generation"]) == (True, 7)


def test_a_refused_exposure_leaves_the_lens_as_it_was() -> None:
    taken, said = played(refuse=(Scan,))
    assert sum(step.values["C10"] for step in taken if isinstance(step, SetAberrations)) == pytest.approx(0.0)
    assert not said["succeeded"]
    assert "the dose is spent" in said["message"]


def test_a_refused_lens_or_none_is_said() -> None:
    taken, said = played(refuse=(SetAberrations,))
    assert not any(isinstance(step, Scan) for step in taken)
    assert "can't be defocused" in said["message"]
    bare = InstrumentInfo(name="b", modality="stem", origin="simulation", commands=("Scan",), limits=INFO.limits)
    assert "no knob C10" in played(bare)[1]["message"]


def test_it_keeps_the_contract_of_a_plan() -> None:
    assert check_plan(Ronchigram) == []

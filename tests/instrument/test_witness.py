"""What a simulator says is true is kept by name; one that fails is told once and disturbs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probeloop.data.axes import StreamSpec
from probeloop.data.driver import Acquisition
from probeloop.instrument.pump import Delivery
from probeloop.instrument.witness import Witness
from probeloop.testing.fake_driver import FakeDriver


class Knowing(FakeDriver):
    def truth(self) -> dict[str, Any]:
        return {"C10": 1e-9}


def acquisition(truth: Any) -> Acquisition:
    return Acquisition("camera", StreamSpec("camera", "frames"), iter(()), truth=truth)  # type: ignore[arg-type]


def test_it_keeps_what_is_said_of_the_whole_and_of_each_generation() -> None:
    kept: dict[str, Mapping[str, Any]] = {}
    witness = Witness(Knowing(), kept.__setitem__, lambda remark: None)
    delivery = Delivery(count=3)
    witness.look("start")
    assert witness.after(delivery, acquisition(lambda: {"time_ns": 1}), 7) is delivery
    assert witness.after(delivery, acquisition(None), 8) is delivery
    assert kept == {"start": {"C10": 1e-9}, "7": {"time_ns": 1}}


def test_a_failure_is_told_once_and_a_real_instrument_is_not_asked() -> None:
    told: list[Any] = []

    def fails() -> dict[str, Any]:
        raise RuntimeError("no idea")

    witness = Witness(FakeDriver(), lambda name, values: None, told.append)
    witness.look("start")
    for number in (1, 2):
        witness.after(Delivery(), acquisition(fails), number)
    assert [remark.text for remark in told] == ["the simulator's truth is not kept: RuntimeError: no idea"]
    Witness(Knowing(), None, told.append).look("end")
    assert len(told) == 1

"""Calibrations: the newest that holds in this state, or none; never a silent 1."""

from __future__ import annotations

import msgspec
import pytest

from probeloop.data.calibration import Calibration, CalibrationSet
from probeloop.data.errors import CalibrationError

OLD = Calibration(id="a", kind="beam_current", value=(5e-11,), units="A", time="2024-01-01T00:00:00+00:00")
NEW = Calibration(id="b", kind="beam_current", value=(6e-11,), units="A", time="2025-01-01T00:00:00+00:00")
AT_200 = Calibration(
    id="c", kind="detector_scale", value=(1e-4, 1e-4), units="rad/px", time="2025-01-01T00:00:00+00:00",
    valid_for={"voltage": 200e3, "mode": "stem"},
)  # fmt: skip


def test_the_newest_wins_whatever_the_order() -> None:
    assert CalibrationSet((NEW, OLD)).find("beam_current") == NEW
    assert CalibrationSet((OLD, NEW)).find("beam_current") == NEW


def test_time_zones_are_minded_and_no_time_is_the_oldest() -> None:
    morning = msgspec.structs.replace(OLD, id="m", time="2025-06-01T08:00:00+09:00")
    midnight = msgspec.structs.replace(OLD, id="n", time="2025-06-01T00:30:00+00:00")
    undated = msgspec.structs.replace(OLD, id="u", time="")
    assert CalibrationSet((midnight, morning, undated)).find("beam_current") == midnight
    assert CalibrationSet((undated, OLD)).find("beam_current") == OLD


def test_one_of_another_state_does_not_count() -> None:
    known = CalibrationSet((AT_200,))
    assert known.find("detector_scale", {"voltage": 200e3, "mode": "stem"}) == AT_200
    assert known.find("detector_scale", {"voltage": 80e3, "mode": "stem"}) is None
    with pytest.raises(CalibrationError, match=r"annular_detector needs .*'detector_scale'.* another state"):
        known.require("detector_scale", "annular_detector", {"voltage": 80e3})


def test_what_is_absent_is_named_with_who_needs_it() -> None:
    assert CalibrationSet().find("zero_loss") is None
    with pytest.raises(CalibrationError, match="eels needs the calibration 'zero_loss', which is absent"):
        CalibrationSet().require("zero_loss", "eels")


def test_a_new_one_of_the_same_id_replaces() -> None:
    better = msgspec.structs.replace(OLD, value=(7e-11,))
    made = CalibrationSet((OLD, AT_200)).replace([better, NEW])
    assert made.ids == ("a", "c", "b")
    assert made.calibrations[0] == better


def test_it_survives_the_wire() -> None:
    known = CalibrationSet((OLD, NEW, AT_200))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(known), type=CalibrationSet) == known

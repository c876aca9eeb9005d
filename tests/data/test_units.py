"""Units: SI inside, spelled where a person writes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.errors import ProbeloopError
from probeloop.data.units import UNITS, convert, display, is_si, quantity, split_quantity, to_si


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("60 mrad", 0.06, "rad"),
        ("5 nm", 5e-9, "m"),
        ("5nm", 5e-9, "m"),
        ("-1.5e2 V", -150.0, "V"),
        (".5 Å", 5e-11, "m"),
        ("30 e/Å^2", 3e21, "e/m^2"),
        ("200 kV", 2e5, "V"),
        ("7", 7.0, ""),
        ("25 %", 0.25, ""),
        ("180 deg", math.pi, "rad"),
        ("1.5 MHz", 1.5e6, "Hz"),
        ("2 min", 120.0, "s"),
    ],
)
def test_a_spelled_quantity_becomes_si(text: str, value: float, unit: str) -> None:
    got, base = to_si(text)
    assert base == unit
    assert got == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "mrad", "5 furlong", "5 nm nm", "1,5 nm", "0x10 m", "nan m", "inf", "5 NM"])
def test_what_is_no_quantity_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ProbeloopError, match='write it like "60 mrad"'):
        split_quantity(text)


@pytest.mark.parametrize(("unit", "to"), [("nm", "mrad"), ("e/Å^2", "1/m"), ("eV", "V"), ("s", "Hz")])
def test_units_of_different_kinds_do_not_convert(unit: str, to: str) -> None:
    with pytest.raises(ProbeloopError, match="is not a unit of"):
        convert(1.0, unit, to)


@given(st.floats(-1e6, 1e6), st.sampled_from([u for u in UNITS if u]))
def test_there_and_back_is_the_same(value: float, unit: str) -> None:
    base = UNITS[unit][1]
    assert convert(convert(value, unit, base), base, unit) == pytest.approx(value, rel=1e-12, abs=1e-300)


def test_every_base_is_a_unit_itself() -> None:
    assert [base for _, base in UNITS.values() if not is_si(base)] == []
    assert not is_si("mrad")
    assert not is_si("parsec")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (2e-9, "m", "2 nm"),
        (0.06, "rad", "60 mrad"),
        (1.0, "m", "1 m"),
        (1e-3, "s", "1 ms"),
        (200e3, "V", "200 kV"),
        (3e21, "e/m^2", "30 e/Å²"),
        (0.0, "m", "0 m"),
        (None, "m", "uncalibrated"),
        (math.nan, "m", "nan m"),
        (-4e-10, "m", "-400 pm"),
        (999.6e-6, "s", "1 ms"),
        (12.5, "px", "12.5 px"),
    ],
)
def test_display(value: float | None, unit: str, text: str) -> None:
    assert display(value, unit) == text


@given(st.floats(1e-14, 1e8) | st.floats(-1e8, -1e-14), st.sampled_from(["m", "s", "rad", "V", "A", "Hz", "eV", "N"]))
def test_what_is_displayed_can_be_read_again(value: float, unit: str) -> None:
    again, base = to_si(display(value, unit, digits=6))
    assert base == unit
    assert again == pytest.approx(value, rel=2e-5)


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"ge": 0.0},
        {"le": 1.0},
        {"ge": 0.0, "le": math.inf},
        {"gt": -math.inf, "lt": 0.0},
        {"gt": math.nan, "lt": 0},
    ],
)
def test_a_quantity_needs_two_finite_bounds(bounds: dict[str, float]) -> None:
    with pytest.raises(ProbeloopError, match="two finite bounds"):
        quantity("m", **bounds)


def test_a_quantity_needs_a_known_unit() -> None:
    with pytest.raises(ProbeloopError, match="unknown unit"):
        quantity("furlong", ge=0, le=1)

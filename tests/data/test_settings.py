"""Settings: checked on the way in, every fault at once, with its key path and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.errors import SettingsError
from probeloop.data.limits import Alarm, Limits, tightened
from probeloop.data.settings import (
    Settings,
    allowed,
    convert,
    json_schema,
    revalidate,
    to_mapping,
    unbounded_floats,
    unit_of,
)
from probeloop.data.units import quantity

Angle = Annotated[float, quantity("mrad", ge=0, le=1000)]


class Annulus(Settings):
    inner: Angle = 60.0
    outer: Annotated[float, quantity("mrad", gt=0, le=1000)] = 200.0

    def problems(self) -> Iterable[str]:
        if self.inner >= self.outer:
            yield "inner must be smaller than outer"


class Detector(Settings):
    annulus: Annulus
    mode: Literal["counting", "integrating"] = "counting"
    frames: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    step: Annotated[float, quantity("m", gt=0, le=1)] | None = None
    corners: tuple[Annotated[float, quantity("m", ge=-1, le=1)], ...] = ()
    knobs: dict[str, Annotated[float, quantity("m", ge=-1, le=1)]] = {}


class Inner(msgspec.Struct):
    free: float
    held: Angle


class Outer(msgspec.Struct):
    one: Inner
    many: list[Inner] | None
    table: dict[str, Annotated[float, msgspec.Meta(ge=0)]]
    pair: tuple[float, Angle]


def faults(values: dict[str, Any], cls: type[Settings] = Detector, **options: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        convert(cls, values, **options)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_good_values_become_frozen_settings() -> None:
    made = convert(Detector, {"annulus": {"inner": 10}, "frames": 3})
    assert made == Detector(annulus=Annulus(inner=10.0), frames=3)
    assert to_mapping(made)["annulus"] == {"inner": 10.0, "outer": 200.0}
    with pytest.raises(AttributeError):
        made.frames = 4  # type: ignore[misc]


def test_every_fault_is_told_at_once_with_its_path_and_range() -> None:
    found = faults(
        {
            "annulus": {"inner": -1, "outer": "200 nm", "colour": 3},
            "mode": "fast",
            "frames": 2.5,
            "knobs": {"C10": 7},
        },
        where="plugins.haadf",
    )
    assert set(found) == {
        "plugins.haadf.annulus.inner",
        "plugins.haadf.annulus.outer",
        "plugins.haadf.annulus.colour",
        "plugins.haadf.mode",
        "plugins.haadf.frames",
        "plugins.haadf.knobs",
    }
    assert "(allowed: 0 <= number <= 1000 [mrad])" in found["plugins.haadf.annulus.inner"]
    assert "not a unit of rad" in found["plugins.haadf.annulus.outer"]
    assert "counting | integrating" in found["plugins.haadf.mode"]


def test_a_missing_field_says_what_it_needs() -> None:
    assert faults({"frames": 1}) == {"annulus": "annulus: missing (allowed: Annulus)"}


def test_rules_across_fields_are_told() -> None:
    assert faults({"annulus": {"inner": 300}}) == {"annulus": "annulus: inner must be smaller than outer"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308, 10**400])
def test_what_is_not_finite_never_gets_in(number: float) -> None:
    assert set(faults({"annulus": {"inner": number}})) == {"annulus.inner"}
    assert set(faults({"annulus": {}, "step": number})) == {"step"}
    assert set(faults({"annulus": {}, "corners": [0.0, number]})) == {"corners"}
    assert set(faults({"annulus": {}, "knobs": {"C10": number}})) == {"knobs"}


def test_spelled_units_are_converted_everywhere() -> None:
    made = convert(
        Detector,
        {
            "annulus": {"inner": "0.06 rad", "outer": "11.459156 deg"},
            "step": "5 nm",
            "corners": ["-5 nm", 0.0, "2 um"],
            "knobs": {"C10": "-100 nm"},
        },
        spelled=True,
    )
    assert made.annulus.inner == pytest.approx(60.0)
    assert made.annulus.outer == pytest.approx(200.0, rel=1e-6)
    assert made.step == pytest.approx(5e-9)
    assert made.corners == pytest.approx((-5e-9, 0.0, 2e-6))
    assert made.knobs["C10"] == pytest.approx(-1e-7)


def test_a_file_must_spell_a_display_unit_a_message_need_not() -> None:
    assert convert(Annulus, {"inner": 60.0}).inner == 60.0
    assert 'write "60.0 mrad"' in faults({"inner": 60.0}, Annulus, spelled=True)["inner"]
    assert convert(Detector, {"annulus": {}, "step": 5e-9}, spelled=True).step == 5e-9


def test_limits_can_be_written_with_units() -> None:
    limits = convert(
        Limits,
        {
            "region": [["0 nm", "0 nm"], ["250 nm", 250e-9]],
            "max_step": "10 nm",
            "dose": 1e7,
            "bias": ["-500 mV", 3.0],
            "convergence_angle": ["1 mrad", "30 mrad"],
            "knobs": {"C10": ["-1 um", "1 um"]},
        },
        spelled=True,
    )
    assert [x for corner in limits.region for x in corner] == pytest.approx([0, 0, 250e-9, 250e-9])
    assert limits.max_step == pytest.approx(1e-8)
    assert limits.bias == pytest.approx((-0.5, 3.0))
    assert limits.convergence_angle == pytest.approx((1e-3, 0.03))
    assert limits.knobs["C10"] == pytest.approx((-1e-6, 1e-6))


def test_limits_only_tighten() -> None:
    own = Limits(region=((0.0, 0.0), (1e-6, 1e-6)), max_step=1e-7, dose=1e6, knobs={"C10": (-1e-6, 1e-6)})
    wanted = Limits(region=((0.0, 0.0), (5e-7, 5e-7)), dose=1e5, knobs={"C10": (-1e-7, 1e-7)})
    merged = tightened(own, wanted)
    assert merged.region == wanted.region
    assert (merged.max_step, merged.dose, merged.knobs) == (1e-7, 1e5, {"C10": (-1e-7, 1e-7)})
    loose = Limits(region=((-1.0, 0.0), (5e-7, 5e-7)), max_step=1.0, dose=1e9, knobs={"C30": (-1e-7, 1e-7)})
    with pytest.raises(SettingsError) as caught:
        tightened(own, loose)
    assert {p.path for p in caught.value.problems} == {
        "limits.region",
        "limits.max_step",
        "limits.dose",
        "limits.knobs",
    }


TIP = Alarm(low=-1e-8, high=1e-8, units="A", when=("engaged",), hold=0.1, stuck_after=2.0, missing_after=1.0)


@pytest.mark.parametrize(
    ("changes", "looser"),
    [
        ({"high": 5e-9, "low": -5e-9, "hold": 0.0, "stuck_after": 1.0, "missing_after": 0.5}, ""),
        ({"when": ("engaged", "held")}, ""),
        ({"when": ()}, ""),  # always
        ({"high": 2e-8}, "high 2e-08 is looser than 1e-08"),
        ({"high": math.nan}, "high nan is looser than 1e-08"),
        ({"low": -2e-8}, "low -2e-08 is looser than -1e-08"),
        ({"hold": 0.2}, "hold 0.2 is looser than 0.1"),
        ({"missing_after": 2.0}, "missing_after 2 is looser than 1"),
        ({"stuck_after": 3.0}, "stuck_after 3 is looser than 2"),
        ({"stuck_after": 0.0}, "stuck_after 0 is looser than 2"),
        ({"when": ("held",)}, "when held: it is judged engaged"),
        ({"units": "V"}, "units 'V': this sensor reads 'A'"),
    ],
)
def test_an_alarm_only_tightens(changes: dict[str, Any], looser: str) -> None:
    wanted = Alarm(**{name: getattr(TIP, name) for name in TIP.__struct_fields__} | changes)
    assert wanted.loosens(TIP) == looser
    where = ((0.0, 0.0), (1e-6, 1e-6))
    own = Limits(region=where, alarms={"tip": TIP, "z": Alarm(high=1e-6, units="m")})
    if not looser:
        assert tightened(own, Limits(region=where, alarms={"tip": wanted})).alarms == own.alarms | {"tip": wanted}
        return
    with pytest.raises(SettingsError, match=re.escape(looser)) as caught:
        tightened(own, Limits(region=where, alarms={"tip": wanted}))
    assert [problem.path for problem in caught.value.problems] == ["limits.alarms.tip"]


def test_an_alarm_that_is_judged_always_stays_so() -> None:
    assert "it is judged always" in Alarm(when=("engaged",)).loosens(Alarm())


def test_no_alarm_can_be_removed_or_made_up_and_triggers_only_tighten() -> None:
    where = ((0.0, 0.0), (1e-6, 1e-6))
    own = Limits(region=where, alarms={"tip": TIP}, missed_triggers=64, frame_timeout=2.0)
    kept = tightened(own, Limits(region=where, alarms={}, missed_triggers=10, frame_timeout=1.0))
    assert (kept.alarms, kept.missed_triggers, kept.frame_timeout) == ({"tip": TIP}, 10, 1.0)
    with pytest.raises(SettingsError) as caught:
        tightened(own, Limits(region=where, alarms={"tap": TIP}, missed_triggers=65, frame_timeout=2.1))
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"limits.alarms.tap", "limits.missed_triggers", "limits.frame_timeout"}


def test_limits_upside_down_are_found() -> None:
    upside_down = {"region": [[1e-9, 0.0], [0.0, 0.0]], "bias": [3.0, -3.0]}
    with pytest.raises(SettingsError) as caught:
        convert(Limits, upside_down | {"alarms": {"tip": {"low": 2.0, "high": 1.0}}})
    assert len(caught.value.problems) == 3


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.sampled_from(["annulus", "mode", "frames", "step", "corners", "knobs", "inner", "region", "bias", ""])


@pytest.mark.parametrize("cls", [Detector, Limits, Annulus])
@pytest.mark.parametrize("spelled", [False, True])
@given(values=st.dictionaries(names, anything, max_size=6))
def test_whatever_comes_in_only_a_settings_error_comes_out(
    cls: type[Settings], spelled: bool, values: dict[str, Any]
) -> None:
    try:
        made = convert(cls, values, spelled=spelled)
    except SettingsError as error:
        told = error
    else:
        assert revalidate(made, cls) == made
        return
    assert told.problems
    assert "\n" not in str(told)


def test_deep_nesting_is_a_settings_error() -> None:
    deep: Any = 0.0
    for _ in range(100_000):
        deep = [deep]
    assert set(faults({"annulus": {}, "knobs": deep})) == {"knobs"}
    assert set(faults({"annulus": deep})) == {"annulus"}
    assert set(faults({"annulus": {"inner": deep}})) == {"annulus.inner"}
    with pytest.raises(SettingsError):
        revalidate(deep, tuple[float, ...])


def test_what_python_built_without_checks_is_checked_again() -> None:
    with pytest.raises(SettingsError, match="1000"):
        revalidate(Annulus(inner=5000.0), Annulus)
    with pytest.raises(SettingsError):
        revalidate(Annulus(inner=math.nan), Annulus)
    with pytest.raises(SettingsError):
        revalidate(Annulus(inner="60"), Annulus)  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        revalidate(object(), Annulus)
    assert revalidate(Annulus(), Annulus) == Annulus()


def test_a_float_without_two_finite_bounds_is_found_wherever_it_hides() -> None:
    assert sorted(unbounded_floats(Outer)) == ["Outer.one.free", "Outer.pair[0]", "Outer.table{}"]
    assert unbounded_floats(Detector) == []
    assert unbounded_floats(Limits) == []


def test_the_schema_and_the_words_carry_unit_and_range() -> None:
    inner = json_schema(Annulus)["$defs"]["Annulus"]["properties"]["inner"]
    assert inner == {"type": "number", "minimum": 0, "maximum": 1000, "unit": "mrad", "default": 60.0}
    assert unit_of(Angle) == "mrad"
    assert unit_of(float) == ""
    assert allowed(Angle) == "0 <= number <= 1000 [mrad]"
    assert allowed(Annotated[float, quantity("m", gt=0, le=1)] | None) == "0 < number <= 1 [m] | none"

"""Limits of an instrument: what the gate holds every command against. Absent = the driver's own, never none."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import msgspec

from .errors import Problem, SettingsError
from .scan import Position
from .settings import Settings
from .units import quantity

_Number = Annotated[float, quantity("", ge=-1e12, le=1e12)]
_Second = Annotated[float, quantity("s", ge=0, le=1e5)]
_Ampere = Annotated[float, quantity("A", ge=0, le=1)]
_Metre = Annotated[float, quantity("m", ge=-1e3, le=1e3)]
_Knob = Annotated[float, quantity("m", ge=-1e12, le=1e12)]  # drive_frequency [Hz] is one too
_Radian = Annotated[float, quantity("rad", ge=-7, le=7)]
_Volt = Annotated[float, quantity("V", ge=-1e6, le=1e6)]
Bounds = tuple[_Number, _Number]
Corners = tuple[Position, Position]
OPEN = 1e30  # a bound that is none
Condition = Literal["withdrawn", "approaching", "engaged", "held", "lifted", "beam_on", "scanning"]


class Alarm(Settings):
    """A sensor that makes the instrument safe by itself: no commander is asked, and only the operator re-arms.

    low, high: what it may read [units], +-OPEN = no bound. when: it is judged in any of these states, () = always.
    hold: how long it must read out of bounds before it trips. stuck_after: how long it may read the same to the
    last bit, 0 = it may stand still. missing_after: how long it may give no number.
    """

    low: Annotated[float, quantity("", ge=-OPEN, le=OPEN)] = -OPEN
    high: Annotated[float, quantity("", ge=-OPEN, le=OPEN)] = OPEN
    units: Annotated[str, msgspec.Meta(max_length=16)] = ""
    when: tuple[Condition, ...] = ()
    hold: Annotated[float, quantity("s", ge=0, le=60)] = 0.0
    stuck_after: Annotated[float, quantity("s", ge=0, le=1e5)] = 0.0
    missing_after: Annotated[float, quantity("s", ge=0.2, le=60)] = 1.0

    def problems(self) -> list[str]:
        """Yield bounds that are upside down."""
        return [] if self.low <= self.high else [f"low {self.low:g} is above high {self.high:g}"]

    def loosens(self, own: Alarm) -> str:
        """Return in words where this lets pass what `own` does not, "" = nowhere."""
        if self.units != own.units:
            return f"units {self.units!r}: this sensor reads {own.units!r}"
        for name, sign in (("high", 1), ("low", -1), ("hold", 1), ("missing_after", 1)):
            if not sign * getattr(self, name) <= sign * getattr(own, name):  # NaN is looser too
                return f"{name} {getattr(self, name):g} is looser than {getattr(own, name):g}"
        if own.stuck_after and not 0 < self.stuck_after <= own.stuck_after:
            return f"stuck_after {self.stuck_after:g} is looser than {own.stuck_after:g}"
        if self.when and not (own.when and set(own.when) <= set(self.when)):
            return f"when {', '.join(self.when)}: it is judged {', '.join(own.when) or 'always'}"
        return ""


class Limits(Settings):
    """Two corners of the allowed region [m], and bounds in SI; None = the instrument has no such thing.

    max_step: longest jump of a single MoveProbe. dose: of the whole run [e]; area_dose: on its maximum [e/m²].
    flux_per_pixel: of the camera [e/s/px]. knobs: by name (C10 ...). min_bias_engaged: |V| may not go below
    it in feedback. spectrometer: energy_offset [eV], dispersion [eV/channel], slit [eV]. vendor_routines:
    allow-list. alarms: by the name that sense() gives the sensor.
    missed_triggers: most pixels in a row without a frame. frame_timeout: longest wait beyond a frame's exposure.
    """

    region: Corners
    max_step: Annotated[float, quantity("m", gt=0, le=1)] | None = None
    max_tip_speed: Annotated[float, quantity("m/s", gt=0, le=1)] | None = None
    dwell_time: tuple[_Second, _Second] = (1e-7, 60.0)
    max_scan_points: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 16_777_216
    dose: Annotated[float, quantity("e", ge=0, le=1e30)] | None = None
    area_dose: Annotated[float, quantity("e/m^2", ge=0, le=1e40)] | None = None
    beam_current: tuple[_Ampere, _Ampere] | None = None
    flux_per_pixel: Annotated[float, quantity("Hz", gt=0, le=1e30)] | None = None
    knobs: dict[str, tuple[_Knob, _Knob]] = {}
    bias: tuple[_Volt, _Volt] | None = None
    bias_ramp: Annotated[float, quantity("V/s", gt=0, le=1e6)] | None = None
    min_bias_engaged: Annotated[float, quantity("V", ge=0, le=1000)] | None = None
    pulses: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] | None = None
    stage: dict[str, Bounds] = {}
    spectrometer: dict[str, Bounds] = {}
    camera_length: tuple[_Metre, _Metre] | None = None
    convergence_angle: tuple[_Radian, _Radian] | None = None
    vendor_routines: tuple[str, ...] = ()
    alarms: dict[str, Alarm] = {}
    missed_triggers: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 256
    frame_timeout: Annotated[float, quantity("s", gt=0, le=1e4)] = 10.0

    def problems(self) -> list[str]:
        """Yield pairs that are upside down."""
        (x0, y0), (x1, y1) = self.region
        found = [] if x0 <= x1 and y0 <= y1 else ["region: the first corner must be the lower one in x and y"]
        for name in self.__struct_fields__:
            value = getattr(self, name)
            pairs = value if isinstance(value, dict) else {name: value}
            for key, pair in pairs.items():
                is_pair = isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(v, float) for v in pair)
                if is_pair and pair[0] > pair[1]:
                    found.append(f"{name}.{key}: {pair[0]:g} is above {pair[1]:g}")
        return found + [f"alarms.{key}: {text}" for key, each in self.alarms.items() for text in each.problems()]


def tightened(own: Limits, wanted: Limits, where: str = "limits") -> Limits:
    """Return the driver's `own` limits narrowed to `wanted` (None = as they are).

    Raises SettingsError with every one that this would loosen.
    """
    problems: list[Problem] = []
    merged: dict[str, object] = {}
    for name in Limits.__struct_fields__:
        mine, new = getattr(own, name), getattr(wanted, name)
        merged[name] = mine
        if new is None:
            continue
        if name == "alarms":
            problems += _looser_alarms(own.alarms, wanted.alarms, where)
            merged[name] = {**own.alarms, **wanted.alarms}
        elif _looser(name, mine, new):
            problems.append(Problem(f"{where}.{name}", f"{new!r} is looser than the instrument's own", repr(mine)))
        else:
            merged[name] = {**mine, **new} if isinstance(mine, dict) else new
    if problems:
        raise SettingsError(problems)
    return Limits(**merged)  # type: ignore[arg-type]


def _looser_alarms(own: dict[str, Alarm], wanted: dict[str, Alarm], where: str) -> list[Problem]:
    """Return every alarm that would let more pass, or that watches a sensor which nobody reads."""
    known = ", ".join(own) or "none"
    unknown = [Problem(f"{where}.alarms.{name}", "no such alarm", known) for name in wanted if name not in own]
    looser = {name: each.loosens(own[name]) for name, each in wanted.items() if name in own}
    return unknown + [Problem(f"{where}.alarms.{name}", text) for name, text in looser.items() if text]


def _looser(name: str, mine: object, new: object) -> bool:
    if mine is None:
        return False
    if name == "region":
        (low, high), (new_low, new_high) = cast("Corners", mine), cast("Corners", new)
        return any(n < o for n, o in zip(new_low, low, strict=True)) or any(
            n > o for n, o in zip(new_high, high, strict=True)
        )
    if isinstance(mine, dict) and isinstance(new, dict):
        return any(key not in mine or _looser(key, mine[key], new[key]) for key in new)
    if name == "vendor_routines":
        return not set(new) <= set(mine)  # type: ignore[call-overload]
    if isinstance(mine, tuple) and isinstance(new, tuple):
        return bool(new[0] < mine[0] or new[1] > mine[1])
    if name == "min_bias_engaged":
        return bool(new < mine)  # type: ignore[operator]
    return bool(new > mine)  # type: ignore[operator]

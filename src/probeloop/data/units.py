"""Units: SI inside, display units only where a person reads or writes.

>>> to_si("60 mrad")
(0.06, 'rad')
>>> round(convert(0.06, "rad", "mrad"), 9)
60.0
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from .errors import ProbeloopError

_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
_BASE = ("m", "s", "rad", "V", "A", "Hz", "eV", "N")
UNITS: dict[str, tuple[float, str]] = {
    **{prefix + base: (factor, base) for base in _BASE for prefix, factor in _PREFIX.items()},
    "": (1.0, ""),
    "%": (0.01, ""),
    "Å": (1e-10, "m"),
    "A/m": (1.0, "A/m"),
    "deg": (math.pi / 180, "rad"),
    "e": (1.0, "e"),
    "e/m^2": (1.0, "e/m^2"),
    "e/nm^2": (1e18, "e/m^2"),
    "e/Å^2": (1e20, "e/m^2"),
    "e/Å²": (1e20, "e/m^2"),
    "e/m²": (1.0, "e/m^2"),
    "1/m": (1.0, "1/m"),
    "1/nm": (1e9, "1/m"),
    "m/s": (1.0, "m/s"),
    "um/s": (1e-6, "m/s"),
    "V/s": (1.0, "V/s"),
    "m/rad": (1.0, "m/rad"),
    "rad/px": (1.0, "rad/px"),
    "mrad/px": (1e-3, "rad/px"),
    "eV/channel": (1.0, "eV/channel"),
    "px": (1.0, "px"),
    "counts": (1.0, "counts"),
    "counts/e": (1.0, "counts/e"),
    "a.u.": (1.0, "a.u."),
    "1/s": (1.0, "Hz"),
    "frames/s": (1.0, "Hz"),
    "min": (60.0, "s"),
    "h": (3600.0, "s"),
}
_QUANTITY = re.compile(r"^\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")


def is_si(unit: str) -> bool:
    """True when `unit` is the one used inside (SI, rad, eV, e)."""
    return unit in UNITS and UNITS[unit] == (1.0, unit)


def convert(value: float, unit: str, to: str) -> float:
    """Return `value` [unit] in the unit `to`.

    Raises ProbeloopError for an unknown unit or two units of different kinds.
    """
    for name in (unit, to):
        if name not in UNITS:
            raise ProbeloopError(f"unknown unit {name!r}", f"known: {', '.join(filter(None, UNITS))}")
    (factor, base), (to_factor, to_base) = UNITS[unit], UNITS[to]
    if base != to_base:
        raise ProbeloopError(f"{unit!r} is not a unit of {to_base or 'a pure number'}", f"write it in {to!r}")
    return value * factor / to_factor


def split_quantity(text: str) -> tuple[float, str]:
    """Return (value, unit) of text such as "60 mrad".

    Raises ProbeloopError when it isn't a number followed by a known unit.
    """
    match = _QUANTITY.match(text)
    if match is None or match[2] not in UNITS:
        raise ProbeloopError(f"{text!r} is no number with a unit", 'write it like "60 mrad" or "5 nm"')
    return float(match[1]), match[2]


def to_si(text: str) -> tuple[float, str]:
    """Return (value in the inside unit, that unit) of text such as "60 mrad"."""
    value, unit = split_quantity(text)
    factor, base = UNITS[unit]
    return value * factor, base


def display(value: float | None, unit: str, digits: int = 3) -> str:
    """Write an SI value with a readable prefix: 2e-9 m becomes "2 nm"; None becomes "uncalibrated"."""
    if value is None:
        return "uncalibrated"
    if not math.isfinite(value):
        return f"{value} {unit}".strip()
    if unit == "e/m^2":
        return f"{value / 1e20:.{digits}g} e/Å²"
    if unit not in _BASE or value == 0:
        return f"{value:.{digits}g} {unit}".strip()
    value = float(f"{value:.{digits}g}")  # 999.6 µs is 1 ms, not 1e+03 µs
    for prefix in ("M", "k", "", "m", "µ", "n", "p", "f"):
        if abs(value) >= _PREFIX[prefix] * (1 - 1e-12):
            return f"{value / _PREFIX[prefix]:.{max(digits, 3)}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}"


def quantity(
    unit: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    description: str | None = None,
) -> Any:
    """Describe a float field: its unit and its two finite bounds, in `unit`.

    One-sided bounds let inf through, so a missing one raises ProbeloopError here, at import.
    """
    low, high = (ge if ge is not None else gt), (le if le is not None else lt)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        raise ProbeloopError("a quantity needs two finite bounds", "give ge or gt, and le or lt")
    if unit not in UNITS:
        raise ProbeloopError(f"unknown unit {unit!r}", f"known: {', '.join(filter(None, UNITS))}")
    bounds: dict[str, Any] = {k: v for k, v in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if v is not None}
    return msgspec.Meta(**bounds, description=description, extra_json_schema={"unit": unit}, extra={"unit": unit})

"""What a checkup found, as a table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.units import display

_MARKS = {"passed": "ok", "found": "found", "holds": "holds", "wrong": "WRONG", "failed": "FAILED", "cannot": "-"}
_SCORES = {
    "scale_error": ("scan scale", "{:.2%}"),
    "rotation_error_deg": ("rotation", "{:.2f}°"),
    "camera_length_error": ("camera length", "{:.2%}"),
    "centre_error_px": ("centre", "{:.3f} px"),
    "current_error": ("beam current", "{:.2%}"),
}


def told(made: Mapping[str, Any]) -> list[str]:
    """Return the lines of the report: each check with what was found, what was believed, and the verdict."""
    rows = [("check", "found", "believed", "", "")]
    for row in made["checks"]:
        if row["verdict"] == "cannot":
            continue
        rows.append(
            (row["check"], value(row, "found", row.get("sigma")) if "believed" in row else "", value(row, "believed"),
             _MARKS[row["verdict"]], str(row["words"]))
        )  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip() for row in rows
    ]
    left_out = [row for row in made["checks"] if row["verdict"] == "cannot"]
    if left_out:
        lines += ["", "not done:"]
        lines += [f"  {row['check']}: {row['words']}" for row in left_out]
    lines.append("")
    if made["simulated"]:
        parts = [f"{name} {form.format(made[key])}" for key, (name, form) in _SCORES.items() if made[key] is not None]
        if made["flip_right"] is not None:
            parts.append(f"flip {'right' if made['flip_right'] else 'WRONG'}")
        if parts:
            lines.append(f"against the simulator's truth: off by {', '.join(parts)}")
    lines += [f"problem: {problem}" for problem in made["problems"]]
    if made["applied"]:
        lines.append(f"kept for later runs of this rig with this instrument: {made['kept_in']}")
    elif made["calibrations"]:
        lines.append(
            "not in force: run again with --apply to keep them for later runs of this rig with this instrument"
        )
    lines.append(f"session {made['session']}")
    return lines


def value(row: Mapping[str, Any], key: str, sigma: float | None = None) -> str:
    """Return a row's value in words: angles in degrees or mrad, shares as they are, "" for none."""
    found = row.get(key)
    if found is None:
        return ""
    numbers = found if isinstance(found, Sequence) else [found]
    units, check = row.get("units", ""), row["check"]
    if "rotation" in check:
        text = f"{math.degrees(numbers[0]):+.2f}"
        return f"{text} ± {math.degrees(sigma):.2f}°" if sigma else f"{text}°"
    if "flip" in check:
        return f"{numbers[0]:+.0f}"
    if units == "rad/px":
        text = f"{numbers[0] * 1e3:.4f}"
        return f"{text} ± {sigma * 1e3:.4f} mrad/px" if sigma else f"{text} mrad/px"
    if units in ("A", "m", "m/s"):
        parts = [display(float(number), units) for number in numbers]
        return ", ".join(parts) + (f" ± {display(sigma, units)}" if sigma else "")
    text = ", ".join(f"{number:.4g}" if abs(number) < 1 else f"{number:.3f}" for number in numbers)
    return f"{text}{f' ± {sigma:.2g}' if sigma else ''} {units}".rstrip()

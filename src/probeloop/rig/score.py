"""`probeloop score SESSION`: what the record of a simulated session comes to, by the truth beside it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..data.units import display
from .output import emit_json


def score(options: argparse.Namespace) -> int:
    """Print the scores; raises RecordError for what no simulator made."""
    from ..record.score import score_session

    made = score_session(options.session)
    if options.json:
        emit_json(made)
    else:
        sys.stdout.write("\n".join(_lines(made)) + "\n")
    return 0


def _lines(made: dict[str, Any]) -> list[str]:
    lines = [f"session       {made['session']}", f"generations   {made['generations']} with record and truth"]
    if place := made["position"]:
        lines.append(
            f"position      {_m(place['rms_m'])} rms, {_m(place['max_m'])} at most off the specimen's place, "
            f"{_m(place['within_scan_rms_m'])} rms within a scan ({place['frames']:,} frames)"
        )
    if drift := made["drift"]:
        lines.append(
            f"drift         {_m(drift['rms_m'])} rms error of {drift['references']} references, "
            f"it moved {_m(drift['true_m'])}"
        )
    for plan in made["focus"]:
        left = ", ".join(f"{name} {_m(value)}" for name, value in plan["residual_m"].items())
        claim = "claims success" if plan["succeeded"] else "claims none"
        lines.append(
            f"{plan['plan']:13} Strehl {plan['strehl_start']:.3f} to {plan['strehl_end']:.3f} of the attainable "
            f"{plan['strehl_attainable']:.3f}; left {left}; {claim}"
        )
    if counts := made["counts"]:
        lines.append(
            f"counts        {counts['share_detected']:.4f} of the electrons sent were detected, "
            f"recorded dose {counts['dose_error']:+.2%} off ({counts['frames']:,} frames)"
        )
    for kind, each in made["calibrations"].items():
        off = ", ".join(
            f"{error:+.3g}" + ("" if part is None else f" ({part:+.2%})")
            for error, part in zip(each["error"], each["relative"], strict=True)
        )
        lines.append(f"calibration   {kind} off by {off}")
    lines += [
        f"map           {each['name']} of generation {each['generation']}: r {_number(each['correlation'])}, "
        f"rms {_number(each['rms'])}"
        for each in made["maps"]
    ]
    for each in made["observations"]:
        said = (
            f"{each['bad_rejected']} of {each['bad']} bad rejected, {each['good_rejected']} good rejected"
            if "bad" in each
            else f"r {_number(each['correlation'])}, rms {_number(each['rms'])}"
        )
        lines.append(f"observation   {each['name']}: {said} ({each['values']} values)")
    return lines + [f"not scored    {name}: {why}" for name, why in made["not_scored"].items()]


def _m(value: float) -> str:
    return display(value, "m")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

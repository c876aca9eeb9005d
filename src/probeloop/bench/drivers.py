"""`probeloop bench drivers`: the drivers of other people's instruments, against other people's programs.

What they hand out is held bit for bit against what RosettaSciIO, LiberTEM or bitshuffle make of the same bytes. Their
speed is measured against a bare reader of the same server in the same rounds. What can't be run is named, not left
out. `--what load`: a whole rig, with the recorder, at 1,000 frames/s.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.errors import ProbeloopError
from . import drivers_dectris, drivers_merlin
from .progress import Progress

REACH = 0.7  # of the bare reader
ROUNDS = 7
LOAD = "load"
_SECONDS_A_ROUND = 2.5
Tell = Callable[[str], Callable[[int, int], None]]
PARTS: dict[str, Callable[[Path, int, Tell], dict[str, Any]]] = {
    "merlin": lambda folder, rounds, tell: drivers_merlin.bench(folder, rounds, tell),
    "dectris_v1": lambda folder, rounds, tell: drivers_dectris.bench("v1", folder, rounds, tell),
    "dectris_v2": lambda folder, rounds, tell: drivers_dectris.bench("v2", folder, rounds, tell),
}


def bench(what: str | None = None, seconds: float | None = None, tell: Tell = Progress) -> dict[str, Any]:
    """Return the figures of one part, or of all; seconds: about how long the rounds of each take.

    Raises ProbeloopError for an unknown part.
    """
    if what is not None and what not in PARTS:
        raise ProbeloopError(f"no driver {what!r} in this bench", f"{', '.join(PARTS)} or {LOAD}")
    rounds = ROUNDS if seconds is None else max(3, math.ceil(seconds / _SECONDS_A_ROUND))
    found: dict[str, Any] = {}
    for name in (what,) if what is not None else PARTS:
        with tempfile.TemporaryDirectory(prefix=f"probeloop-{name}-") as folder:
            found[name] = PARTS[name](Path(folder), rounds, tell)
    found["missing"] = [f"{name}: {text}" for name, each in found.items() for text in each["missing"]]
    found["ok"] = bool(not any(wrong(each) for name, each in found.items() if name in PARTS))
    return found


def wrong(each: dict[str, Any]) -> list[str]:
    """Return in words what is wrong with a part that ran; what is missing is not wrong, unless it is all."""
    speed = each["speed"]
    if not speed and not each["cases"]:
        return ["nothing could be checked: see what is missing"]
    found = [f"{name}: frames differ" for name, case in each["cases"].items() if not case["equal"]]
    found += [f"{name}: {case['lost']} frames lost" for name, case in each["cases"].items() if case["lost"]]
    if speed:
        found += ["speed: frames differ"] if not speed["equal"] else []
        found += [f"speed: {speed['lost']} frames lost"] if speed["lost"] else []
    return found


def table(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = [f"{'':34}{'frames':>8}{'lost':>6}  equal"]
    for name in (name for name in PARTS if name in found):
        each = found[name]
        for case, account in each["cases"].items():
            equal = "bit for bit" if account["equal"] else "NO"
            lines.append(f"{name + ', ' + case:34}{account['frames']:8}{account['lost']:6}  {equal}")
        speed = each["speed"]
        if speed:
            low, high = speed["spread"]["probeloop"]
            lines.append(
                f"{name + ', speed':34}{speed['x_bare_reader']:8.2f} x a bare reader (reach {REACH:g}): "
                f"{speed['fps']:,.0f} of {speed['bare_reader_fps']:,.0f} frames/s"
                f" ({low:,.0f} to {high:,.0f}, {speed['frame']}), lost {speed['lost']}"
            )
        lines += [f"{name}, wrong: {text}" for text in wrong(each)]
        lines += [f"{name}, speed: {text}" for text in speed.get("errors", ())]
    return "\n".join([*lines, *(f"missing: {text}" for text in found["missing"])])


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table or JSON; exit code 1 when a frame was lost or is another one."""
    if options.what == LOAD:
        from .drivers_load import run as run_load

        return run_load(options)
    found = bench(options.what, options.seconds)
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if options.json else table(found)) + "\n")
    return 0 if found["ok"] else 1

"""`probeloop checkup RIG`: the STOP drill, the plan `checkup` on any rig, and what came of it.

The rig runs with the plan's two plug-ins instead of its own. A shipped simulator that can be mis-set is mis-set
(mis_set = 1) unless the rig or --set says otherwise: a checkup of a column whose calibrations are true finds nothing.
Its truth is read by a process of its own after the run, for the score alone.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ..data.calibration import Calibration
from ..data.errors import BusError, ProbeloopError, Problem, SettingsError
from . import run as runs
from .calibrations import keep, kept, kept_file
from .load import load, write
from .output import emit_json, say
from .process import ProcessConfig
from .schema import Rig
from .session import Session, no_room
from .summary import Summary

PLAN = "checkup"
PLUGINS = {
    "disc_pixels": {"use": "disc_pixels", "input": ["camera"], "record": False},
    "mean_pattern": {"use": "mean_pattern", "input": ["camera"], "record": False},
}
_TRUTH_S = 60.0


def checkup(options: argparse.Namespace) -> int:
    """Check a rig's instrument up; exit code 0 when all that it can do was done and nothing failed."""
    started = time.monotonic()
    practice: list[str] = []
    rig = load(options.rig, options.set, lambda values: _changed(values, options, practice))
    kept(rig)  # a file that can't be read is told before anything starts
    headless = options.headless or not runs.has_screen()
    if not headless:
        runs.need("PySide6", "gui", "or add --headless")
    folder = runs.session_folder(rig, options.record)
    try:
        write(rig, folder / "rig.toml")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise no_room(folder, error) from None
    if practice and not options.json:
        sys.stderr.write(f"practice: {practice[0]}\n")
    session = _Checkup(rig, folder, headless=headless, seconds=None, quiet=options.json, started=started)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: session.end("interrupted"))
    summary = session.run()
    made = outcome(rig, summary, session.drill, folder, truth_of(rig, folder))
    made["practice"] = practice[0] if practice else None
    if options.apply and made["calibrations"]:
        found = msgspec.convert(made["calibrations"], tuple[Calibration, ...])
        made["kept_in"], made["applied"] = str(keep(rig, found)), True
    (folder / "checkup.json").write_bytes(msgspec.json.format(msgspec.json.encode(made)))
    if options.json:
        emit_json(made)
    else:
        from .checkup_report import told

        say("\n".join(told(made)))
    return 0 if made["passed"] else 1


class _Checkup(Session):
    """A session that begins with the STOP drill."""

    drill: Mapping[str, Any] | None = None

    def _run_plans(self) -> None:
        from .drill import stop_drill

        if not self._ended():
            self._say("STOP drill")
            try:
                self.drill = stop_drill(self.rig.name, self._turn)
            except BusError as error:
                self.drill = {"passed": False, "stop_ms": None, "scanning": False, "words": str(error)}
            self._turn(0.2)
            self.summary = Summary()  # a scan that a STOP ended is no failure of the run
        super()._run_plans()

    def _say(self, text: str) -> None:
        if not self.quiet and sys.stderr.isatty():
            sys.stderr.write(f"\rplan:   0% {text:60}")


def outcome(
    rig: Rig, summary: Mapping[str, Any], drill: Mapping[str, Any] | None, folder: Path, truth: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the checkup's result as plain data and write its calibrations into the session. truth: {} = unknown."""
    plan = summary["plans"][-1] if summary["plans"] else {}
    now = datetime.now().astimezone()
    calibrations = [
        msgspec.convert(
            {"id": f"checkup-{each['kind']}-{now:%Y%m%dT%H%M%S}", "time": now.isoformat(timespec="seconds"), **each},
            Calibration,
            strict=False,
        )
        for each in plan.get("calibrations", ())
    ]
    where = folder / "calibration"
    where.mkdir(exist_ok=True)
    for each in calibrations:
        (where / f"{each.id}.json").write_bytes(msgspec.json.format(msgspec.json.encode(each)))
    checks = list(plan.get("checks", ()))
    if drill is not None:
        checks.insert(0, {"check": "STOP drill", "verdict": "passed" if drill["passed"] else "failed",
                          "words": drill["words"]})  # fmt: skip
    problems = list(summary["problems"])
    if not plan:
        problems.append(summary.get("ended") or "the plan did not run")
    elif plan["state"] not in ("finished", "failed") or (plan["state"] == "failed" and not checks[1:]):
        problems.append(plan["reason"])
    return {
        "rig": rig.name,
        "passed": not problems and all(row["verdict"] != "failed" for row in checks),
        "message": plan.get("reason", ""),
        **scored(calibrations, truth),
        "hot_pixels": plan.get("hot_pixels"),
        "dead_pixels": plan.get("dead_pixels"),
        "drift_rate": plan.get("drift_rate"),
        "stop_ms": drill["stop_ms"] if drill is not None else None,
        "checks": checks,
        "cannot": [row["check"] for row in checks if row["verdict"] == "cannot"],
        "calibrations": msgspec.to_builtins(calibrations),
        "applied": False,
        "kept_in": str(kept_file(rig)),
        "problems": problems,
        "seed": rig.instrument.parameters.get("seed"),
        "frames_lost": summary["frames_lost"],
        "session": str(folder),
        "report": summary.get("report"),
    }


def scored(found: list[Calibration], truth: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors of calibrations against the truth by kind; None where either is unknown."""
    values = {each.kind: each.value for each in found}

    def share(kind: Any) -> float | None:
        return abs(values[kind][0] / truth[kind][0] - 1) if kind in values and kind in truth else None

    def both(kind: Any) -> bool:
        return kind in values and kind in truth

    turned, flip, centre = "scan_detector_rotation", "scan_detector_flip", "pattern_centre"
    return {
        "simulated": bool(truth),
        "scale_error": share("scan_scale"),
        "rotation_error_deg": abs(
            math.degrees(math.remainder(values[turned][0] - truth[turned][0], 2 * math.pi))  # type: ignore[index]
        )
        if both(turned)
        else None,
        "camera_length_error": share("detector_scale"),
        "centre_error_px": math.dist(values[centre], truth[centre]) if both(centre) else None,  # type: ignore[index]
        "flip_right": values[flip][0] == truth[flip][0] if both(flip) else None,  # type: ignore[index]
        "current_error": share("beam_current"),
    }


def truth_of(rig: Rig, folder: Path) -> dict[str, Any]:
    """Return the true calibrations of a simulator by kind, from a process of its own; {} for anything else."""
    from ..discover import find

    if find(rig.instrument.use, "Instrument", rig.folders).kind != "Simulator":
        return {}
    config = folder / "log" / "truth.json"
    config.write_bytes(msgspec.json.encode(ProcessConfig(role="truth", name="truth", rig=rig, session=str(folder))))
    with (folder / "log" / "truth.log").open("ab") as out:
        try:
            subprocess.run(
                [sys.executable, "-m", "probeloop.rig.process", str(config)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=_TRUTH_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {}
    path = folder / "truth" / "calibrations.json"
    made: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
    return made


def _changed(values: dict[str, Any], options: argparse.Namespace, practice: list[str]) -> None:
    """Make a rig's mapping that of its checkup."""
    instrument = values.setdefault("instrument", {})
    if options.seed is not None:
        instrument["seed"] = options.seed
    if isinstance(instrument, dict) and "mis_set" not in instrument and _can_be_mis_set(instrument.get("use")):
        instrument["mis_set"] = 1.0
        practice.append("the simulated column is mis-set; --set instrument.mis_set=0 checks it as it is built")
    plans = values.get("plan", [])
    plans = plans if isinstance(plans, list) else [plans]
    own: dict[str, Any] = next(
        (dict(plan) for plan in plans if isinstance(plan, Mapping) and plan.get("use") == PLAN), {"use": PLAN}
    )
    parameters = {**own.get("parameters", {}), **_lattice(options.lattice)}
    values["plan"] = [{**own, "parameters": parameters, "times": 1}]
    values["plugins"] = dict(PLUGINS)
    values["record"] = {**values.get("record", {}), "topics": []}


def _lattice(text: str | None) -> dict[str, str]:
    """Return the parameters of "A[,B[,ANGLE]]" in nm and degrees; raises SettingsError."""
    if text is None:
        return {}
    try:
        numbers = [float(part) for part in text.split(",")]
        if not 1 <= len(numbers) <= 3 or not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise SettingsError(
            [Problem("--lattice", repr(text), "A[,B[,ANGLE]] in nm and degrees, as in 0.3905 or 0.246,0.246,120")]
        ) from None
    names = ("lattice_a", "lattice_b", "lattice_angle")
    units = ("nm", "nm", "deg")
    return {name: f"{number!r} {unit}" for name, number, unit in zip(names, numbers, units, strict=False)}


def _can_be_mis_set(use: Any) -> bool:
    """Return True for a shipped simulator with the setting: to import it would cost a second, and 60 MB."""
    from ..discover import find

    try:
        found = find(str(use), "Instrument")
    except ProbeloopError:
        return False  # said by who loads it
    if found.kind != "Simulator" or found.origin != "shipped":
        return False
    sources = found.path.rglob("settings.py") if found.path.is_dir() else (found.path,)
    return any(b"    mis_set:" in source.read_bytes() for source in sources)

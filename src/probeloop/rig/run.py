"""`probeloop run`, `demo` and `replay`: one run of a rig, from its file to its summary."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.errors import BusError, ProbeloopError, Problem, SettingsError, SourceError
from ..data.units import display
from .load import apply_setting, load, write
from .output import emit_json
from .schema import Rig, RigError
from .session import Session, no_room


def run(options: argparse.Namespace) -> int:
    """Run what the command line asks for; return the exit code."""
    started = time.monotonic()
    try:
        rig = _rig(options)
    except RigError as error:
        raise SettingsError([*error.problems, *_faults(error.rig)], error.next_move) from None
    if rig.relay is not None:
        from .remote import check_relay

        check_relay(rig.relay)
    headless = options.headless or not has_screen()
    if not headless:
        need("PySide6", "gui", "or add --headless")
    if not options.headless and headless and not options.json:
        sys.stderr.write("no screen: running headless, the report says what was seen\n")
    folder = session_folder(rig, options.record)
    try:
        write(rig, folder / "rig.toml")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise no_room(folder, error) from None
    session = Session(rig, folder, headless=headless, seconds=options.seconds, quiet=options.json, started=started)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: session.end("interrupted"))
    summary = session.run()
    if options.json:
        emit_json(summary)
    else:
        _tell(summary)
    unfinished = [plan for plan in summary["plans"] if plan["state"] in ("failed", "stopped", "interrupted")]
    return 1 if summary["problems"] or unfinished else 0


def _faults(rig: Rig | None) -> list[Problem]:
    """Return what is wrong with the drop-ins of a rig that has other faults too: all are told at once."""
    from .drop_ins import faults

    return faults(rig) if rig is not None else []


def has_screen() -> bool:
    """True where a window can open."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_window(name: str | None, key: str | None = None, server: str | None = None) -> int:
    """Open the window of a running rig in this process; raises BusError when there is none, or no screen.

    name: of a rig of this host, or the address of one elsewhere, for which `key` and `server` are the keys.
    """
    if not has_screen():
        raise BusError("there is no screen here", "set DISPLAY, or run headless: probeloop run RIG --headless")
    need("PySide6", "gui", "")
    from .roles import show

    if name is not None and "://" in name:
        from .remote import mirrored

        with mirrored(name, key, server) as rig_id:
            return show("probeloop.gui.app:main", rig_id)
    return show("probeloop.gui.app:main", which_rig(name))


def which_rig(name: str | None) -> str:
    """Return the id of the running rig called `name`, or of the only one; raises BusError."""
    from .supervisor import running_rigs

    running = running_rigs()
    if name is not None and name in running:
        return name
    if name is None and len(running) == 1:
        return running[0]
    if not running:
        raise BusError("no rig runs on this machine", "start one: probeloop demo stem")
    raise BusError(
        f"no rig {name!r} runs here" if name else "several rigs run here",
        f"say which: --connect {' | '.join(running)}",
    )


def load_with_plan(rig: str, plan: str | None, seed: int | None, settings: Sequence[str]) -> Rig:
    """Load a rig with `plan` alone (a name or a .toml, None = all of its own) and a seed for all that is random.

    Settings of the form plan.KEY=VALUE are of that plan, or of the rig's first.
    """
    of_the_plan = [each for each in settings if each.startswith("plan.")]

    def change(values: dict[str, Any]) -> None:
        plans = values.get("plan", [])
        plans = plans if isinstance(plans, list) else [plans]
        if plan:
            plans = [_plan(plan, plans)]
        if seed is not None:
            plans = [{**each, "seed": seed} for each in plans]
            values.setdefault("instrument", {})["seed"] = seed
        values["plan"] = plans
        for each in of_the_plan:
            apply_setting(values, each)

    return load(rig, [each for each in settings if each not in of_the_plan], change)


def _rig(options: argparse.Namespace) -> Rig:
    if options.command != "replay":
        name = options.what if options.command == "demo" else options.rig
        return load_with_plan(name, options.plan, options.seed, options.set)
    folder = Path(options.session)
    if not folder.is_dir():
        raise SourceError(f"no session {folder}", "give the folder of a session")
    name = "replay-" + re.sub(r"[^a-z0-9-]+", "-", folder.name.lower()).strip("-")[-30:]
    settings = [f'instrument.file="{folder.resolve()}"', f'name="{name}"', *options.set]
    return load_with_plan("replay-session", options.plan, options.seed, settings)


def _plan(text: str, plans: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the plan of a PLAN.toml, or the rig's own entry of that name, or the bare name."""
    if not text.endswith(".toml"):
        return next((plan for plan in plans if plan.get("use") == text), {"use": text})
    import tomllib

    try:
        return tomllib.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"can't read the plan {text}: {error}", "give a name or a .toml file") from None


def session_folder(rig: Rig, record: str | None) -> Path:
    """Make a folder for a session below `record`, the rig's own or ./sessions; raises ProbeloopError."""
    base = Path(record or rig.record.directory or "sessions").expanduser()
    stamp = time.strftime("%Y-%m-%d_%H%M%S")
    for attempt in range(100):
        folder = base / (f"{stamp}_{rig.name}" + (f"_{attempt}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
            return folder.resolve()
        except FileExistsError:
            continue
        except OSError as error:
            raise ProbeloopError(
                f"can't make the session folder {folder}: {error.strerror}", "--record DIR"
            ) from None
    raise ProbeloopError(f"{base} is full of sessions of this second", "--record DIR")


def need(module: str, extra: str, other: str) -> None:
    """Raise ProbeloopError where a module is missing, with the extra that brings it."""
    from ..discover import installed

    if not installed(module):
        raise ProbeloopError(
            f"the extra {extra!r} is not installed", f'pip install "probeloop[{extra}]" {other}'.strip()
        )


def _tell(summary: dict[str, Any]) -> None:
    loop, physical = summary["loop_latency_us"], summary["physical_latency_ms"]
    first = summary["first_image_s"]
    lines = [
        f"start      ready after {summary['ready_s']:.1f} s, "
        + ("no image" if first is None else f"first image after {first:.1f} s"),
        f"commands   {summary['commands_accepted']} accepted, {summary['commands_refused']} refused",
        f"frames     {summary['frames_published']} published, {summary['frames_lost']} lost",
    ]
    if loop["n"]:
        p50, p99 = display(loop["p50"] / 1e6, "s"), display(loop["p99"] / 1e6, "s")
        lines.append(f"loop       {p50} p50, {p99} p99 of {loop['n']} closed loops")
    if physical["p50"] is not None:
        lines.append(f"physical   {display(physical['p50'] / 1e3, 's')} p50, settling included")
    lines += [f"plan       {plan.get('plan', '')} {plan['state']}: {plan['reason']}" for plan in summary["plans"]]
    lines += [f"guard      {act}" for act in summary["guard"]]
    lines += [f"problem    {problem}" for problem in summary["problems"]]
    lines += [f"{key:10} {summary[key]}" for key in ("session", "report") if summary.get(key)]
    sys.stdout.write("\n".join(lines) + "\n")

"""`probeloop bench drivers --what load`: a rig with a driver and the recorder, at 1,000 frames/s, frame for frame.

The rig runs as `probeloop run` starts it; our own server plays the detector, which waits for nobody but its network
connection. Every recorded frame is held against what the server sent.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..data.clock import MonotonicClock
from ..data.control import Done, Event, Gap, Generation, Remark
from ..data.errors import ProbeloopError, RecordError
from ..record.reader import Session
from . import drivers_dectris, drivers_merlin
from .drivers_peers import our_server
from .drivers_read import different, prove
from .load_rig import Load, process, session_of
from .load_watch import Watch
from .progress import Progress

RATE, SECONDS, SHARE, WIDTH = 1_000.0, 60.0, 0.99, 256
CAMERA = "camera"
_LOOK_NS = 1_000_000_000
_LONGEST_S = 90.0  # for the start, the end and what comes between
_NAMED = 8


@dataclass(frozen=True)
class Part:
    """One driver under load. source: what its server sends; settings: of the instrument, by the server's ports."""

    server: str
    arguments: list[str]
    source: Callable[[], NDArray[Any]]
    settings: Callable[[dict[str, Any]], dict[str, Any]]


def parts(rate: float) -> dict[str, Part]:
    """Return the drivers by name, whose servers send `rate` frames/s."""

    def merlin(ports: dict[str, Any]) -> dict[str, Any]:
        return {"use": "merlin", "trigger": "internal", "control_port": ports["control_port"],
                "data_port": ports["data_port"]}  # fmt: skip

    def dectris(stream: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda ports: {
            "use": "dectris", "trigger": "internal", "stream": stream, "api_port": ports["api_port"],
            "stream_port": ports[stream],
        }  # fmt: skip

    packed = drivers_dectris.server_arguments(rate)
    return {
        "merlin": Part("merlin", drivers_merlin.server_arguments(rate), drivers_merlin.pool, merlin),
        "dectris_v1": Part("dectris", packed, drivers_dectris.pool, dectris("v1")),
        "dectris_v2": Part("dectris", packed, drivers_dectris.pool, dectris("v2")),
    }


@dataclass
class Recorded:
    """What a session holds. first_ns, last_ns: when the scans began and ended, CLOCK_MONOTONIC."""

    asked: int = 0
    frames: int = 0
    wrong: list[int] = field(default_factory=list)
    gaps: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0


def measure(name: str, rate: float, seconds: float, folder: Path, tell: Callable[[int, int], None]) -> dict[str, Any]:
    """Run one driver's rig below `folder` and return its figures; raises ProbeloopError when it does not run."""
    part, load = parts(rate)[name], Load(rate, seconds)
    rig_name = f"{name.replace('_', '-')}-{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with our_server(part.server, part.arguments, folder) as ports:
        rig = folder / f"{rig_name}.toml"
        rig.write_text(_rig(rig_name, part.settings(ports), load))
        session, watch = _run(rig, rig_name, load, folder, ports["pid"], tell)
    found = held_against(session, part.source())
    elapsed = max((found.last_ns - found.first_ns) / 1e9, 1e-9)
    lost, share = found.asked - found.frames, found.frames / elapsed / rate
    uses = watch.uses(found.first_ns, found.last_ns)
    return {
        "asked_fps": rate,
        "achieved_fps": round(found.frames / elapsed, 2),
        "achieved_over_asked": round(share, 4),
        "seconds": round(elapsed, 1),
        "frames": found.asked,
        "lost": lost,
        "lost_unnamed": max(0, lost - sum(found.gaps.values())),
        "gaps": found.gaps,
        "equal": found.frames > 0 and not found.wrong,
        "wrong_frames": found.wrong[:_NAMED],
        "cores": {process_name: round(use.cores, 2) for process_name, use in uses.items()},
        "troubles": found.troubles[:_NAMED],
        "session": str(session),
        "ok": lost == 0 and found.frames > 0 and not found.wrong and share >= SHARE,
    }


def held_against(folder: Path, source: NDArray[Any]) -> Recorded:
    """Hold a session's camera frames against the source, pixel modulo its length; raises RecordError without any."""
    session, found, gaps = Session(folder), Recorded(), Counter[str]()
    for event in session.events():
        _note(event, found, gaps)
    found.gaps = dict(gaps)
    scans = [topic for topic in session.topics() if topic.topic == CAMERA and topic.is_scan]
    if not scans:
        raise RecordError("no camera frame was recorded", f"see {folder}/log")
    block = None
    for scan in scans:
        found.asked += len(scan)
        for block in scan.blocks():
            found.frames += block.count
            found.wrong += different(block.data, block.scan_index, source)
    if block is not None:
        prove(block.data[-1], int(block.scan_index[-1]), source)
    return found


def _note(event: Event, found: Recorded, gaps: Counter[str]) -> None:
    match event:
        case Gap() if event.count and event.topic == CAMERA:
            gaps[f"{event.process}: {event.reason}"] += event.count
        case Generation(topic=topic) if topic == CAMERA:
            found.first_ns = found.first_ns or event.time_ns
        case Done(result=result) if result.topic == CAMERA:
            found.last_ns = event.time_ns
        case Remark() if event.level != "info":
            found.troubles.append(event.text)


def _rig(name: str, instrument: dict[str, Any], load: Load) -> str:
    scans, lines = load.scans
    told = {**instrument, "field_of_view": ["100 nm", "100 nm"]}
    settings = "\n".join(f"{key} = {json.dumps(value)}" for key, value in told.items())
    return (
        f'schema = 1\nname = "{name}"\n[instrument]\n{settings}\n[[plan]]\nuse = "overview"\ntimes = {scans}\n'
        f'parameters = {{ shape = [{lines}, {WIDTH}], dwell_time = "{1e6 / load.rate:.3f} us" }}\n'
    )


def _run(
    rig: Path, name: str, load: Load, folder: Path, server: int, tell: Callable[[int, int], None]
) -> tuple[Path, Watch]:
    """Run a rig to its end; return its session, and what its processes took."""
    clock, total = MonotonicClock(), math.ceil(load.frames / load.rate)
    out, err = folder / f"{name}.json", folder / f"{name}.err"
    command = [
        sys.executable,
        "-m",
        "probeloop.cli",
        "run",
        str(rig),
        "--headless",
        "--json",
        "--record",
        str(folder),
    ]
    with process(command, out, err) as run:
        session = session_of(run, folder, name, err, clock)
        watch = Watch(session, {"supervisor": run.pid, "server": server})
        began = clock.now_ns()
        while run.poll() is None:
            watch.look()
            seconds = (clock.now_ns() - began) / 1e9
            tell(min(total - 1, int(seconds)), total)
            if seconds > 2 * total + _LONGEST_S:
                raise ProbeloopError(f"the rig does not end after {seconds:.0f} s", f"see {session}/log")
            clock.wait_until(clock.now_ns() + _LOOK_NS)
    tell(total, total)
    if not out.read_text():
        said = err.read_text().strip().rpartition("\n")[2]
        raise ProbeloopError(f"the rig failed: {said or 'it said nothing'}", f"see {session}/log")
    return session, watch


def table(found: dict[str, Any]) -> str:
    """Return the figures for people."""
    lines = []
    for name, each in found.items():
        if not isinstance(each, dict):
            continue
        equal = "bit for bit" if each["equal"] else "frames DIFFER"
        lines.append(
            f"{name:12}{each['achieved_fps']:10.1f} of {each['asked_fps']:g} frames/s for {each['seconds']:g} s, "
            f"lost {each['lost']} of {each['frames']} (without a name {each['lost_unnamed']}), {equal}"
        )
        lines += [f"{name:12}{process_name} {cores:g} cores" for process_name, cores in each["cores"].items()]
        lines += [f"{name:12}gap: {text} ({count})" for text, count in each["gaps"].items()]
        lines += [f"{name:12}trouble: {text}" for text in each["troubles"]]
    return "\n".join([*lines, *(f"missing: {text}" for text in found["missing"])])


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table or JSON; exit code 1 when a frame is lost or another one, or the rate not met."""
    rate = RATE if options.rate is None else options.rate
    seconds = SECONDS if options.seconds is None else options.seconds
    found: dict[str, Any] = {}
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix="probeloop-drivers-") as made:
        folder = Path(options.record).expanduser().resolve() if options.record is not None else Path(made).resolve()
        for name in parts(rate):
            try:
                found[name] = measure(name, rate, seconds, folder, Progress(f"{name}, second"))
            except ProbeloopError as error:
                missing.append(f"{name}: {error}")
    ok = bool(found) and all(each["ok"] for each in found.values())
    found |= {"missing": missing, "ok": ok}
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if options.json else table(found)) + "\n")
    return 0 if ok else 1

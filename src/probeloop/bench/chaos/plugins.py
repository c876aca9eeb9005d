"""Rows 9-12: plug-ins that break in every way; memory, descendants, file handles and processor time that run out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ...data import control
from ...data.processes import is_alive
from .leftovers import processes_of
from .outcome import Fault, Outcome, survivors
from .rig import PLUGINS, ChaosRig, Late
from .signals import INSTRUMENT, POLICY, end_with, replaced

TOPIC = PLUGINS["faulty"]
_MEMORY = Path("/sys/fs/cgroup/memory")
_OTHERS = tuple(topic for topic in PLUGINS.values() if topic != TOPIC)


def misbehave(what: str) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that lets the faulty plug-in do something in the middle of a block."""

    def inject(rig: ChaosRig, rng: random.Random) -> Outcome:
        before = rig.pids("faulty")
        order = rig.trigger.with_suffix(".new")
        order.write_text(what, encoding="utf-8")
        order.replace(rig.trigger)
        rig.until(lambda: not rig.trigger.exists(), "a plug-in that takes its order")
        since = time.monotonic_ns()
        for topic in ("camera", *_OTHERS):
            rig.until_block(topic, since)
        back = rig.until_block(TOPIC, since + 1_000_000)
        problems = survivors(rig, before)
        if not any(e.time_ns >= since - 1e9 and _blames(e) for e in rig.events()):
            problems += ("nobody was told",)
        if what == "forks":
            problems += _descendants(rig)
        return Outcome("contained", (back - since) / 1e9, problems=problems)

    return inject


def _blames(event: control.Event) -> bool:
    return (
        isinstance(event, control.StateChange) and event.target == "faulty" and event.state in ("failed", "stopped")
    )


def _descendants(rig: ChaosRig) -> tuple[str, ...]:
    """Only the next process of the plug-in may be there, a second after its end."""
    deadline, pause = time.monotonic() + 1.0, threading.Event()
    while True:
        there = [pid for pid, name in processes_of(rig.name).items() if name.startswith("faulty")]
        if len(there) == 1:
            return ()
        if time.monotonic() > deadline:
            return (f"{len(there) - 1} descendants of a dead plug-in live",)
        pause.wait(0.02)


def slow_import(rig: ChaosRig, rng: random.Random) -> Outcome:
    """A newer source that takes 3 s to import: the last good one goes on until the new one takes over."""
    before = rig.pids("faulty")
    source = rig.folder / "drop_ins" / "faulty.py"
    text = source.read_text(encoding="utf-8")
    new = source.with_suffix(".new")
    new.write_text(text.replace("_KEPT: list", f"threading.Event().wait(3.0)  # {rng.random()}\n_KEPT: list", 1))
    since = time.monotonic_ns()
    new.replace(source)
    pause, gaps = threading.Event(), 0
    while time.monotonic_ns() - since < 3e9:
        seen = time.monotonic_ns()
        gaps += rig.until_block(TOPIC, seen) - seen > 2e9
        pause.wait(0.1)
    reloaded = rig.until_event(
        lambda e: isinstance(e, control.StateChange) and e.target == "faulty" and e.reason == "reloaded",
        since, "the new source", 60.0,
    )  # fmt: skip
    new.write_text(text, encoding="utf-8")
    new.replace(source)  # and back, which is another reload
    rig.until_event(
        lambda e: isinstance(e, control.StateChange) and e.target == "faulty" and e.reason == "reloaded",
        reloaded.time_ns + 1, "the old source", 60.0,
    )  # fmt: skip
    rig.all_flows(time.monotonic_ns())
    problems = survivors(rig, before) + (("the last good one was held up",) if gaps else ())
    return Outcome("contained", (reloaded.time_ns - since) / 1e9, problems=problems)


def out_of_memory(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Row 10: the kernel kills whoever wants a page more than its group may have."""
    victim = rng.choice(["com", "recorder", "plugins", POLICY, "guard", *(("relay",) if rig.relay else ())])
    old, before = rig.pid(victim), rig.pids(victim)
    return replaced(rig, victim, old, before, _starve(rig, rng, old))


def instrument_out_of_memory(rig: ChaosRig, rng: random.Random) -> Outcome:
    """The same for the instrument's process: the guard makes the hardware safe, and the run ends."""
    return end_with(rig, INSTRUMENT, lambda: _starve(rig, rng, rig.pid(INSTRUMENT)))


def _starve(rig: ChaosRig, rng: random.Random, pid: int) -> int:
    """Give a process no page more, and wait until the kernel has killed it; return when it was [ns]."""
    group = _MEMORY / f"probeloop-{rig.name}-{rng.getrandbits(32):08x}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("4096")
        (group / "cgroup.procs").write_text(str(pid))
        deadline, pause = time.monotonic() + 60.0, threading.Event()
        while is_alive(pid):
            if time.monotonic() > deadline:
                raise Late(f"process {pid} lives without memory")
            pause.wait(0.002)
        return time.monotonic_ns()
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    pause = threading.Event()
    for _ in range(100):
        try:
            group.rmdir()
            return
        except OSError:
            pause.wait(0.02)


def _no_groups() -> str:
    if not (_MEMORY / "memory.limit_in_bytes").exists() and not (_MEMORY / "cgroup.procs").exists():
        return "no memory control groups (version 1) here"
    return "" if os.access(_MEMORY, os.W_OK) and os.geteuid() == 0 else "needs root"


def busy_processor(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Row 12: four programs that do nothing but compute; frames and answers go on, later."""
    before = rig.pids()
    calm = _answer_times(rig)
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        threading.Event().wait(0.2)
        busy = _answer_times(rig)
        rig.all_flows(time.monotonic_ns())
    finally:
        for hog in hogs:
            hog.kill()
        for hog in hogs:
            hog.wait()
    notes = {"answer_p99_ms": busy * 1e3, "answer_p99_x_calm": busy / calm}
    rig.all_flows(time.monotonic_ns())
    return Outcome("contained", None, notes=notes, problems=survivors(rig, before))


def _answer_times(rig: ChaosRig) -> float:
    """Return the p99 of the instrument's answers [s]."""
    times = []
    for _ in range(100):
        begun = time.monotonic()
        rig.ask("instrument", control.Describe(), 10.0)
        times.append(time.monotonic() - begun)
    return sorted(times)[98]


FAULTS = (
    Fault("plugin-exits", 9, "a plug-in ends its process", misbehave("exits"), "faulty"),
    Fault("plugin-segfaults", 9, "a plug-in reads address 0", misbehave("segfaults"), "faulty"),
    Fault("plugin-raises", 9, "a plug-in raises", misbehave("raises"), "faulty"),
    Fault("plugin-late", 9, "a plug-in returns after a minute", misbehave("late"), "faulty"),
    Fault("plugin-slow-import", 9, "a newer source imports for 3 s", slow_import, "slow-import"),
    Fault("plugin-memory", 10, "a plug-in wants 1 GiB", misbehave("memory"), "faulty"),
    Fault("oom", 10, "the kernel ends a process that is out of memory", out_of_memory, "oom", lacks=_no_groups),
    Fault("oom-instrument", 10, "the same, of the instrument's process", instrument_out_of_memory, INSTRUMENT,
          ends=True, lacks=_no_groups),
    Fault("plugin-forks", 11, "eight double forks, each a session leader", misbehave("forks"), "faulty"),
    Fault("plugin-files", 12, "a plug-in opens files until none are left", misbehave("files"), "faulty"),
    Fault("busy-processor", 12, "four programs that only compute", busy_processor),
)  # fmt: skip

"""Rows 13-15: a disk that is full, slow, or fails to rename and sync, under the recorder; strace makes it so."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from ...data import control
from .outcome import Fault, Outcome, survivors
from .rig import ChaosRig

_SECONDS = 1.5


def inject_calls(calls: str, how: str, *, told: bool) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that lets some of the recorder's system calls fail, or be slow, for 1.5 s.

    told: the recorder must say that recording fails, and that it goes on again.
    """

    def inject(rig: ChaosRig, rng: random.Random) -> Outcome:
        before = rig.pids()
        nth = rng.randint(1, 20)
        since = time.monotonic_ns()
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(rig.pid("recorder")), "-e", f"trace={calls}",
             "-e", f"inject={calls}:{how}:when={nth}+"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        problems: tuple[str, ...] = ()
        begun = 0
        try:
            if told:
                begun = rig.until_event(_says("recording fails"), since, "a recorder that says so", 15.0).time_ns
            threading.Event().wait(_SECONDS)
            rig.all_flows(time.monotonic_ns())
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(10)
        over = time.monotonic_ns()
        recovery = None
        if told:
            recovery = (rig.until_event(_says("recording again"), over, "a record", 15.0).time_ns - over) / 1e9
        rig.all_flows(time.monotonic_ns())
        notes = {"nth": float(nth)} | ({"told_ms": (begun - since) / 1e6} if told else {})
        return Outcome("contained", recovery, notes=notes, problems=problems + survivors(rig, before))

    return inject


def _says(words: str) -> Callable[[control.Event], bool]:
    return lambda e: isinstance(e, control.Remark) and words in e.text


def _no_strace() -> str:
    return "" if shutil.which("strace") else "strace is not installed"


_WRITE, _RENAME, _SYNC = "write", "rename,renameat,renameat2", "fsync,fdatasync"
FAULTS = (
    Fault("disk-full", 13, "ENOSPC from the n-th write on", inject_calls(_WRITE, "error=ENOSPC", told=True),
          lacks=_no_strace),
    Fault("slow-disk", 14, "every write takes 0.2 s longer", inject_calls(_WRITE, "delay_enter=200000", told=False),
          lacks=_no_strace),
    Fault("failed-rename", 15, "EIO of the n-th rename on", inject_calls(_RENAME, "error=EIO", told=True),
          lacks=_no_strace),
    Fault("failed-sync", 15, "EIO of the n-th fsync on", inject_calls(_SYNC, "error=EIO", told=True),
          lacks=_no_strace),
)  # fmt: skip

"""Rows 1-5: processes that are killed, stopped, or hang."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable

from ...data import control
from ...data.errors import BusError
from .outcome import Fault, Outcome, survivors
from .rig import PLUGINS, ChaosRig

LONGEST_STOP_S = 4.5  # longer than any lease
POLICY, INSTRUMENT = "experiment", "instrument"


def kill(victim: str) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that kills a process which is started again."""

    def inject(rig: ChaosRig, rng: random.Random) -> Outcome:
        old, before = rig.pid(victim), rig.pids(victim)
        since = send(old, signal.SIGKILL)
        return replaced(rig, victim, old, before, since)

    return inject


def replaced(rig: ChaosRig, victim: str, old: int, before: dict[str, int], since_ns: int) -> Outcome:
    """Wait until a process that died at `since_ns` [ns] is started again and all works; return how long it took."""
    if victim == POLICY:
        return commander_lost(rig, old, before, since_ns)
    rig.until(lambda: rig.pid(victim) not in (0, old), f"another {victim}")
    back = rejoined(rig, victim, since_ns)
    rig.all_flows(time.monotonic_ns())
    return Outcome("contained", (back - since_ns) / 1e9, 1, problems=survivors(rig, before))


def rejoined(rig: ChaosRig, victim: str, since_ns: int) -> int:
    """Wait until a restarted process does its work again; return when [ns]."""
    if victim in PLUGINS:
        began = time.monotonic_ns()
        return rig.until_block(PLUGINS[victim], began)
    if victim == "relay":
        return time.monotonic_ns()
    if victim == "recorder":
        rig.until(lambda: _recorded(rig) > 0, "frames at the new recorder")
        return time.monotonic_ns()
    return int(rig.until_event(_is("guard", "watching"), since_ns, "a guard that watches", 30.0).time_ns)


def _recorded(rig: ChaosRig) -> int:
    try:
        reply = rig.ask("recorder", control.Describe(), 0.5)
    except BusError:
        return 0
    topics = reply.state.get("topics", {}) if isinstance(reply, control.Description) else {}
    return int(topics.get("camera", {}).get("frames", 0))


def commander_lost(rig: ChaosRig, old: int, before: dict[str, int], since: int) -> Outcome:
    """The experiment's next process takes up the plan, or the lease ran out first: safe, and the operator goes on."""
    rig.until(lambda: rig.pid(POLICY) not in (0, old), "another experiment")
    there = time.monotonic_ns()
    known = rig.until_event(
        lambda e: _is("plan", "interrupted")(e) or (isinstance(e, control.Verdict) and e.time_ns > there),
        since, "the plan, taken up or not", 30.0,
    )  # fmt: skip
    problems = survivors(rig, before)
    if isinstance(known, control.Verdict):
        rig.all_flows(time.monotonic_ns())
        return Outcome("contained", (known.time_ns - since) / 1e9, 1, problems=problems)
    safe = rig.shutter.closed_after(since)
    if safe is None:
        problems += ("the commander was lost and the beam is on",)
    rig.operate()
    rig.all_flows(time.monotonic_ns())
    return Outcome("stopped", safe, 1, problems=problems)


def stop(victim: str) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that stops a process for up to 4.5 s and lets it go on."""

    def inject(rig: ChaosRig, rng: random.Random) -> Outcome:
        pid = rig.popen.pid if victim == "supervisor" else rig.pid(victim)
        before = rig.pids(*(PLUGINS.keys() & {victim}))  # its watchdog may replace a plug-in
        send(pid, signal.SIGSTOP)
        threading.Event().wait(rng.uniform(0.1, 2.0 if victim == "guard" else LONGEST_STOP_S))
        went_on = send(pid, signal.SIGCONT)
        problems: tuple[str, ...] = ()
        ended = False
        if victim == POLICY:
            threading.Event().wait(0.3)  # what it had in hand arrives now
            ended = not rig.plan_runs()
            if ended:
                if rig.shutter.opened_after(went_on):
                    problems += ("a command of before was carried out after the lease was lost",)
                rig.operate()
        rig.all_flows(time.monotonic_ns())
        back = (time.monotonic_ns() - went_on) / 1e9
        return Outcome("stopped" if ended else "contained", back, 1, problems=problems + survivors(rig, before))

    return inject


def stop_instrument(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Row 4: nobody in that process can help; the guard closes the shutter, and it stays closed."""
    before = rig.pids()
    since = send(rig.pid(INSTRUMENT), signal.SIGSTOP)
    rig.until(lambda: rig.shutter.closed_after(since) is not None, "a closed shutter", 20.0)
    took = rig.shutter.closed_after(since)
    threading.Event().wait(rng.uniform(0.0, 1.0))
    went_on = send(rig.pid(INSTRUMENT), signal.SIGCONT)
    rig.until(lambda: _faulted(rig), "a latched gate", 20.0)
    problems = survivors(rig, before)
    if rig.shutter.opened_after(went_on):
        problems += ("it opened the shutter after it went on",)
    rig.until(lambda: not rig.plan_runs(), "the end of the plan")
    rig.operate()
    rig.all_flows(time.monotonic_ns())
    return Outcome("stopped", took, 1, problems=problems)


def _faulted(rig: ChaosRig) -> bool:
    try:
        return bool(rig.fault())
    except BusError:
        return False


def hang_commander(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Row 5: the experiment's process lives and none of its threads runs; its lease ends in mid-scan."""
    before = rig.pids()
    rig.abort()
    seconds = rng.choice([5, 6, 7])
    since = time.monotonic_ns()
    rig.operate("hold", {"seconds": seconds})
    rig.until(lambda: _faulted(rig), "a latched gate", 20.0)
    took = rig.shutter.closed_after(since)
    tripped = time.monotonic_ns()
    rig.until(lambda: not rig.plan_runs() and _answers(rig), "the end of the hung plan", 30.0)
    problems = survivors(rig, before)
    if took is None:
        problems += ("the beam stayed on",)
    if rig.shutter.opened_after(tripped):
        problems += ("what it commanded afterwards was carried out",)
    rig.operate()
    rig.all_flows(time.monotonic_ns())
    return Outcome("stopped", took, 0, problems=problems)


def _answers(rig: ChaosRig) -> bool:
    try:
        return isinstance(rig.ask(POLICY, control.Describe(), 0.5), control.Description)
    except BusError:
        return False


def kill_instrument(rig: ChaosRig, rng: random.Random) -> Outcome:
    """The guard makes the hardware safe, the run ends with a clear line, nothing starts dose again."""
    return end_with(rig, INSTRUMENT, lambda: send(rig.pid(INSTRUMENT), signal.SIGKILL))


def kill_supervisor(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Row 2: its children go safe, then end."""
    return end_with(rig, "supervisor", lambda: send(rig.popen.pid, signal.SIGKILL))


def end_with(rig: ChaosRig, victim: str, kill: Callable[[], int]) -> Outcome:
    """The rig ends with this process: hold it to that. kill: does it, and returns when [ns]."""
    since = kill()
    problems: tuple[str, ...] = ()
    if not rig.leave():
        problems += ("the bench left the bus last: what it left behind is not judged",)
    deadline, pause = time.monotonic() + 20.0, threading.Event()
    while (took := rig.shutter.closed_after(since)) is None and time.monotonic() < deadline:
        pause.wait(0.01)
    if took is None:
        problems += ("the shutter stayed open",)
    if victim == INSTRUMENT:
        code = rig.popen.wait(30.0)
        said = rig.summary()
        if code == 0 or not any("'instrument' was killed" in problem for problem in said.get("problems", [])):
            problems += (f"the run did not say that its instrument died (code {code}): {rig.said()[-200:]}",)
    if rig.shutter.opened_after(since + round((took or 0.0) * 1e9) + 1):
        problems += ("the shutter was opened again",)
    return Outcome("stopped", took, 1, problems=problems)


def kill_window(rig: ChaosRig, rng: random.Random) -> Outcome:
    """The window is killed: the plan goes on, which the experiment's process holds the lease for."""
    from .leftovers import processes_of

    before = rig.pids()
    found = [pid for pid, name in processes_of(rig.name).items() if name == "window"]
    if not found:
        return Outcome("failed", problems=("there is no window",))
    since = send(found[0], signal.SIGKILL)
    rig.until_event(_is("window", "off"), since, "a word of the supervisor's", 20.0)
    rig.all_flows(time.monotonic_ns())
    return Outcome("contained", None, 1, problems=survivors(rig, before))


def _is(target: str, state: str) -> Callable[[control.Event], bool]:
    return lambda e: isinstance(e, control.StateChange) and (e.target, e.state) == (target, state)


def send(pid: int, number: signal.Signals) -> int:
    """Send a signal to a process that may be gone; return when [ns]."""
    now = time.monotonic_ns()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    return now


FAULTS = (
    Fault("kill-plugins", 1, "SIGKILL of the shipped plug-ins' process", kill("plugins"), "plugins"),
    Fault("kill-plugin", 1, "SIGKILL of a plug-in's own process", kill("com"), "com"),
    Fault("kill-policy", 1, "SIGKILL of the experiment's process, which commands", kill(POLICY), POLICY),
    Fault("kill-recorder", 1, "SIGKILL of the recorder", kill("recorder"), "recorder"),
    Fault("kill-guard", 1, "SIGKILL of the guard", kill("guard"), "guard"),
    Fault("kill-window", 1, "SIGKILL of the window", kill_window, "window"),
    Fault("kill-instrument", 1, "SIGKILL of the instrument's process", kill_instrument, INSTRUMENT, ends=True),
    Fault("kill-supervisor", 2, "SIGKILL of the supervisor", kill_supervisor, "supervisor", ends=True),
    Fault("stop-plugins", 3, "SIGSTOP of the shipped plug-ins' process", stop("plugins")),
    Fault("stop-plugin", 3, "SIGSTOP of a plug-in's process", stop("com")),
    Fault("stop-policy", 3, "SIGSTOP of the experiment's process", stop(POLICY)),
    Fault("stop-recorder", 3, "SIGSTOP of the recorder", stop("recorder")),
    Fault("stop-guard", 3, "SIGSTOP of the guard, shorter than its watchdog", stop("guard")),
    Fault("stop-supervisor", 3, "SIGSTOP of the supervisor", stop("supervisor")),
    Fault("stop-instrument", 4, "SIGSTOP of the instrument's process", stop_instrument),
    Fault("hung-commander", 5, "the experiment's process lives and hangs", hang_commander),
)

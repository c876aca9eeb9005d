"""One run of a rig: its processes, its plans one after the other, its end, its summary."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from ..bus.event import EventReader, EventWriter
from ..bus.node import Bus
from ..bus.request import Client
from ..bus.topic import check_budget, largest_block
from ..data import control
from ..data.commands import Stop
from ..data.errors import (
    BusError,
    ProbeloopError,
    Problem,
    RecordError,
    RefusedError,
    SettingsError,
    SharedMemoryError,
    WireError,
)
from .drain import drain
from .guarding import Guarding
from .plugins import RigPlugins
from .schema import PlanEntry, Rig
from .summary import Summary
from .supervisor import Child, RigLock, Supervisor, told

_READY_S = 60.0
_TICK_S = 0.25
_TRUTH_S = 120.0


def no_room(folder: Path, error: OSError) -> ProbeloopError:
    """Return what to tell when a session can't be written."""
    return RecordError(f"can't write the session {folder}: {error.strerror}", "--record DIR, where there is room")


class Session:
    """Runs a rig from start to summary. `end` may be called from a signal handler."""

    def __init__(self, rig: Rig, folder: Path, *, headless: bool, seconds: float | None, quiet: bool,
                 started: float | None = None) -> None:  # fmt: skip
        self.rig, self.folder, self.headless, self.seconds, self.quiet = rig, folder, headless, seconds, quiet
        self.started = time.monotonic() if started is None else started
        self.summary = Summary()
        self._guarding = Guarding()
        self._end = threading.Event()
        self._why = ""
        self._was_ready = False
        self._over_at, self._look_at = math.inf, 0.0
        self._clients: dict[str, Client] = {}
        self.first_image_s: float | None = None

    def end(self, why: str) -> None:
        """Ask the run to end in order."""
        self._why = self._why or why
        self._end.set()

    def run(self) -> dict[str, Any]:
        """Run everything; return the summary. Raises ProbeloopError when the rig can't start."""
        try:
            lock = RigLock(self.rig.name)
            try:
                with Bus(self.rig.name, "supervisor") as bus:
                    bus.clean_stale()
                    bus.clean_other_rigs()
                    return self._run_on(bus)
            finally:
                lock.release()
        except (ProbeloopError, OSError) as error:
            if not self._was_ready:
                self._forget()
            if isinstance(error, ProbeloopError):
                raise
            raise no_room(self.folder, error) from None

    def _run_on(self, bus: Bus) -> dict[str, Any]:
        self._bus = bus
        self._reader, self._writer = EventReader(bus), EventWriter(bus)
        self._supervisor = Supervisor(self.rig, bus, self.folder)
        self._plugins: RigPlugins | None = None
        try:
            self._start()
            ready_s = time.monotonic() - self.started
            self._was_ready = True
            if self.seconds is not None:
                self._over_at = time.monotonic() + self.seconds
            self._run_plans()
            while not self.headless and not self._ended():
                self._turn()
            while self.headless and not self.rig.plans and not self._ended():
                self._turn()
            published = self._published()
        except (ProbeloopError, OSError):
            self._close()
            raise
        self._close()
        return self._finish(ready_s, published)

    def _forget(self) -> None:
        """Take the session's folder away again, when nothing was measured: only what a start writes is in it."""
        if not any(path.suffix == ".zspy" for path in self.folder.rglob("*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        start = self._supervisor.start
        instrument = start("instrument", "instrument", needed=True)
        start("guard", "guard")
        start("recorder", "recorder")
        start("experiment", "experiment")
        if self.rig.relay is not None:
            start("relay", "relay")
        if not self.headless:
            start("window", "window", restart=False)
            start("stop_window", "stop_window")
        try:
            self._plugins = RigPlugins(self._bus, self.rig, self._supervisor.start_plugins)
            state = self._wait_ready("instrument", instrument)
            sizes = {topic: int(size) for topic, size in state.get("topics", {}).items()}
            blocks = {topic: largest_block(topic, size) for topic, size in sizes.items()}
            check_budget(blocks, self.rig.memory_budget_mb * 2**20)
            self._wait_ready("recorder", self._supervisor.children["recorder"])
            self._wait_ready("experiment", self._supervisor.children["experiment"])
            self._wait_plugins()
            unattended = self.headless and bool(self.rig.plans)
            self._guarding.wait(lambda: self._turn(0.05), self._ended, unattended=unattended)
        except ProbeloopError as error:
            self._explain(error)
            raise
        if self._plugins.failed:
            self._explain(None)
        self._hang_up()

    def _explain(self, error: ProbeloopError | None) -> None:
        """Something did not start: raise SettingsError with every fault of the rig's drop-ins, if they have any.

        Each process converts its own parameters and ends at the first fault; this looks at all of them.
        """
        if self._end.is_set() or isinstance(error, SharedMemoryError):
            return
        child = self._supervisor.start("check", "check", restart=False)
        assert child.popen is not None
        child.popen.wait(_READY_S)
        del self._supervisor.children["check"]
        path = self.folder / "log" / "check.json.faults"
        if not path.exists():
            return
        problems = msgspec.json.decode(path.read_bytes(), type=list[Problem])
        path.unlink()
        if problems:
            raise SettingsError(problems, f"mend {self.rig.source}") from error

    def _wait_ready(self, service: str, child: Child) -> dict[str, Any]:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and not self._end.is_set():
            try:
                reply = self.ask(service, control.Describe(), timeout_s=0.3)
            except BusError:
                reply = None
            if isinstance(reply, control.Description):
                return reply.state
            if not child.alive:
                raise ProbeloopError(self._supervisor.error_of(child))
            self._turn(0.05)
        if self._end.is_set():
            raise ProbeloopError(self._why or "interrupted")
        raise ProbeloopError(f"{service} is not ready after {_READY_S:g} s", f"see {self.folder}/log/{service}.log")

    def _wait_plugins(self) -> None:
        """Wait until every plug-in listens, or is known not to: one that comes later misses the first frames."""
        deadline = time.monotonic() + _READY_S
        while self._plugins is not None and self._plugins.starting:
            if self._end.is_set() or self._supervisor.ended:
                raise ProbeloopError(self._why or self._supervisor.ended or "interrupted")
            if time.monotonic() > deadline:
                late = ", ".join(sorted(self._plugins.starting))
                raise ProbeloopError(f"not ready after {_READY_S:g} s: {late}", f"see {self.folder}/log")
            self._turn(0.05)

    def ask(self, service: str, request: control.Request, timeout_s: float = 2.0) -> control.Reply:
        """Send a request to a process of the rig; raises BusError when it does not answer."""
        if service not in self._clients:
            self._clients[service] = Client(self._bus, service)
        return control.decode_reply(self._clients[service].call(control.encode(request), timeout_s))

    def _hang_up(self) -> None:
        """Close what `ask` keeps open from one question to the next: up to 7 MB of shared memory each."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _run_plans(self) -> None:
        """Run the rig's plans one after the other; a failed one does not keep the next from running, a STOP does."""
        for plan in self.rig.plans:
            # a plan without end needs somebody who ends it: a window, or --seconds
            most = plan.times or (1 if self.headless and self.seconds is None else 0)
            times = 0
            while not self._ended() and (not most or times < most):
                before = len(self.summary.plans)
                finished = self._run_plan(plan)
                times += 1
                ends = [end["state"] for end in self.summary.plans[before:]]
                if {"stopped", "aborted", "interrupted"} & set(ends):
                    return
                if not finished:
                    break

    def _run_plan(self, plan: PlanEntry) -> bool:
        """Run one plan to its end; False when nothing further should run."""
        before = len(self.summary.plans)
        request = control.Run(plan=plan.use, parameters=plan.parameters, seed=plan.seed)
        try:
            reply = self.ask("experiment", request, timeout_s=_READY_S)
            if isinstance(reply, control.Refused):
                raise RefusedError(reply.reason, reply.limit, reply.allowed)
        except ProbeloopError as error:
            self.summary.problems.append(f"plan {plan.use!r}: {error}")
            return False
        self._hang_up()
        while not self._ended() and len(self.summary.plans) == before:
            self._turn()
            if self.headless and self._guarding.away:
                self._end_unguarded()
        if len(self.summary.plans) == before:
            self._abort()
            return False
        return bool(self.summary.plans[-1]["state"] == "finished")

    def _end_unguarded(self) -> None:
        why = f"nobody guards the hardware: {self._guarding.away}"
        self.summary.problems.append(f"{why}. The plan was stopped")
        with contextlib.suppress(BusError):  # then the leases are what is left
            self.ask("instrument", Stop(why))
        self.end(why)

    def _abort(self) -> None:
        before, deadline = len(self.summary.plans), time.monotonic() + 3.0
        try:
            self.ask("experiment", control.Abort(reason=self._why or "the time is over"))
        except BusError:
            return
        while len(self.summary.plans) == before and time.monotonic() < deadline:
            self._turn()

    def _turn(self, seconds: float = _TICK_S) -> None:
        """Take the events that are there, wait for more, look after the processes 4 times a second."""
        for body in self._reader.read(seconds):
            try:
                event = control.decode_event(body)
            except WireError:
                continue
            self.summary.take(event)
            self._guarding.take(event)
            self._note_first_image(event)
            if isinstance(event, control.Progress):
                self._show(event)
            if self._plugins is not None:
                self._plugins.take(event)
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _TICK_S
        happened = self._supervisor.look()
        if self._plugins is not None:
            happened += self._plugins.look()
            happened += self._supervisor.sweep(self._plugins.pids())
        for event in happened:
            self._guarding.take(event)
            self._writer.write(told(event))

    def _note_first_image(self, event: control.Event) -> None:
        """Note when the first plug-in has its first block; in a rig without any, when the first frames come."""
        transforms = self._plugins.names if self._plugins is not None else frozenset()
        match event:
            case control.Generation() if not transforms:
                pass
            case control.StateChange(state="running") if event.target in transforms:
                pass
            case _:
                return
        if self.first_image_s is None:
            self.first_image_s = event.time_ns / 1e9 - self.started

    def _ended(self) -> bool:
        if time.monotonic() > self._over_at:
            self.end(f"{self.seconds:g} s are over")
        if self._supervisor.ended:
            window = "window" in self._supervisor.ended
            if not window and self._supervisor.ended not in self.summary.problems:
                self.summary.problems.append(self._supervisor.ended)
            self.end(self._supervisor.ended)
        return self._end.is_set()

    def _show(self, progress: control.Progress) -> None:
        if self.quiet or not sys.stderr.isatty():
            return
        share = progress.done / progress.total if progress.total else 0.0
        eta = f", {progress.eta:.0f} s left" if progress.eta is not None else ""
        sys.stderr.write(f"\r{progress.target}: {share:4.0%}{eta} {progress.message[:60]:60}")

    def _published(self) -> dict[str, int]:
        """Return the frames that the recorder took of each topic; without a screen nothing new comes by now."""
        if self.headless and self._plugins is not None:
            drain(self.ask, self._plugins.names, self._turn)
        try:
            reply = self.ask("recorder", control.Describe())
        except BusError as error:
            self.summary.problems.append(f"how many frames were recorded is not known: {error}")
            return {}
        topics = reply.state.get("topics", {}) if isinstance(reply, control.Description) else {}
        return {name: int(entry.get("frames", 0)) for name, entry in topics.items()}

    def _close(self) -> None:
        self._end.set()
        if self._was_ready and not self._supervisor.children["instrument"].alive:
            self.summary.problems += self._guarding.wait_for_act(lambda: self._turn(0.05))
        begun = time.monotonic()
        self.killed = self._supervisor.stop("window", "stop_window", "experiment")
        self.killed += self._supervisor.stop("instrument")
        self.killed += self._supervisor.stop("guard", "relay")
        if self._plugins is not None:
            self._plugins.close()
        self.killed += self._supervisor.stop("recorder")
        self._supervisor.sweep(())
        self.shutdown_s = time.monotonic() - begun
        for body in self._reader.read(0.0):
            try:
                self.summary.take(control.decode_event(body))
            except WireError:
                continue
        self._hang_up()
        self._reader.close()
        self._writer.close()
        self._bus.clean_stale()

    def _verified(self) -> dict[str, Any]:
        """Hold the spectra of a replay against the file they came from, by a reader that shares nothing with it."""
        if self.rig.instrument.use != "replay":
            return {}
        from ..record.verify import verify_session

        data = os.environ.get("PROBELOOP_DATA", "../shared/data")
        try:
            return verify_session(self.folder, self.rig.instrument.parameters, Path(data)) or {}
        except ProbeloopError as error:
            self.summary.problems.append(str(error))
            return {}

    def _tell_truth(self) -> None:
        """Let a simulator say what a plan could have learned, in a process of its own: the report shows it beside."""
        if all((plan.get("learned") or {}).get("generation") is None for plan in self.summary.plans):
            return
        child = self._supervisor.start("learned", "learned", restart=False)
        assert child.popen is not None
        try:
            if child.popen.wait(_TRUTH_S):
                self.summary.problems.append(self._supervisor.error_of(child))
        except subprocess.TimeoutExpired:
            self.summary.problems.append(f"what the map could have been was not told within {_TRUTH_S:g} s")
        self._supervisor.stop("learned")

    def _finish(self, ready_s: float, published: dict[str, int]) -> dict[str, Any]:
        self._tell_truth()
        summary = self.summary.as_dict()
        summary |= {
            "rig": self.rig.name,
            "frames_published": sum(published.values()),
            "frames_by_topic": published,
            "session": str(self.folder),
            "ready_s": round(ready_s, 2),
            "first_image_s": None if self.first_image_s is None else round(self.first_image_s, 2),
            "shutdown_s": round(self.shutdown_s, 2),
            "killed": self.killed,
            "ended": self._why,
            "guard": self._guarding.acts,
        }
        haadf = sorted(self.folder.glob("haadf*/*.zspy"), key=lambda path: path.stat().st_mtime)
        summary["haadf_file"] = str(haadf[-1]) if haadf else None
        summary |= self._verified()
        (self.folder / "summary.json").write_bytes(msgspec.json.encode(summary))
        try:
            from ..record.report import write_report

            summary["report"] = str(write_report(self.folder))
        except (ProbeloopError, ImportError) as error:
            summary["report"] = None
            summary["problems"] = [*summary["problems"], str(error)]
        return summary

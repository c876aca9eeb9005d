"""A real rig under its real supervisor: the simulated column, plug-ins, recorder, experiment, guard; and a witness.

The bench is its operator: it starts the plan and re-arms after a STOP. It leaves the bus before the rig ends, so that
it is not the bench that cleans up.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...bus.event import EventReader
from ...bus.heartbeat import Pulse
from ...bus.node import Bus
from ...bus.request import Client
from ...data import control
from ...data.errors import BusError, ProbeloopError, WireError
from .leftovers import left_by
from .remote import RelaySetup
from .shutter import Shutter
from .witness import Witness

PATIENCE_S = 60.0  # [s] for what takes 2 s on a machine that is not busy
OPERATOR = "operator-chaos"
PLUGINS = {"plugins": "haadf.intensity", "com": "com.deflection", "faulty": "faulty.value"}
TOPICS = ("camera", *PLUGINS.values())
_RIG = """
schema = 1
plugin_folders = ["drop_ins"]
[instrument]
use = "shuttered_stem"
port = {port}
seed = {seed}
can_wait = {waits}
[plugins.haadf]
use = "annular_detector"
parameters = {{ inner = "30 mrad", outer = "75 mrad" }}
[plugins.com]
use = "centre_of_mass"
own_process = true
[plugins.faulty]
use = "faulty"
parameters = {{ trigger = "{trigger}" }}
"""


class Late(Exception):
    """What was waited for did not come."""


class ChaosRig:
    """One run of `probeloop run`. waits: its source obeys credits. window: it shows its windows (drawn nowhere)."""

    def __init__(self, folder: Path, seed: int, *, waits: bool = True, window: bool = False) -> None:
        self.name = f"chaos-{uuid.uuid4().hex[:12]}"
        self.folder, self.seed, self.waits, self.window = folder, seed, waits, window
        self.trigger = folder / "trigger"
        self.problems: list[str] = []
        self.heard: list[control.Event] = []
        folder.mkdir(parents=True)
        shutil.copytree(Path(__file__).parent / "drop_ins", folder / "drop_ins")
        self.shutter = Shutter(folder / "shutter.jsonl")
        words = {"port": self.shutter.port, "seed": seed, "trigger": self.trigger, "waits": str(waits).lower()}
        self.relay = RelaySetup.make(folder)
        text = _RIG.format(**words) + (self.relay.toml if self.relay else "")
        (folder / "chaos.toml").write_text(text, encoding="utf-8")
        self.popen = self._launch()
        self._bus: Bus | None = None
        self._clients: dict[str, Client] = {}
        self._joined: list[Any] = []  # closed when it leaves, whatever of its start came about

    def _launch(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PROBELOOP_CHECKSUMS": "1", "PROBELOOP_PLUGINS": str(self.folder / "none")}
        if self.relay is not None:
            environment["PROBELOOP_CONFIG"] = str(self.relay.home)
        how = ["--headless"]
        if self.window:
            how, environment = [], {**environment, "QT_QPA_PLATFORM": "offscreen", "DISPLAY": ":none"}
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "probeloop.cli", "run", str(self.folder / "chaos.toml"), *how, "--json",
                 "--set", f"name={self.name}", "--record", str(self.folder / "sessions")],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, start_new_session=True,
            )  # fmt: skip

    # --- beginning and end

    def start(self) -> None:
        """Wait for its processes, join them, and let the survey begin; raises Late, with what the rig said."""
        self.until(lambda: next(self.session.glob("log/experiment.json"), None), "the rig's processes")
        self._bus = Bus(self.name, "bench")
        self._pulse, self._reader = Pulse(self._bus), EventReader(self._bus)
        self._joined.append(self._reader)
        self.until(lambda: all(self.pid(name) for name in self._own), "pulses")
        self.until(lambda: all(self._pulse.read(name) for name in PLUGINS), "the plug-ins")
        self.witness = Witness(self._bus, TOPICS, credit=self.waits)
        self._joined.append(self.witness)
        self.witness.start()
        self.operate()
        for topic in TOPICS:
            self.until_block(topic, 0)

    @property
    def session(self) -> Path:
        """Its session's folder, once it is there."""
        return next(iter((self.folder / "sessions").glob(f"*_{self.name}")), self.folder / "none")

    def leave(self) -> bool:
        """Leave the bus; False when nobody else is on it any more, so that leaving cleans it up."""
        if self._bus is None:
            return True
        bus, self._bus = self._bus, None
        others = bool(bus.alive_nodes() - {bus.node_id})
        for each in (*reversed(self._joined), *self._clients.values()):
            each.close()
        bus.close()
        return others

    def end(self, how: signal.Signals | None = signal.SIGINT, seconds: float = 30.0) -> list[str]:
        """End it, if it does not end by itself (`how` None); return what it left behind."""
        self.leave()
        if how is not None and self.popen.poll() is None:
            self.popen.send_signal(how)
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.problems.append(f"the rig did not end within {seconds:g} s")
            self.popen.kill()
            self.popen.wait()
        left = left_by(self.name)
        self.shutter.end()
        return left

    def summary(self) -> dict[str, Any]:
        """Return what the run printed at its end, {} when it printed nothing."""
        text = (self.folder / "out").read_text(encoding="utf-8")
        return dict(json.loads(text)) if text.strip() else {}

    def said(self) -> str:
        """Return what it told the person."""
        return (self.folder / "err").read_text(encoding="utf-8", errors="replace").strip()

    # --- waiting and asking

    def until(self, found: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
        """Wait until `found()` is true, and return it; raises Late."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not (made := found()):
            if self.popen.poll() is not None:
                raise Late(f"the rig ended while {what} was waited for: {self.said()[-500:] or 'it said nothing'}")
            if time.monotonic() > deadline:
                raise Late(f"{seconds:g} s passed without {what}")
            pause.wait(0.01)
        return made

    def until_block(self, topic: str, since_ns: int, seconds: float = PATIENCE_S) -> int:
        """Wait for a block of a topic that was published after a moment; return when that was [ns]."""
        tally = self.witness.tallies[topic]
        self.until(lambda: tally.newest_ns > since_ns, f"blocks of {topic}", seconds)
        return tally.newest_ns

    def events(self) -> list[control.Event]:
        """Return every event since the start."""
        for body in self._reader.read():
            try:
                self.heard.append(control.decode_event(body))
            except WireError:
                continue
        return self.heard

    def last_words(self, most: int = 6) -> str:
        """Return the newest events that say how it goes, for a fault that was not survived."""
        said = []
        for event in self.events():
            match event:
                case control.Remark():
                    said.append(event.text)
                case control.StateChange():
                    said.append(f"{event.target} {event.state} {event.reason}".strip())
                case control.Failed():
                    said.append(f"command {event.id} failed: {event.reason}")
                case control.Verdict(accepted=False):
                    said.append(f"refused: {event.reason}")
        return " | ".join(said[-most:])

    def until_event(
        self, fits: Callable[[control.Event], bool], since_ns: int, what: str, seconds: float = 10.0
    ) -> Any:
        """Wait for an event written after a moment, and return it; raises Late."""
        return self.until(
            lambda: next((e for e in reversed(self.events()) if e.time_ns >= since_ns and fits(e)), None),
            what,
            seconds,
        )

    def pid(self, name: str) -> int:
        """Return the number of a process that beats, 0 while it never did."""
        beat = self._pulse.read(name)
        return 0 if beat is None else beat[1]

    def pids(self, *but: str) -> dict[str, int]:
        """Return the processes that must survive a fault in `but`."""
        return {name: self.pid(name) for name in (*self._own, *PLUGINS) if name not in but}

    @property
    def _own(self) -> tuple[str, ...]:
        return ("instrument", "guard", "recorder", "experiment", *(("relay",) if self.relay else ()))

    def ask(self, service: str, request: control.Request, timeout_s: float = 2.0) -> control.Reply:
        """Ask a process; raises BusError."""
        return control.decode_reply(self.client(service).call(control.encode(request), timeout_s))

    def client(self, service: str) -> Client:
        """Return the way to a service."""
        if service not in self._clients:
            assert self._bus is not None
            self._clients[service] = Client(self._bus, service)
        return self._clients[service]

    def raw_bus(self) -> Bus:
        """Return the bench's place on the bus."""
        assert self._bus is not None
        return self._bus

    # --- the operator

    def operate(self, plan: str = "survey", parameters: dict[str, Any] | None = None) -> None:
        """Re-arm if need be, and let a plan run; raises Late."""
        request = control.Run(plan=plan, parameters=parameters or {}, seed=self.seed)
        said = ""

        def runs() -> bool:
            nonlocal said
            try:
                self.ask("instrument", control.Rearm(OPERATOR))
                reply = self.ask("experiment", request)
            except ProbeloopError as error:
                said = str(error)
                return False
            said = getattr(reply, "reason", "")
            return isinstance(reply, control.Accepted)

        try:
            self.until(runs, "a plan that runs")
        except Late as late:
            raise Late(f"{late}; {said}") from None

    def abort(self) -> None:
        """End the plan that runs, and wait until it has."""
        self.ask("experiment", control.Abort("the bench"))
        self.until(lambda: not self.plan_runs(), "the end of the plan")

    def plan_runs(self) -> bool:
        """Whether the experiment has a plan in hand; False as well while it does not answer."""
        try:
            reply = self.ask("experiment", control.Describe(), 0.5)
        except BusError:
            return False
        return isinstance(reply, control.Description) and reply.state.get("state") in ("running", "paused")

    def fault(self) -> str:
        """Return why the gate is latched, "" while it is not; raises BusError."""
        reply = self.ask("instrument", control.Describe())
        return str(reply.state.get("fault", "")) if isinstance(reply, control.Description) else "?"

    def all_flows(self, since_ns: int, topics: Sequence[str] = TOPICS) -> None:
        """Wait until every topic has blocks younger than a moment; with a plan that was stopped, after another."""
        for topic in topics:
            self.until_block(topic, since_ns)

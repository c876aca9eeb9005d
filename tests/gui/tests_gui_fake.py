"""A rig that is not there: the real bus inside this process, with synthetic maps, frames, events and answers."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
import numpy as np

from probeloop.bus.event import EventWriter
from probeloop.bus.heartbeat import Heartbeat
from probeloop.bus.node import Bus
from probeloop.bus.publish import NO_FLAGS, Publisher
from probeloop.bus.request import Server
from probeloop.data import control
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.commands import Pause, Resume, Scan, Stop
from probeloop.data.frame import BlockFlag, FrameFlag
from probeloop.data.scan import Region

ANNULUS = {
    "type": "object",
    "properties": {
        "inner": {"type": "number", "minimum": 0, "maximum": 1000, "unit": "mrad", "default": 60.0,
                  "description": "inner half angle"},
        "outer": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000, "unit": "mrad", "default": 200.0,
                  "description": "outer half angle"},
    },
}  # fmt: skip
PLAN = {
    "type": "object",
    "properties": {
        "order": {"enum": ["raster", "random", "hill-climb"], "default": "random"},
        "count": {"type": "integer", "minimum": 1, "maximum": 10000, "default": 100},
        "dwell_time": {"type": "number", "exclusiveMinimum": 0, "maximum": 10, "unit": "ms", "default": 1.0},
        "save": {"type": "boolean", "default": True},
    },
}


def bicrystal(n: int) -> np.ndarray:
    """Return a lattice with a grain boundary, (n, n), 0 to 1."""
    y, x = np.mgrid[:n, :n] / n

    def lattice(angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        u, v = 22 * (c * x + s * y), 22 * (-s * x + c * y)
        return (1 + np.cos(2 * np.pi * u)) * (1 + np.cos(2 * np.pi * v)) / 4

    edge = 1 / (1 + np.exp(-(x - 0.52 - 0.05 * np.sin(9 * y)) * 60))
    return (1 - edge) * lattice(0.1) + edge * lattice(0.45)


def pattern(n: int) -> np.ndarray:
    """Return overlapping diffraction discs, (n, n), mean counts."""
    k = np.arange(n) - (n - 1) / 2
    ky, kx = np.meshgrid(k, k, indexing="ij")
    total = np.zeros((n, n))
    for i in range(-3, 4):
        for j in range(-3, 4):
            dx, dy = (i * 0.17 + j * 0.03) * n, (-i * 0.03 + j * 0.17) * n
            total += np.exp(-2.2 * np.hypot(i, j)) * 60 / (1 + np.exp((np.hypot(kx - dx, ky - dy) - 0.1 * n) * 1.5))
    return total + 0.02 + 0.3 * np.exp(-np.hypot(kx, ky) / n * 8)


class FakeRig:
    """Publishes lines of a scan when told to; answers requests in a thread."""

    def __init__(self, rig_id: str, *, local: bool = True, n: int = 64, pixels: int = 64, origin: str = "simulation"):
        self.bus = Bus(rig_id, "fake", local=local)
        self.n, self.pixels, self.origin = n, pixels, origin
        self.rng = np.random.default_rng(1)
        axes = (Axis("y", n, 1e-10, -n / 2 * 1e-10, "m"), Axis("x", n, 1e-10, -n / 2 * 1e-10, "m"))
        angle = 2.2e-3 * 128 / pixels
        sig = tuple(Axis(name, pixels, angle, -(pixels - 1) / 2 * angle, "rad") for name in ("ky", "kx"))
        self.camera_spec = StreamSpec("camera", "frames", "<u2", axes, sig, units="counts", origin=origin)
        self.map_spec = StreamSpec("annular_detector.intensity", "values", "<f4", axes, units="counts", origin=origin)
        self.camera = Publisher(self.bus, "camera", 1 << 20)
        self.values = Publisher(self.bus, self.map_spec.name, 1 << 18)
        self.events = EventWriter(self.bus)
        self.beat = Heartbeat(self.bus, "instrument")
        self.truth = bicrystal(n)
        self.frames = self.rng.poisson(pattern(pixels), (16, pixels, pixels)).astype(np.uint16)
        self.generation, self.revision, self.done_lines = 0, 1, 0
        self.parameters = {"inner": 60.0, "outer": 200.0}
        self.fault = ""
        self.requests: list[control.Request] = []
        self.stopped_ns = 0
        self.refuse: dict[str, control.Refused] = {}
        self.recording = True
        self.state: dict[str, Any] = {}  # what else the instrument says of itself
        self._servers = {name: Server(self.bus, name) for name in
                         ("instrument", "experiment", "recorder", "plugin.annular_detector")}  # fmt: skip
        self.bus.ledger.claim(16, "annular_detector", shared=True)
        self._lock = threading.RLock()
        self._end = threading.Event()
        self.hang = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="fake-rig")
        self._thread.start()

    def say(self, event: control.Event) -> None:
        with self._lock:
            stamped = msgspec.structs.replace(event, time_ns=time.monotonic_ns(), wall=time.strftime("%FT%T"))
            self.events.write(control.encode(stamped))

    def begin(self) -> None:
        """Begin a generation."""
        with self._lock:
            self.generation += 1
            self.done_lines = 0
            self.camera.announce(self.camera_spec, self.generation)
            self.values.announce(self.map_spec, self.generation)
            size = self.n * 1e-10
            scan = Scan(Region(0, 0, size, size), (self.n, self.n), 1e-3)
            self.say(control.Generation(id=self.generation, command_id=1, topic="camera", scan=scan,
                                        settings={"C10": 12e-9, "C12a": -3e-9}))  # fmt: skip

    def value(self, index: np.ndarray) -> np.ndarray:
        width = self.parameters["outer"] - self.parameters["inner"]
        counts = 20 + width * self.truth.ravel()[index]
        return (counts + np.random.default_rng(3).normal(0, 4, counts.shape)).astype(np.float32)

    def _send_values(self, index: np.ndarray, flags: BlockFlag = NO_FLAGS) -> None:
        block = self.values.loan(max(1, len(index)))
        self._columns(block, index)
        block.data[: len(index)] = self.value(index)
        self.values.send(block, len(index), flags=flags, generation=self.generation, revision=self.revision,
                         exposed_ns=time.monotonic_ns() - 300_000)  # fmt: skip

    def _columns(self, block: Any, index: np.ndarray) -> None:
        m = len(index)
        block.time_ns[:m] = 0
        block.scan_index[:m] = index
        y, x = np.divmod(index, self.n)
        block.position[:m] = np.stack([(x - self.n / 2) * 1e-10, (y - self.n / 2) * 1e-10], 1)
        block.dose[:m] = 1.0
        block.flags[:m] = 0

    def line(self, *, settling: bool = False, skip: tuple[int, ...] = ()) -> None:
        """Publish the next line of the scan."""
        with self._lock:
            y = self.done_lines
            index = np.arange(y * self.n, (y + 1) * self.n)
            index = index[~np.isin(index, skip)]
            m = min(16, self.n)
            block = self.camera.loan(m)
            self._columns(block, index[-m:])
            block.data[:m] = self.frames[self.rng.integers(0, 16, m)]
            if settling:
                block.flags[:m] = int(FrameFlag.SETTLING)
            self.camera.send(block, m, generation=self.generation, exposed_ns=time.monotonic_ns() - 200_000)
            self.done_lines += 1
            last = self.done_lines == self.n
            self._send_values(index, BlockFlag.SCAN_END if last else NO_FLAGS)

    def scan(self) -> None:
        """Publish a whole scan at once."""
        self.begin()
        for _ in range(self.n):
            self.line()

    def revise(self, values: dict[str, Any]) -> None:
        """Take parameters and do finished cells again, as the host does."""
        with self._lock:
            self.parameters |= values
            self.revision += 1
            self.say(control.Revision(target="annular_detector", topic=self.map_spec.name, revision=self.revision,
                                      first_index=self.values.next_index, values=values))  # fmt: skip
            for y in range(self.done_lines):
                self._send_values(np.arange(y * self.n, (y + 1) * self.n))

    def _serve(self) -> None:
        while not self._end.wait(0.003):
            if not self.hang.is_set():
                self.beat.beat()
            for name, server in self._servers.items():
                if self.hang.is_set() and name != "instrument":
                    continue
                for body, respond in server.receive():
                    request = control.decode_request(body)
                    self.requests.append(request)
                    respond(control.encode(self._reply(name, request)))

    def _reply(self, name: str, request: control.Request) -> control.Reply:
        refusal = self.refuse.get(type(request).__name__)
        if refusal is not None:
            return refusal
        match request:
            case control.Describe():
                return control.Description(name, name.split(".")[0], *self._describe(name))
            case Stop():
                self.stopped_ns = time.monotonic_ns()
                self.fault = f"STOP {request.reason}"
                self.say(control.StateChange(target="gate", state="tripped", reason=self.fault))
            case control.Rearm():
                self.fault = ""
                self.say(control.StateChange(target="gate", state="armed"))
            case control.SetParameters(target="plan", values=values):
                self.say(control.Revision(target="plan", topic="", revision=1, first_index=-1, values=values))
            case control.SetParameters():
                self.revise(request.values)
            case control.Run():
                self.say(control.StateChange(target="plan", state="running", data={"plan": request.plan}))
            case Pause() | Resume() if name == "experiment":
                state = "paused" if isinstance(request, Pause) else "running"
                self.say(control.StateChange(target="plan", state=state))
            case control.TakeControl():
                self.say(
                    control.StateChange(target="lease", state="taken", data={"holder": request.holder, "epoch": 3})
                )
        return control.Accepted(epoch=3)

    def _describe(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if name == "instrument":
            spread = {"C10": (-300e-9, 300e-9), "C12a": (-50e-9, 50e-9), "C12b": (-50e-9, 50e-9), "C30": (0.0, 2e-3)}
            state = {
                "name": "stem", "origin": self.origin, "modality": "stem", "commands": ["Scan", "MoveProbe"],
                "limits": {"dose": 1e7, "knobs": spread}, "fault": self.fault, "epoch": 3, "holder": "experiment",
                "safe_words": "Blank",
                "info": {"name": "stem", "origin": self.origin, "modality": "stem", "calibrations": [
                    {"kind": "convergence_angle", "value": [0.025]}, {"kind": "detector_scale", "value": [2.2e-3]},
                    {"kind": "pattern_centre", "value": [(self.pixels - 1) / 2] * 2}]},
                "knobs": {"C10": 12e-9, "C12a": -3e-9, "C12b": 0.0}, "readback": {"blanked": False},
                "dose": {"spent": 2.4e6, "limit": 1e7, "area_max": 3e21, "estimate": True}, "running": None,
                **self.state,
            }  # fmt: skip
            return state, {}
        if name == "experiment":
            return {"plans": ["explore", "overview"]}, {"plans": {"explore": PLAN}}
        if name == "recorder":
            return {"recording": self.recording, "session": "sessions/2026-03-01_120000_demo-stem"}, {}
        each = {"use": "annular_detector", "state": "running", "enabled": True, "revision": self.revision,
                "parameters": dict(self.parameters), "topics": [self.map_spec.name]}  # fmt: skip
        return {"plugins": {"annular_detector": each}}, {"annular_detector": ANNULUS}

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        for port in (self.camera, self.values, self.events, *self._servers.values()):
            port.close()
        self.bus.close()

"""Drivers that break one promise each; `check_driver` must name it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np

from probeloop.data import commands as c
from probeloop.data.control import Scalar
from probeloop.data.driver import Acquisition, InstrumentInfo
from probeloop.data.frame import FrameBuffer
from probeloop.data.limits import Alarm, Limits
from probeloop.testing.fake_driver import FAKE_LIMITS, FakeDriver


class MissingVerb(FakeDriver):
    set_beam = None  # type: ignore[assignment]


class WrongScanIndex(FakeDriver):
    def scan(self, command: c.Scan) -> Acquisition:
        return changed(super().scan(command), lambda buffer, n: buffer.scan_index.__iadd__(1000))


class BackwardsInTime(FakeDriver):
    def scan(self, command: c.Scan) -> Acquisition:
        return changed(super().scan(command), lambda buffer, n: buffer.time_ns[:n].sort() or _reverse(buffer, n))


class UnwrittenTime(FakeDriver):
    def scan(self, command: c.Scan) -> Acquisition:
        return changed(super().scan(command), lambda buffer, n: buffer.time_ns.__setitem__(slice(None), -1))


class WrongCount(FakeDriver):
    def scan(self, command: c.Scan) -> Acquisition:
        return changed(super().scan(command), lambda buffer, n: None, count=lambda n: n + 100)


class WrongShape(FakeDriver):
    def scan(self, command: c.Scan) -> Acquisition:
        made = super().scan(command)
        import msgspec

        return replace(made, spec=msgspec.structs.replace(made.spec, nav=made.spec.nav[::-1]))


class NeverEnds(FakeDriver):
    """Frames after the abort."""

    def scan(self, command: c.Scan) -> Acquisition:
        made = super().scan(command)

        def frames() -> Generator[int, FrameBuffer, None]:
            buffer = yield 0
            for index in range(45):
                buffer.time_ns[0], buffer.scan_index[0] = index, index
                try:
                    buffer = yield 1
                except GeneratorExit:
                    buffer = yield 1

        return replace(made, frames=frames())


class TwoSpectra(FakeDriver):
    def acquire_spectrum(self, command: c.AcquireSpectrum) -> Acquisition:
        made = super().acquire_spectrum(command)
        return replace(made, frames=self._frames(np.zeros(2, np.int64), np.zeros((1, 2)), 1e-3))


class UnsafeHang(FakeDriver):
    """Holds its lock while it moves, and make_safe wants the lock."""

    def __init__(self) -> None:
        super().__init__()
        self.moving, self.hardware = threading.Lock(), threading.Event()

    def move_probe(self, command: c.MoveProbe) -> int:
        with self.moving:
            self.hardware.wait(3.0)
        return super().move_probe(command)

    def make_safe(self) -> None:
        with self.moving:
            super().make_safe()

    def close(self) -> None:
        self.hardware.set()


class Watched(FakeDriver):
    """A good one, with two alarms."""

    alarms = {
        "deflection": Alarm(low=-1.0, high=1.0, units="V", missing_after=0.5),
        "z": Alarm(low=-1.0, high=1.0, when=("engaged",), missing_after=0.5),
    }

    def __init__(self, **options: object) -> None:
        kept = {name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__}
        super().__init__(limits=Limits(**{**kept, "alarms": self.alarms}), **options)  # type: ignore[arg-type]


class NoSense(Watched):
    sense = None  # type: ignore[assignment]


class SenseForgets(Watched):
    def sense(self) -> dict[str, Scalar]:
        return {"deflection": 0.1}


class SenseGivesText(Watched):
    def sense(self) -> dict[str, Scalar]:
        return {"deflection": 0.1, "z": "1e-9"}


class TripsAtRest(Watched):
    def sense(self) -> dict[str, Scalar]:
        return {"deflection": 5.0, "z": 5.0}


class UpsideDown(Watched):
    alarms = {"z": Alarm(low=1.0, high=-1.0, missing_after=0.5)}


class SenseRaises(Watched):
    def sense(self) -> dict[str, Scalar]:
        raise OSError("gone")


class SenseWaits(Watched):
    """Asks over the connection that a move keeps busy."""

    def __init__(self) -> None:
        super().__init__()
        self.moving, self.hardware = threading.Lock(), threading.Event()

    def move_probe(self, command: c.MoveProbe) -> int:
        with self.moving:
            self.hardware.wait(4.0)
        return super().move_probe(command)

    def sense(self) -> dict[str, Scalar]:
        with self.moving:
            return super().sense()

    def close(self) -> None:
        self.hardware.set()
        super().close()


class SlowSafe(FakeDriver):
    def make_safe(self) -> None:
        threading.Event().wait(0.6)
        super().make_safe()


class NotSafe(FakeDriver):
    def make_safe(self) -> None:
        super().make_safe()
        self.values["blanked"] = False


class NoReadBack(FakeDriver):
    def read_back(self) -> dict[str, Scalar]:
        return {name: value for name, value in super().read_back().items() if name != "bias"}


class NoSafeState(FakeDriver):
    def describe(self) -> InstrumentInfo:
        import msgspec

        return msgspec.structs.replace(super().describe(), safe_state=())


class NoTime(FakeDriver):
    def set_bias(self, command: c.SetBias) -> int:
        super().set_bias(command)
        return None  # type: ignore[return-value]


class NotTheSame(FakeDriver):
    """Its frames depend on nothing that a seed could fix."""

    made = 0

    def truth(self) -> dict[str, float]:
        return {}

    def scan(self, command: c.Scan) -> Acquisition:
        NotTheSame.made += 1
        return changed(super().scan(command), lambda buffer, n: buffer.data.__iadd__(NotTheSame.made % 1000))


class NoTruth(FakeDriver):
    pass


def _reverse(buffer: FrameBuffer, n: int) -> None:
    buffer.time_ns[:n] = buffer.time_ns[:n][::-1].copy()


def changed(made: Acquisition, change: object, count: object = lambda n: n) -> Acquisition:
    """Return an acquisition whose buffers are spoilt before they are handed back."""

    def frames() -> Generator[int, FrameBuffer, None]:
        inner = made.frames
        next(inner)
        buffer = yield 0
        while True:
            try:
                n = inner.send(buffer)
            except StopIteration:
                return
            change(buffer, n)  # type: ignore[operator]
            buffer = yield count(n)  # type: ignore[operator]

    return replace(made, frames=frames())


class Simulated(FakeDriver):
    """One that keeps its promises: noise of a seed, and a truth that goes with its frames."""

    seen = 0

    def truth(self) -> dict[str, object]:
        return {"slope": np.ones(3), "words": ["a"], "where": lambda x: x}

    def scan(self, command: c.Scan) -> Acquisition:
        made = super().scan(command)
        ny, nx = command.shape
        times = self.clock.now_ns() + round(command.dwell_time * 1e9) * np.arange(ny * nx)
        noise = np.random.default_rng(1).poisson(20, (ny * nx, *made.spec.frame_shape)).astype(np.uint16)

        def noisy(buffer: FrameBuffer, n: int) -> None:
            buffer.data[:n] = noise[buffer.scan_index[:n]]

        return self.told(changed(made, noisy), {"time_ns": times, "C10": np.array([1e-9])}, noise)

    def told(self, made: Acquisition, truth: dict[str, object], noise: np.ndarray[Any, Any]) -> Acquisition:
        return replace(made, truth=lambda: truth)


class TellsTruthInChannel(Simulated):
    def read_back(self) -> dict[str, Scalar]:
        return super().read_back() | {"true_defocus": 1e-9}


class TruthIsMeasured(Simulated):
    def told(self, made: Acquisition, truth: dict[str, object], noise: np.ndarray[Any, Any]) -> Acquisition:
        return super().told(made, truth | {"corner": noise[:, 0, 0]}, noise)


class TruthOfOthers(Simulated):
    def told(self, made: Acquisition, truth: dict[str, object], noise: np.ndarray[Any, Any]) -> Acquisition:
        return super().told(made, {"time_ns": np.arange(45), "odd": np.ones(7)}, noise)


class TruthWithoutTime(Simulated):
    def told(self, made: Acquisition, truth: dict[str, object], noise: np.ndarray[Any, Any]) -> Acquisition:
        return super().told(made, {"C10": np.ones(45)}, noise)


class AskingDisturbs(Simulated):
    def truth(self) -> dict[str, object]:
        self.values["beam_current"] = 1e-12
        self.seen += 1
        return super().truth()

    def scan(self, command: c.Scan) -> Acquisition:
        return changed(super().scan(command), lambda buffer, n: buffer.data[:n].__iadd__(self.seen))


class BackDoor(Simulated):
    def set_focus(self, value: float) -> None:
        """Not a command."""


class OtherTruth(Simulated):
    made = 0

    def truth(self) -> dict[str, object]:
        OtherTruth.made += 1
        return {"slope": np.ones(3) * OtherTruth.made}

"""A driver as a user writes one: a microscope with a beam and a tip on the other end of a socket.

Its hardware is the program `probeloop.testing.hardware`, which accepts two connections: one for the instrument's
process, one for the guard's.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Annotated, Any

import msgspec
import numpy as np

from probeloop.api import (
    Acquisition,
    Approach,
    Axis,
    Blank,
    FrameBuffer,
    InstrumentInfo,
    Limits,
    MonotonicClock,
    MoveProbe,
    Scan,
    SetBias,
    Settings,
    StreamSpec,
    Unblank,
    Withdraw,
    visit_order,
)
from probeloop.testing.hardware import SAFE, HardwareLink

_PIXELS = 16


class Wire(Settings):
    """Where the hardware is."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class BenchColumn:
    """Beam, tip and bias over one connection; the guard gets another."""

    Parameters = Wire

    def __init__(self, parameters: Wire) -> None:
        self.clock = MonotonicClock()
        self._link = HardwareLink(parameters.port, "instrument")
        self._safe = threading.Event()

    @staticmethod
    def guard_connection(parameters: Wire) -> GuardPort:
        """Connect once more, for the guard."""
        return GuardPort(parameters.port)

    def describe(self) -> InstrumentInfo:
        """Say what it can do."""
        return InstrumentInfo(
            name="bench column",
            modality="stm",
            origin="experiment",
            commands=("Scan", "MoveProbe", "Unblank", "Blank", "Approach", "Withdraw", "SetBias", "Stop", "Pause",
                      "Resume", "Settle", "Read", "Annotate"),
            limits=Limits(region=((0.0, 0.0), (100e-9, 100e-9)), bias=(-2.0, 2.0), dwell_time=(1e-4, 1.0)),
            topics={"camera": 2 * _PIXELS**2},
            safe_state=(Withdraw(), SetBias(0.0), Blank()),
            safe_readback=dict(SAFE),
            camera_pixels=_PIXELS**2,
            footprint=1e-10,
        )  # fmt: skip

    def read_back(self) -> dict[str, Any]:
        """Ask the hardware."""
        return dict(self._link.ask("get")["state"])

    def make_safe(self) -> None:
        """End a scan, then withdraw, ramp down and blank, which the hardware does in one go."""
        self._safe.set()
        self._link.ask("safe")

    def close(self) -> None:
        """Let go of the hardware."""
        self._safe.set()
        self._link.close()

    def _set(self, **values: Any) -> int:
        self._safe.clear()
        self._link.ask("set", values=values)
        return self.clock.now_ns()

    def move_probe(self, command: MoveProbe) -> int:
        """Move."""
        return self._set(position_x=command.position[0], position_y=command.position[1])

    def unblank(self, command: Unblank) -> int:
        """Put the beam on."""
        return self._set(blanked=False)

    def blank(self, command: Blank) -> int:
        """Take it off."""
        return self._set(blanked=True)

    def approach(self, command: Approach) -> int:
        """Come into feedback."""
        return self._set(feedback="engaged")

    def withdraw(self, command: Withdraw) -> int:
        """Leave the surface."""
        return self._set(feedback="withdrawn")

    def set_bias(self, command: SetBias) -> int:
        """Set the bias."""
        return self._set(bias=command.value)

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan."""
        self._safe.clear()
        ny, nx = command.shape
        nav = (
            Axis("y", ny, command.region.height / ny, units="m"),
            Axis("x", nx, command.region.width / nx, units="m"),
        )
        sig = (Axis("ky", _PIXELS), Axis("kx", _PIXELS))
        period = round(command.dwell_time * 1e9)
        spec = StreamSpec("camera", "frames", "<u2", nav, sig, exposure_ns=period)
        order = np.tile(visit_order(command.shape, command.order), command.frames)
        places = command.region.positions(command.shape, order)
        return Acquisition("camera", spec, self._frames(order, places, period), self.clock.now_ns(), period)

    def _frames(self, order: Any, places: Any, period: int) -> Generator[int, FrameBuffer, None]:
        buffer = yield 0
        at = 0
        while at < len(order) and not self._safe.is_set():
            n = min(buffer.capacity, len(order) - at)
            start = self.clock.now_ns()
            if not self.clock.wait_until(start + n * period, self._safe):
                return
            counts = self._link.ask("measure", n=n)["counts"]
            buffer.data[:n] = np.asarray(counts, np.uint16)[:, None, None]
            buffer.scan_index[:n] = order[at : at + n]
            buffer.position[:n] = places[at : at + n]
            buffer.time_ns[:n] = start + period * np.arange(n)
            at += n
            buffer = yield n


class GuardPort:
    """The guard's connection."""

    def __init__(self, port: int) -> None:
        self._link = HardwareLink(port, "guard")

    def make_safe(self) -> None:
        """Withdraw, ramp down and blank."""
        self._link.ask("safe")

    def read_back(self) -> dict[str, Any]:
        """Ask the hardware."""
        return dict(self._link.ask("get")["state"])

    def close(self) -> None:
        """Let go."""
        self._link.close()

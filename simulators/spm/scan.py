"""A scan, line by line: forth and back, one block a line, stored in specimen order."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Channel, DriverError, FrameBuffer, FrameFlag, Scan

from .kernels import HIGHEST, MOST_STEPS, STATE, STEP, scan_line

if TYPE_CHECKING:
    from .instrument import SpmSimulator

_NAMES = (("height", "height", "m"), ("response", "piezoresponse", "m"),
          ("resonance", "contact resonance", "Hz"), ("deflection", "deflection", "m"))  # fmt: skip
CHANNELS = tuple(
    Channel(f"{name}_{direction}", quantity, units, direction)
    for name, quantity, units in _NAMES
    for direction in ("trace", "retrace")
)
_COMPLEX = frozenset(i for i, c in enumerate(CHANNELS) if c.quantity == "piezoresponse")
_PLAIN = tuple(i for i, c in enumerate(CHANNELS) if c.quantity in ("height", "deflection"))
_HEIGHT_NOISE, _BEND_NOISE, _FREQUENCY_NOISE = 6e-11, 5e-11, 25.0  # at 1 ms; [m], [m], [Hz]
_LINE_HEIGHT, _LINE_GAIN = 6e-11, 0.012  # from line to line: steps of z [m], share of the response


def chosen(names: tuple[str, ...], piezoelectric: bool) -> tuple[int, ...]:
    """Return the channels asked for, all that the specimen has where none is; raises DriverError."""
    there = tuple(range(len(CHANNELS))) if piezoelectric else _PLAIN
    known = {CHANNELS[i].name: i for i in there}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DriverError(f"no channel {', '.join(unknown)}", f"there are: {', '.join(known)}")
    return tuple(sorted({known[name] for name in names})) or there


def dtype_of(channels: tuple[int, ...]) -> str:
    """Return complex64 where lock-in data are among the channels, else float32."""
    return "<c8" if _COMPLEX & set(channels) else "<f4"


def line_noise(seed: int, acquisition: int, line: int, nx: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return standard normal numbers of a line, (nx, 2, 5) and (2,); the same for the same three numbers."""
    stream = np.random.Generator(np.random.Philox(key=seed, counter=[0, line, acquisition, 0]))
    return stream.standard_normal((nx, 2, 5), np.float32), stream.standard_normal(2, np.float32)


@dataclass
class LineScan:
    """A scan under way. places (ny * nx, 2) (x, y) [m]; start_ns: of its first line."""

    spm: SpmSimulator
    command: Scan
    channels: tuple[int, ...]
    acquisition: int
    cancelled: threading.Event

    def __post_init__(self) -> None:
        ny, nx = self.command.shape
        self.places = self.command.region.positions(self.command.shape).reshape(ny, nx, 2)
        self.period = round(self.command.dwell_time * 1e9)
        self.line_ns = 2 * nx * self.period + round(self.command.flyback_time * 1e9)
        self._full = np.zeros((nx, len(CHANNELS)), np.complex64)
        scale = (1e6 / max(1, self.period)) ** 0.5
        sizes = (_HEIGHT_NOISE, self.spm.parameters.noise, _FREQUENCY_NOISE, _BEND_NOISE)
        self._sizes = np.array(sizes) * scale
        steps = round(self.command.dwell_time / STEP)
        self._steps = min(MOST_STEPS, max(1, steps))

    def frames(self) -> Generator[int, FrameBuffer, None]:
        """Fill a line at a time, or the part of it that fits."""
        spm, (ny, nx) = self.spm, self.command.shape
        buffer = yield 0
        start = int(spm.clock.now_ns())
        spm.scan_began(self.cancelled)
        try:
            for number in range(ny * self.command.frames):
                row = number % ny
                if self.cancelled.is_set():
                    return
                begun = start + number * self.line_ns
                values = self._draw(number, row, begun)
                if not spm.clock.wait_until(begun + self.line_ns, self.cancelled):
                    return
                at = 0
                while at < nx:
                    n = min(buffer.capacity, nx - at)
                    self._hand_out(buffer, n, at, number, row, begun, values)
                    at += n
                    buffer = yield n
        finally:
            spm.scan_ended(self.cancelled)

    def _draw(self, number: int, row: int, begun: int) -> NDArray[Any]:
        spm, nx = self.spm, self.command.shape[1]
        time = begun * 1e-9
        xy = spm.scanner.line(self.places[row], time, nx * self.period * 1e-9)
        specimen, feedback = spm.specimen, spm.feedback
        state = feedback.state.copy() if feedback.contact != "withdrawn" else _away()
        state[HIGHEST] = 0.0
        closed = float(feedback.closed and feedback.contact == "engaged")
        noise, whole = line_noise(spm.parameters.seed, self.acquisition, number, nx)
        offset = spm.height_offset(time) + _LINE_HEIGHT * float(whole[0])
        loop = (closed, feedback.bend, feedback.proportional, feedback.integral, offset)
        gain, *tuned = spm.lock_in()
        lock_in = (gain * (1 + _LINE_GAIN * float(whole[1])), *tuned)
        scan_line(
            self._full, xy, spm.tip.felt, specimen.polarisation, specimen.stiffness, specimen.edge, specimen.cell,
            self._steps, state, loop, feedback.piezo, lock_in, (noise, self._sizes),
        )  # fmt: skip
        spm.drew_line(state, self.places[row], xy, self.cancelled)
        made = self._full[:, list(self.channels)] if len(self.channels) < len(CHANNELS) else self._full
        return made if dtype_of(self.channels) == "<c8" else made.real

    def _hand_out(
        self, buffer: FrameBuffer, n: int, at: int, number: int, row: int, begun: int, values: NDArray[Any]
    ) -> None:
        ny, nx = self.command.shape
        part = slice(at, at + n)
        buffer.data[:n] = values[part, 0] if len(self.channels) == 1 else values[part]
        column = np.arange(at, at + n)
        buffer.time_ns[:n] = begun + column * self.period
        buffer.scan_index[:n] = row * nx + column
        buffer.position[:n] = self.places[row, part]
        buffer.dose[:n] = 0.0
        buffer.flags[:n] = int(FrameFlag.REPEAT_VISIT) if number >= ny else 0
        if at == 0:
            buffer.flags[0] |= int(FrameFlag.LINE_START)
        if at + n == nx:
            buffer.flags[n - 1] |= int(FrameFlag.LINE_END)


def _away() -> NDArray[np.float64]:
    """Return the loop's state of a tip that is nowhere near."""
    state = np.zeros(STATE)
    state[0] = state[2] = 1e-6
    return state

"""The replayed instrument: describes itself, scans and measures what the file holds, at the file's places."""

from __future__ import annotations

import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    BEPS,
    EDS,
    EELS,
    IV,
    AcquireSpectrum,
    Acquisition,
    Axis,
    Diffraction,
    DriverError,
    ForceCurve,
    FrameBuffer,
    FrameFlag,
    Grid,
    InstrumentInfo,
    Limits,
    MoveProbe,
    Scan,
    SourceError,
    StreamSpec,
    VirtualClock,
    copy_into,
    visit_order,
)

from .measured import Measured, overview
from .readers import locate, read
from .settings import ReplaySettings

_MOVE_SETTLING_NS = 1_000_000
_LONGEST_WAIT_NS = 250_000_000


class Replay:
    """Measured data as an instrument. Scans go out on `scan` (maps) or `camera` (patterns), spectra on `spectrum`."""

    Parameters: ClassVar[type[ReplaySettings]] = ReplaySettings

    def __init__(self, parameters: ReplaySettings) -> None:
        """Read the file; raises SourceError."""
        self.parameters = p = parameters
        self.path = locate(p.file)
        found = read(self.path)
        self.main = _chosen(found, p.dataset, self.path).scaled(p.pixel_size, self.path.name)
        self.maps = self._maps([m for m in found if m is not self.main])
        self.clock = VirtualClock(None if p.pace == "unlimited" else float(p.pace))
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._visited: set[int] = set()
        self._position = self.main.origin

    def _maps(self, others: list[Measured]) -> Measured | None:
        """Return what a scan shows: the patterns (None), the maps of the file, or an overview of its spectra."""
        if self.main.kind == "frames":
            return None
        if self.main.kind == "maps":
            return self.main
        beside = next((m for m in others if m.kind == "maps" and m.shape == self.main.shape), None)
        return replace(beside or overview(self.main), step=self.main.step, origin=self.main.origin)

    def describe(self) -> InstrumentInfo:
        """Say what was measured, and what can be asked of it."""
        scanned, p = self._scanned, self.parameters
        (x0, y0), (x1, y1) = self.main.region
        origin, step = self.main.grid()
        kinds = ["Scan", "MoveProbe", *(["AcquireSpectrum"] if self.main.kind != "maps" else [])]
        topics = {self._topic: _frame_bytes(scanned)}
        if self.main.kind != "maps":
            topics["spectrum"] = _frame_bytes(self.main)
        ny, nx = self.main.shape
        return InstrumentInfo(
            name="replay",
            modality="none",
            origin="replay",
            commands=(*kinds, "Stop", "Pause", "Resume", "Settle", "Read", "Annotate"),
            # what a session lacks was lost then, not now
            limits=Limits(region=((x0, y0), (x1, y1)), dwell_time=(1e-7, 60.0), missed_triggers=100_000_000),
            grid=Grid((float(origin[0]), float(origin[1])), (float(step[0]), float(step[1]))),
            topics=topics,
            settling={"MoveProbe": _MOVE_SETTLING_NS / 1e9},
            can_wait=p.can_wait,
            description=f"replay of {self.path.name}: {self.main.name}, {ny} x {nx} pixels",
        )

    def read_back(self) -> dict[str, Any]:
        """Return where the probe is."""
        with self._lock:
            return {"position_x": self._position[0], "position_y": self._position[1]}

    def make_safe(self) -> None:
        """End what is running; a file needs no more."""
        self._cancelled.set()

    def close(self) -> None:
        """End what is running."""
        self.make_safe()

    def move_probe(self, command: MoveProbe) -> int:
        """Move to the nearest measured place."""
        _, true = self.main.nearest(np.asarray([command.position], np.float64))
        with self._lock:
            self._position = (float(true[0, 0]), float(true[0, 1]))
        settled = int(self.clock.now_ns()) + _MOVE_SETTLING_NS
        self.clock.wait_until(settled)
        return settled

    def scan(self, command: Scan) -> Acquisition:
        """Begin a scan: each pixel shows the nearest measured one, whose place is in the position column."""
        scanned, shape = self._scanned, command.shape
        cells, true = scanned.nearest(command.region.positions(shape))
        channels = [i for i, c in enumerate(scanned.channels) if not command.channels or c.name in command.channels]
        unknown = sorted(set(command.channels) - {c.name for c in scanned.channels})
        if unknown:
            known = ", ".join(c.name for c in scanned.channels)
            raise DriverError(f"no channel {', '.join(unknown)} was measured", f"there are: {known or 'none'}")
        spec = self._spec(scanned, self._topic, self._nav(command), channels)
        order = np.tile(visit_order(shape, command.order), command.frames)
        repeat = _repeats(cells[order[: shape[0] * shape[1]]])
        period, flyback = round(command.dwell_time * 1e9), round(command.flyback_time * 1e9)
        run = _Run(order, cells, true, np.tile(repeat, command.frames), shape, period, flyback)
        run.repeat[shape[0] * shape[1] :] = True
        frames = self._lines(run, scanned, channels if scanned.kind == "maps" else None, self._begin())
        # a map's line is one block, which 2 ms must not cut; patterns: sized by the time of who waits for them
        on_host = 0 if scanned.kind == "maps" else round(period / (self.clock.pace or 1e9))
        spec = msgspec.structs.replace(spec, exposure_ns=period)
        return Acquisition(self._topic, spec, frames, self.clock.now_ns(), on_host, self._settings(scanned))

    def acquire_spectrum(self, command: AcquireSpectrum) -> Acquisition:
        """Return what was measured at the nearest place, bit for bit; a second visit is flagged."""
        if self.main.kind == "maps":
            raise DriverError(f"{self.path.name} holds no spectra", "give a file with spectra")
        self._check_kind(command)
        cells, true = self.main.nearest(np.asarray([command.position], np.float64))
        cell = int(cells[0])
        if self.main.present is not None and not self.main.present.ravel()[cell]:
            raise DriverError("nothing was measured there in that session", "ask for a place that it visited")
        nanoseconds = self._duration_ns(command)
        spec = self._spec(self.main, "spectrum", (), None)
        frames = self._one(cell, true[0], nanoseconds, self._begin())
        on_host = round(nanoseconds / (self.clock.pace or 1e9))
        return Acquisition("spectrum", spec, frames, self.clock.now_ns(), on_host, self._settings(self.main))

    @property
    def _scanned(self) -> Measured:
        return self.main if self.maps is None else self.maps

    @property
    def _topic(self) -> str:
        return "camera" if self.maps is None else "scan"

    def _begin(self) -> threading.Event:
        with self._lock:
            self._cancelled = threading.Event()
        self.clock.restart_pace()
        return self._cancelled

    def _lines(
        self, run: _Run, scanned: Measured, channels: list[int] | None, cancelled: threading.Event
    ) -> Generator[int, FrameBuffer, None]:
        """Fill one line at a time, or the part of it that fits; in parts where a line takes long."""
        start: int = self.clock.now_ns()
        nx, total, at = run.shape[1], len(run.order), 0
        pace = self.clock.pace or 1e9
        longest = max(1, int(_LONGEST_WAIT_NS * pace / max(1, run.period)))
        buffer = yield 0
        while at < total and not cancelled.is_set():
            n = min(buffer.capacity, nx - at % nx, longest)
            t = np.arange(at, at + n)
            index = run.order[at : at + n]
            values = scanned.frames(run.cells[index])
            chosen = values if channels is None else values[:, channels]
            alone = channels is not None and len(channels) == 1
            copy_into(buffer.data[:n], chosen[:, 0] if alone else chosen)
            buffer.time_ns[:n] = start + t * run.period + (t // nx) * run.flyback
            buffer.scan_index[:n] = index
            buffer.position[:n] = run.true[index]
            buffer.dose[:n] = 0.0
            buffer.flags[:n] = self._flags(t, nx, run.repeat[at : at + n], run.cells[index], scanned)
            at += n
            end = int(buffer.time_ns[n - 1]) + run.period + (run.flyback if at % nx == 0 else 0)
            if not self.clock.wait_until(end, cancelled):
                return
            with self._lock:
                x, y = run.true[index[-1]]
                self._position = (float(x), float(y))
            buffer = yield n

    def _flags(
        self, t: NDArray[np.int64], nx: int, repeat: NDArray[np.bool_], cells: NDArray[np.int64], scanned: Measured
    ) -> NDArray[np.uint16]:
        flags = np.zeros(len(t), np.uint16)
        flags[t % nx == 0] |= int(FrameFlag.LINE_START)
        flags[t % nx == nx - 1] |= int(FrameFlag.LINE_END)
        flags[repeat] |= int(FrameFlag.REPEAT_VISIT)
        if scanned.present is not None:  # a pixel that the replayed session never measured stays missing
            flags[~scanned.present.ravel()[cells]] |= int(FrameFlag.TRIGGER_MISSED)
        return flags

    def _one(
        self, cell: int, place: NDArray[np.float64], nanoseconds: int, cancelled: threading.Event
    ) -> Generator[int, FrameBuffer, None]:
        start: int = self.clock.now_ns()
        buffer = yield 0
        if not self.clock.wait_until(start + nanoseconds, cancelled):
            return
        buffer.data[0] = self.main.frames(np.array([cell]))[0]
        buffer.time_ns[0], buffer.scan_index[0], buffer.position[0], buffer.dose[0] = start, 0, place, 0.0
        buffer.flags[0] = int(FrameFlag.REPEAT_VISIT) if cell in self._visited else 0
        self._visited.add(cell)
        with self._lock:
            self._position = (float(place[0]), float(place[1]))
        yield 1

    def _nav(self, command: Scan) -> tuple[Axis, ...]:
        """Return the scan axes; of a rotated region, along its own sides from its centre."""
        region, (ny, nx) = command.region, command.shape
        dy, dx = region.height / ny, region.width / nx
        return (
            Axis("y", ny, dy, region.centre_y - (ny - 1) / 2 * dy, "m"),
            Axis("x", nx, dx, region.centre_x - (nx - 1) / 2 * dx, "m"),
        )

    def _spec(self, measured: Measured, topic: str, nav: tuple[Axis, ...], channels: list[int] | None) -> StreamSpec:
        kind: Any = {"maps": "values", "spectra": "spectra", "frames": "frames"}[measured.kind]
        chosen = measured.channels if channels is None else tuple(measured.channels[i] for i in channels)
        return StreamSpec(
            topic,
            kind,
            measured.data.dtype.newbyteorder("=").str,
            nav,
            measured.sig,
            chosen,
            aux=measured.aux,
            units=measured.units or (chosen[0].units if len(chosen) == 1 else ""),
            origin="replay",
            stamp="hardware",
            can_wait=self.parameters.can_wait,
            may_be_nan=measured.data.dtype.kind in "fc" and not bool(np.isfinite(measured.data).all()),
            position_kind="measured",
        )

    def _settings(self, measured: Measured) -> dict[str, Any]:
        _, step = measured.grid()
        size = self.parameters.pixel_size
        told = {
            "file": str(self.path.resolve()),
            "pixel_size": size,
            "dataset": measured.name,
            "step_x": float(step[0]),
            "step_y": float(step[1]),
        }
        return {**self.read_back(), **told}

    def _check_kind(self, command: AcquireSpectrum) -> None:
        """Refuse another kind of spectrum than the file's."""
        units = self.main.sig[-1].units
        bias = self.main.aux.get("bias")
        allowed: tuple[type[Any], ...]
        if self.main.kind == "frames":
            allowed = (Diffraction,)
        else:
            allowed = (
                (BEPS, IV) if bias is not None or units == "V" else (ForceCurve,) if units == "m" else (EELS, EDS)
            )
            if not units and bias is None:
                allowed = (BEPS, IV, ForceCurve, EELS, EDS)
        if not isinstance(command.kind, allowed):
            names = " or ".join(kind.__name__ for kind in allowed)
            raise DriverError(f"{self.path.name} holds no {type(command.kind).__name__}", f"ask for {names}")
        waveform = getattr(command.kind, "waveform", ())
        if waveform and bias is not None and not np.allclose(waveform, bias):
            raise DriverError("another waveform was measured than the one asked for", "leave the waveform empty")

    def _duration_ns(self, command: AcquireSpectrum) -> int:
        kind, n = command.kind, self.main.sig[-1].size
        seconds = {
            BEPS: lambda k: n * k.cycles * k.pulse_time,
            IV: lambda k: abs(k.stop - k.start) * (2 if k.both_ways else 1) / k.ramp + k.settle,
            EELS: lambda k: k.exposure * k.n,
            ForceCurve: lambda k: k.dwell + 2e-6 / max(k.speed, 1e-9),
        }.get(type(kind), lambda k: k.exposure)(kind)
        return round(float(seconds) * 1e9)


class _Run:
    """A scan under way: visits in order; cells, places (x, y) [m] by scan index; repeats by visit; times [ns]."""

    def __init__(
        self, order: NDArray[np.int64], cells: NDArray[np.int64], true: NDArray[np.float64],
        repeat: NDArray[np.bool_], shape: tuple[int, int], period: int, flyback: int,
    ) -> None:  # fmt: skip
        self.order, self.cells, self.true, self.repeat = order, cells, true, repeat
        self.shape, self.period, self.flyback = shape, period, flyback


def _repeats(cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which visits show a cell that was shown before in this scan."""
    made = np.ones(len(cells), bool)
    made[np.unique(cells, return_index=True)[1]] = False
    return made


def _frame_bytes(measured: Measured) -> int:
    return int(np.prod(measured.data.shape[2:], dtype=np.int64)) * measured.data.dtype.itemsize


def _chosen(found: list[Measured], wanted: str, path: Path) -> Measured:
    """Return the dataset that is `wanted`, by name or number; else the one with the most in it."""
    if not wanted:
        return max(found, key=lambda m: (m.kind != "maps", m.data.size))
    by_number = found[int(wanted)] if wanted.isdigit() and int(wanted) < len(found) else None
    chosen = next((m for m in found if m.name == wanted), by_number)
    if chosen is None:
        names = ", ".join(f"{i} = {m.name}" for i, m in enumerate(found))
        raise SourceError(f"{path.name} holds no dataset {wanted!r}", f"there are: {names}")
    return chosen

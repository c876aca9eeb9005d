"""Frames as a Merlin sends them: headers, processed and raw pixels, and where the counts come from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probeloop.api import FrameBuffer, Region, Scan

from ..stem import StemSettings, StemSimulator

PREFIX = 15  # bytes of "MPX,0000000000,"
NUMBER_AT = PREFIX + 4  # of its six digits in a message
STAMP_BYTES = 29
_CODES = {1: ("U08", "u1"), 6: ("U08", "u1"), 12: ("U16", ">u2"), 24: ("U32", ">u4")}
_THRESHOLDS = "5.110000E+2,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0"
_DACS = (
    "3RX,023,511,000,000,000,000,000,000,100,255,100,125,100,100,080,100,090,030,128,004,255,126,128,174,172,511,511,"
)
_EPOCH = np.datetime64("2026-01-01T00:00:00", "ns")


class Source(Protocol):
    """Where the counts come from. shape: (ky, kx)."""

    shape: tuple[int, int]

    def begin(self, frames: int) -> None:
        """Begin a run of so many frames."""
        ...

    def counts(self, first: int, count: int) -> NDArray[np.uint32]:
        """Return the electrons of frames [first, first + count) of the run, (count, ky, kx); in order."""
        ...


class PoolSource:
    """Poisson frames out of a pool, again and again: fast, and every frame differs from its neighbours."""

    def __init__(
        self, shape: tuple[int, int] = (256, 256), mean: float = 0.15, pool: int = 31, seed: int = 1
    ) -> None:
        self.shape, self.size = shape, pool
        rng = np.random.default_rng(seed)
        self.frames: NDArray[np.uint32] = rng.poisson(mean, (pool, *shape)).astype(np.uint32)
        self.frames[:, 0, : min(8, shape[1])] += np.arange(pool, dtype=np.uint32)[:, None] % 60

    def begin(self, frames: int) -> None:
        """Begin anew."""

    def counts(self, first: int, count: int) -> NDArray[np.uint32]:
        """Return frame k of the pool for frame k of the run."""
        made: NDArray[np.uint32] = self.frames[(first + np.arange(count)) % self.size]
        return made


class StemSource:
    """The simulated 4D-STEM behind the detector: it scans a map of the run's frames over its specimen, and again."""

    def __init__(
        self, pixels: int = 256, field: float = 4e-9, scan: tuple[int, int] | None = None, seed: int = 1,
        dwell: float = 1e-3,
    ) -> None:  # fmt: skip
        angle = 2.35 * 128 / pixels
        self._simulator = StemSimulator(StemSettings(seed=seed, pixels=pixels, pixel_angle=angle, pace=None))
        self.shape = (pixels, pixels)
        self._region, self._scan, self._dwell = Region(0.0, 0.0, field, field), scan, dwell
        self._flow: Iterator[NDArray[np.uint32]] = iter(())

    def begin(self, frames: int) -> None:
        """Begin a scan of the shape that was named, else of the squarest one that `frames` allows."""
        side = math.isqrt(frames)
        while frames % side:
            side -= 1
        self._flow = self._frames(self._scan or (side, frames // side))

    def counts(self, first: int, count: int) -> NDArray[np.uint32]:
        """Return the next frames of the scan."""
        return np.stack([next(self._flow) for _ in range(count)])

    def close(self) -> None:
        """End the simulation."""
        self._simulator.close()

    def _frames(self, shape: tuple[int, int]) -> Iterator[NDArray[np.uint32]]:
        while True:
            made = self._simulator.scan(Scan(self._region, shape, self._dwell))
            buffer = FrameBuffer.allocate(made.spec, 16)
            next(made.frames)
            while True:
                try:
                    n = made.frames.send(buffer)
                except StopIteration:
                    break
                good = buffer.scan_index[:n] >= 0
                yield from buffer.data[:n][good].astype(np.uint32)


@dataclass(frozen=True)
class Format:
    """How frames go out. depth: bits of a counter; exposure [s]; threshold [keV]."""

    shape: tuple[int, int]
    depth: int = 12
    raw: bool = False
    quad: bool = False
    exposure: float = 1e-3
    threshold: float = 40.0

    @property
    def header_bytes(self) -> int:
        """Length of a frame's header."""
        return 768 if self.quad else 384

    def clipped(self, counts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return what the counters hold: they stop when they are full."""
        return np.minimum(counts, np.uint32((1 << self.depth) - 1))

    def header(self) -> bytes:
        """Return the header of frame 0, whose time stamp is to be written."""
        ky, kx = self.shape
        code = "R64" if self.raw else _CODES[self.depth][0]
        if self.raw and self.quad:
            ky, kx = ky // 2, 2 * kx
        if self.raw and self.depth == 24:
            kx *= 2  # each counter of 12 bits is counted
        chips, layout, mask = (4, "2x2", "0F") if self.quad else (1, "1x1", "01")
        text = (
            f"MQ1,000000,{self.header_bytes:05d},{chips:02d},{kx:04d},{ky:04d},{code},{layout:>6},{mask},"
            f"2026-01-01 00:00:00.000000,{self.exposure:.6f},0,0,0,{self.threshold:.6E},{_THRESHOLDS},"
            f"{_DACS * chips}MQ1A,{str(_EPOCH)[:STAMP_BYTES]}Z,{round(self.exposure * 1e9)}ns,{self.depth},"
        )
        return text.encode().ljust(self.header_bytes, b"\0")

    def pixels(self, counts: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return the bytes of the pixels of (N, ky, kx) counts, (N, bytes)."""
        held = self.clipped(counts)
        if not self.raw:
            return np.ascontiguousarray(held.astype(_CODES[self.depth][1])).view(np.uint8).reshape(len(held), -1)
        if self.depth == 24:
            halves = held >> np.uint32(12), held & np.uint32(0xFFF)
            return np.concatenate([self._words(half, 12) for half in halves], axis=1)
        return self._words(held, self.depth)

    def _words(self, held: NDArray[np.uint32], depth: int) -> NDArray[np.uint8]:
        """Return the chips' rows as 64-bit words, the first pixel lowest, (N, bytes)."""
        rows = self._chip_rows(held)
        if depth == 1:
            bits = rows.astype(np.uint8).reshape(len(held), -1, 8, 8)[:, :, ::-1]
            return np.packbits(bits, axis=-1, bitorder="little").reshape(len(held), -1)
        per, dtype = (8, "u1") if depth == 6 else (4, ">u2")
        words = np.ascontiguousarray(rows.astype(dtype).reshape(len(held), -1, per)[:, :, ::-1])
        return words.view(np.uint8).reshape(len(held), -1)

    def _chip_rows(self, held: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the pixels as the chips lie beside each other; of a quad the lower two are turned."""
        if not self.quad:
            return held
        h, w = self.shape[0] // 2, self.shape[1] // 2
        upper, lower = held[:, :h], held[:, h:][:, ::-1, ::-1]
        return np.concatenate([lower[..., :w], lower[..., w:], upper[..., w:], upper[..., :w]], axis=-1)

    def messages(self, counts: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Return whole messages without number and time, (N, bytes)."""
        pixels = self.pixels(counts)
        header = self.header()
        begin = b"MPX,%010d,%s" % (len(header) + pixels.shape[1] + 1, header)
        made = np.empty((len(counts), len(begin) + pixels.shape[1]), np.uint8)
        made[:, : len(begin)] = np.frombuffer(begin, np.uint8)
        made[:, len(begin) :] = pixels
        return made

    @property
    def stamp_at(self) -> int:
        """Where the time stamp is in a message."""
        return PREFIX + self.header().index(b"MQ1A,") + 5

    def number(self, messages: NDArray[np.uint8], first: int, time_ns: NDArray[np.int64]) -> None:
        """Write numbers from `first` on and times [ns since the server's epoch] into whole messages."""
        numbers = first + np.arange(len(messages))
        digits = (numbers[:, None] // 10 ** np.arange(5, -1, -1)) % 10
        messages[:, NUMBER_AT : NUMBER_AT + 6] = digits + 48
        stamps = np.datetime_as_string(_EPOCH + time_ns.astype("m8[ns]")).astype(f"S{STAMP_BYTES}")
        at = self.stamp_at
        messages[:, at : at + STAMP_BYTES] = stamps.view(np.uint8).reshape(len(messages), STAMP_BYTES)

    def acquisition_header(self, frames: int, per_trigger: int, trigger: str) -> bytes:
        """Return the acquisition header, 2,048 bytes."""
        lines = {
            "Time and Date Stamp (day, mnth, yr, hr, min, s)": "01/01/2026 00:00:00",
            "Chip ID": "simulated, - , - , - ",
            "Chip Type (Medipix 3.0, Medipix 3.1, Medipix 3RX)": "Medipix 3RX",
            "Assembly Size (NX1, 2X2)": "   2x2" if self.quad else "   1x1",
            "Chip Mode  (SPM, CSM, CM, CSCM)": "SPM",
            "Counter Depth (number)": str(self.depth),
            "Gain": "SLGM",
            "Active Counters": "Counter 0",
            "Thresholds (keV)": f"{self.threshold:.6E},{_THRESHOLDS}",
            "Gap Fill Mode": "None",
            "Flat Field File": "None",
            "Acquisition Type (Normal, Th_scan, Config)": "Normal",
            "Frames in Acquisition (Number)": str(frames),
            "Frames per Trigger (Number)": str(per_trigger),
            "Trigger Start (Positive, Negative, Internal)": trigger,
            "Trigger Stop (Positive, Negative, Internal)": "Internal",
            "Sensor Bias (V)": "120 V",
            "Medipix Clock (MHz)": "120MHz",
            "Readout System": "simulated Merlin",
        }
        text = "HDR,\t\n" + "".join(f"{key}:\t{value}\n" for key, value in lines.items()) + "End\t"
        return text.encode().ljust(2048)

"""Reads what a driver's scans give as the pump does, without a bus, and holds every frame against its source."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.commands import Scan, SetDetector
from ..data.driver import Acquisition
from ..data.errors import ProbeloopError
from ..data.frame import FrameBuffer, FrameFlag
from ..data.scan import Region
from ..instrument.pump import block_capacity

REPEAT = int(FrameFlag.PATTERN_REPEAT)
Frames = NDArray[Any]


@dataclass
class Account:
    """What came of scans. frames: with a pixel of their own; lost: pixels that got none; repeats: told as such.

    wrong: frames that differ from their source, by number. seconds: of the frames of all scans, arming included.
    """

    frames: int = 0
    lost: int = 0
    repeats: int = 0
    wrong: list[int] = field(default_factory=list)
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True when there were frames, and every one is its source bit for bit."""
        return self.frames > 0 and not self.wrong

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        made: dict[str, Any] = {"frames": self.frames, "equal": self.equal, "lost": self.lost}
        made |= {"repeats": self.repeats} if self.repeats else {}
        made |= {"wrong_frames": self.wrong[:8]} if self.wrong else {}
        return made | ({"errors": self.errors} if self.errors else {})


class Reader:
    """One instrument, made by name; a context manager. field: its field of view (width, height) [m]."""

    def __init__(self, instrument: Any, field: tuple[float, float]) -> None:
        self.instrument, self._field = instrument, Region(0.0, 0.0, *field)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.instrument.close()

    def set_detector(self, **settings: Any) -> None:
        """Set the detector."""
        self.instrument.set_detector(SetDetector(**settings))

    def scan(
        self, shape: tuple[int, int], dwell: float, each: Callable[[FrameBuffer, int], None], timed: Account
    ) -> None:
        """Run one scan; `each` sees every filling (buffer, rows); its time is added to `timed`, arming included."""
        began = time.perf_counter()
        made: Acquisition = self.instrument.scan(Scan(self._field, shape, dwell))
        buffer = FrameBuffer.allocate(made.spec, block_capacity(made))
        try:
            next(made.frames)
            while True:
                buffer.flags[:] = 0
                try:
                    n = made.frames.send(buffer)
                except StopIteration:
                    break
                each(buffer, n)
        except ProbeloopError as error:
            timed.errors.append(str(error))
        finally:
            made.frames.close()
        timed.seconds += time.perf_counter() - began


def compared(
    reader: Reader, shape: tuple[int, int], source: Frames, *, dwell: float = 1e-3, scans: int = 1
) -> Account:
    """Run scans of `shape` and hold each frame against source[pixel modulo its length], (n, ky, kx).

    Raises ProbeloopError when a byte that is flipped in the last frame is not noticed: then nothing counts.
    """
    account, pixels = Account(), shape[0] * shape[1]
    last: list[tuple[Frames, int]] = []

    def hold(buffer: FrameBuffer, n: int) -> None:
        index, data = buffer.scan_index[:n], buffer.data[:n]
        repeats = (buffer.flags[:n] & REPEAT) != 0
        account.repeats += int(repeats.sum())
        good = (index >= 0) & ~repeats
        seen[index[good]] += 1
        account.wrong += different(data[good], index[good], source)
        if good.any():
            at = int(np.flatnonzero(good)[-1])
            last[:] = [(data[at].copy(), int(index[at]))]

    for _ in range(scans):
        seen = np.zeros(pixels, np.int64)
        reader.scan(shape, dwell, hold, account)
        account.frames += int(np.count_nonzero(seen))
        account.lost += int(np.count_nonzero(seen == 0))
        account.repeats += int((seen[seen > 1] - 1).sum())
    if last:
        prove(*last[0], source)
    return account


def different(data: Frames, index: NDArray[np.int64], source: Frames) -> list[int]:
    """Return the pixels whose frames (N, ky, kx) are not source[index modulo its length], shape and values."""
    if data.shape[1:] != source.shape[1:]:
        return [int(pixel) for pixel in index]
    wrong = (data != source[index % len(source)]).any(axis=(1, 2))
    found: list[int] = index[wrong].tolist()
    return found


def prove(frame: Frames, pixel: int, source: Frames) -> None:
    """Flip one byte of a frame and see that it is noticed; raises ProbeloopError when it is not."""
    flipped = np.ascontiguousarray(frame)[None].copy()
    flipped.view(np.uint8).reshape(-1)[flipped.nbytes // 2] ^= 1
    if not different(flipped, np.array([pixel]), source):
        raise ProbeloopError("a flipped byte was not noticed", "nothing that this bench says counts")


def rate_of(
    reader: Reader, shape: tuple[int, int], dwell: float, source: Frames, after: Sequence[int] = ()
) -> tuple[float, Account]:
    """Return frames a second of one scan, whose frames are all counted, and a few held against the source.

    after: pixels that are compared, once the clock has stopped; they are copied while it runs.
    """
    account, pixels = Account(), shape[0] * shape[1]
    seen = np.zeros(pixels, np.int64)
    kept: list[tuple[Frames, int]] = []
    wanted = set(after)

    def count(buffer: FrameBuffer, n: int) -> None:
        index = buffer.scan_index[:n]
        good = index >= 0
        np.add.at(seen, index[good], 1)
        if wanted:
            kept.extend((buffer.data[row].copy(), p) for row, p in enumerate(index.tolist()) if p in wanted)

    reader.scan(shape, dwell, count, account)
    account.frames, account.lost = int(np.count_nonzero(seen)), int(np.count_nonzero(seen == 0))
    for frame, pixel in kept:
        account.wrong += different(frame[None], np.array([pixel]), source)
    if kept:
        prove(*kept[-1], source)
    return account.frames / account.seconds, account


def totals(cases: dict[str, Any]) -> dict[str, Any]:
    """Return frames, equal and lost of all cases together; equal is None where none ran."""
    return {
        "frames": sum(each["frames"] for each in cases.values()),
        "equal": all(each["equal"] for each in cases.values()) if cases else None,
        "lost": sum(each["lost"] for each in cases.values()),
    }

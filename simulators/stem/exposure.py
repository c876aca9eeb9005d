"""From a list of triggers to frames in a buffer: which frames come, what they show, when and where."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations, Clock, FrameBuffer, FrameFlag

from .misset import MisSet
from .noise import count_electrons, stream_seed
from .physics import Geometry, Planes, Probe, Scatterer, make_probe

_BATCH_NS = 2_000_000


@dataclass(frozen=True)
class Triggers:
    """What the scan generator does, one row a trigger.

    number (T,): trigger count since the start. scan_index (T,), -1 = no pixel. position (T, 2) (x, y) [m], SCAN.
    time_ns (T,): start of exposure. flags (T,).
    """

    number: NDArray[np.int64]
    scan_index: NDArray[np.int64]
    position: NDArray[np.float64]
    time_ns: NDArray[np.int64]
    flags: NDArray[np.uint16]


def delivered(numbers: NDArray[np.int64], dropped: tuple[int, ...], doubled: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the rows of `numbers` whose frames arrive, in order: none for a dropped one, two for a doubled one."""
    times = np.ones(numbers.size, np.int64)
    times[np.isin(numbers, dropped)] = 0
    times[np.isin(numbers, doubled)] = 2
    return np.repeat(np.arange(numbers.size), times)


class Exposer:
    """Makes frames. specimen None = vacuum."""

    def __init__(self, geometry: Geometry, specimen: Planes | None, seed: int, threads: int) -> None:
        self.geometry, self.specimen, self.threads = geometry, specimen, threads
        self._seed = stream_seed(seed)
        self._scatterers = [Scatterer(geometry, specimen) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads, "stem-exposer") if threads > 1 else None
        self._probes: dict[Aberrations, Probe] = {}

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def probe(self, aberrations: Aberrations) -> Probe:
        """Return the probe of `aberrations`; the last two are kept."""
        if aberrations not in self._probes:
            while len(self._probes) > 1:
                self._probes.pop(next(iter(self._probes)))
            self._probes[aberrations] = make_probe(aberrations, self.geometry)
        return self._probes[aberrations]

    def expose(
        self,
        aberrations: list[Aberrations],
        places: NDArray[np.float64],
        numbers: NDArray[np.int64],
        dose: float,
        out: NDArray[np.uint16],
    ) -> NDArray[np.bool_]:
        """Write (N, n, n) counts of `dose` electrons each into `out`; return which frames saturated.

        places (N, 2) (x, y) [m], SPECIMEN. numbers (N,) name the random streams.
        """
        saturated = np.zeros(len(places), bool)
        if dose <= 0:
            out[:] = 0
            return saturated
        probes = [self.probe(a) for a in aberrations]
        whole = self.geometry.whole_centre

        def some(worker: int) -> None:
            scatterer = self._scatterers[worker]
            for i in range(worker, len(places), self.threads):
                wave = scatterer.far_field(probes[i], float(places[i, 0]), float(places[i, 1]))
                if any(whole):
                    wave = np.roll(wave, whole, axis=(0, 1))
                clipped = count_electrons(wave, dose, self._seed, np.uint64(numbers[i]), out[i])
                saturated[i] = clipped > 0

        if self._pool is None:
            some(0)
        else:
            list(self._pool.map(some, range(self.threads)))
        return saturated


@dataclass(frozen=True)
class Conditions:
    """What the frames depend on while they are taken: asked for anew in every batch.

    aberrations(t), settled_ns(): of the lens. drift(t_ns (N,)): (N, 2) [m]. electrons(): per exposure, 0 = blanked.
    truth: what the positions and the dose that are told differ from.
    """

    aberrations: Callable[[int], Aberrations]
    settled_ns: Callable[[], int]
    drift: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    electrons: Callable[[], float]
    exposed: Callable[[NDArray[np.float64], float], None]
    truth: MisSet


def frames(
    triggers: Triggers,
    rows: NDArray[np.int64],
    period_ns: int,
    exposer: Exposer,
    conditions: Conditions,
    clock: Clock,
    cancelled: threading.Event,
    silent_ns: int | None = None,
) -> Generator[int, FrameBuffer, None]:
    """Fill buffers with the frames of `rows`; ends early when `cancelled` is set. silent_ns: no frame from then."""
    buffer = yield 0
    largest = max(1, _BATCH_NS // max(1, period_ns)) if getattr(clock, "pace", 1.0) is not None else 1 << 30
    at = 0
    while at < rows.size and not cancelled.is_set():
        if silent_ns is not None and clock.now_ns() >= silent_ns:
            cancelled.wait()
            return
        n = min(buffer.capacity, largest, rows.size - at)
        some = rows[at : at + n]
        repeated = some == np.concatenate([rows[at - 1 : at] if at else [-1], some[:-1]])
        _fill(buffer, n, triggers, some, repeated, exposer, conditions)
        at += n
        clock.wait_until(int(triggers.time_ns[some[-1]]) + period_ns, cancelled)
        buffer = yield n


def _fill(
    buffer: FrameBuffer, n: int, triggers: Triggers, some: NDArray[np.int64], repeated: NDArray[np.bool_],
    exposer: Exposer, conditions: Conditions,
) -> None:  # fmt: skip
    time_ns = triggers.time_ns[some]
    electrons = conditions.electrons()
    settling = time_ns < conditions.settled_ns()
    steady = conditions.aberrations(int(time_ns[-1]))
    states = [
        conditions.aberrations(int(t)) if moving else steady for t, moving in zip(time_ns, settling, strict=True)
    ]
    places = conditions.truth.placed(triggers.position[some], conditions.drift(time_ns))
    saturated = exposer.expose(states, places, triggers.number[some], electrons, buffer.data[:n])
    conditions.exposed(places[~repeated], electrons)
    flags = triggers.flags[some].copy()
    flags[settling] |= int(FrameFlag.SETTLING)
    flags[saturated] |= int(FrameFlag.SATURATED)
    flags[repeated] |= int(FrameFlag.PATTERN_REPEAT | FrameFlag.TRIGGER_MISSED)
    buffer.time_ns[:n] = time_ns
    buffer.scan_index[:n] = np.where(settling | repeated, -1, triggers.scan_index[some])
    buffer.position[:n] = triggers.position[some]
    buffer.dose[:n] = np.where(repeated, 0.0, electrons / conditions.truth.current)
    buffer.flags[:n] = flags


def each(generator: Generator[int, FrameBuffer, None], buffer: FrameBuffer) -> Iterator[int]:
    """Yield n for every filling of `buffer` until the generator ends."""
    next(generator)
    while True:
        try:
            yield generator.send(buffer)
        except StopIteration:
            return

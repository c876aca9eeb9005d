"""From a list of triggers to frames in a buffer: which frames come, what they show, when and where."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Aberrations, Clock, DriverError, FrameBuffer, FrameFlag

from .camera import Sensor
from .dose import DoseMap
from .misset import TRUE, MisSet
from .noise import Stream, stream_seed, trigger_chance
from .physics import Geometry, Planes, Scatterer, make_probe
from .world import World

_BATCH_NS = 2_000_000
_AGING = 16  # triggers


@dataclass(frozen=True)
class Triggers:
    """What the scan generator does, one row a trigger.

    number (T,): trigger count since the start. scan_index (T,), -1 = no pixel. position (T, 2): where the probe is
    told to be, (x, y) [m], SCAN. time_ns (T,): start of exposure. flags (T,). place (T, 2): where it really is.
    """

    number: NDArray[np.int64]
    scan_index: NDArray[np.int64]
    position: NDArray[np.float64]
    time_ns: NDArray[np.int64]
    flags: NDArray[np.uint16]
    place: NDArray[np.float64]


def delivered(
    numbers: NDArray[np.int64], dropped: tuple[int, ...], doubled: tuple[int, ...],
    rates: tuple[float, float] = (0.0, 0.0), seed: int = 0,
) -> NDArray[np.int64]:  # fmt: skip
    """Return the rows of `numbers` whose frames arrive, in order: none for a dropped one, two for a doubled one.

    dropped, doubled: trigger numbers that certainly are. rates: chance that any other frame is lost, and that it
    comes twice, drawn from the seed and the trigger's number.
    """
    times = np.ones(numbers.size, np.int64)
    if any(rates):
        chance = trigger_chance(numbers, seed)
        times[chance < rates[0]] = 0
        times[chance > 1 - rates[1]] = 2
    times[np.isin(numbers, dropped)] = 0
    times[np.isin(numbers, doubled)] = 2
    return np.repeat(np.arange(numbers.size), times)


class Exposer:
    """Makes frames. specimen None = vacuum. truth: how the SCAN frame of the aberrations lies to the camera."""

    def __init__(
        self,
        geometry: Geometry,
        specimen: Planes | World | None,
        seed: int,
        threads: int,
        truth: MisSet = TRUE,
    ) -> None:
        self._truth = truth
        self.geometry, self.specimen, self.threads = geometry, specimen, threads
        self._seed = stream_seed(seed)
        self._scatterers: list[Any] = [
            specimen.scatterer() if isinstance(specimen, World) else Scatterer(geometry, specimen)
            for _ in range(threads)
        ]
        self._pool = ThreadPoolExecutor(threads, "stem-exposer") if threads > 1 else None
        self._probes: dict[Aberrations, Any] = {}

    @property
    def scatterer(self) -> Any:
        """One of its scatterers, to ask what it can do."""
        return self._scatterers[0]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def probe(self, aberrations: Aberrations) -> Any:
        """Return the probe of `aberrations`; the last two are kept."""
        if aberrations not in self._probes:
            while len(self._probes) > 1:
                self._probes.pop(next(iter(self._probes)))
            world = self.specimen if isinstance(self.specimen, World) else None
            turned = self._truth.turned(aberrations)
            self._probes[aberrations] = world.probe(turned) if world else make_probe(turned, self.geometry)
        return self._probes[aberrations]

    def expose(
        self,
        aberrations: list[Aberrations],
        places: NDArray[np.float64],
        numbers: NDArray[np.int64],
        electrons: float,
        seconds: float,
        receiver: Receiver,
        out: NDArray[Any],
    ) -> NDArray[np.bool_]:
        """Let `receiver` write what it sees of `electrons` in each of N exposures into `out`; return what saturated.

        places (N, 2) (x, y) [m], SPECIMEN. numbers (N,) name the random streams. seconds: of an exposure.
        """
        saturated = np.zeros(len(places), bool)
        if not math.isfinite(electrons):
            raise DriverError(
                f"a dose of {electrons} electrons", "0 <= dose, finite: look at the current and the dwell time"
            )
        if electrons <= 0 and receiver.blind_is_zero:
            out[:] = 0
            return saturated
        probes = [self.probe(a) for a in aberrations]
        rows = iter(range(len(places)))  # a thread takes the next frame when it is done with one: none waits long

        def some(worker: int) -> None:
            scatterer = self._scatterers[worker]
            for i in rows:
                place, stream = (float(places[i, 0]), float(places[i, 1])), (self._seed, np.uint64(numbers[i]))
                saturated[i] = receiver.take(scatterer, probes[i], place, electrons, seconds, stream, out[i : i + 1])

        if self._pool is None:
            some(0)
        else:
            list(self._pool.map(some, range(self.threads)))
        return saturated


class Receiver(Protocol):
    """What stands behind the specimen. blind_is_zero: without a beam it reads zero, and need not be asked."""

    blind_is_zero: bool

    def take(
        self, scatterer: Any, probe: Any, place: tuple[float, float], electrons: float, seconds: float,
        stream: Stream, out: NDArray[Any],
    ) -> bool:  # fmt: skip
        """Write one exposure into `out` (1, ...); return whether it saturated. Any thread.

        place: (x, y) [m], SPECIMEN. electrons: on the specimen in `seconds`. stream: names the random numbers.
        """
        ...


class Pattern:
    """The camera: the far field on its sensor.

    inserted(): asked at every exposure. flat: the camera is lit evenly instead, for a gain reference. centre: whole
    pixels by which the pattern is off the camera's middle.
    """

    def __init__(
        self, sensor: Sensor, pixels: int, inserted: Callable[[], bool], flat: bool = False,
        centre: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        self._sensor, self._inserted, self._flat, self._centre = sensor, inserted, flat, centre
        self.blind_is_zero = sensor.blind_is_zero
        self._even = np.full((pixels, pixels), (1.0 if flat else 0.0) / pixels, np.complex64)

    def take(
        self, scatterer: Any, probe: Any, place: tuple[float, float], electrons: float, seconds: float,
        stream: Stream, out: NDArray[Any],
    ) -> bool:  # fmt: skip
        """Write one pattern into `out` (1, n, n)."""
        if not self._inserted():
            electrons = 0.0
        wave = self._even if self._flat or electrons <= 0 else scatterer.far_field(probe, *place, int(stream[1]))
        if any(self._centre):
            wave = np.roll(wave, self._centre, axis=(0, 1))
        return self._sensor.record(wave, electrons, seconds, stream, out[0])


@dataclass(frozen=True)
class Conditions:
    """What the exposures depend on while they are taken: asked for anew in every batch.

    aberrations(t_ns (N,)), settled_ns(): of the lens. drift(t_ns (N,)): (N, 2) [m]. electrons(): per exposure, 0 =
    blanked. dose: where they are laid down, None = not on the specimen. age(): lets the dose do its damage, None = it
    does none. truth: what the positions and the dose that are told differ from.
    """

    aberrations: Callable[[NDArray[np.int64]], list[Aberrations]]
    settled_ns: Callable[[], int]
    drift: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    electrons: Callable[[], float]
    dose: DoseMap | None = None
    age: Callable[[], None] | None = None
    truth: MisSet = TRUE

    def on_specimen(self, places: NDArray[np.float64], time_ns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return where on the specimen the probe is, (N, 2) [m], when the scanner has it at `places` (N, 2) [m]."""
        return self.truth.placed(places, self.drift(time_ns))


@dataclass(frozen=True)
class Exposures:
    """An acquisition on its way to frames.

    rows: of the triggers, in the order in which their frames arrive. period_ns: of an exposure. silent_ns: no frame
    from then on.
    """

    triggers: Triggers
    rows: NDArray[np.int64]
    period_ns: int
    exposer: Exposer
    receiver: Receiver
    conditions: Conditions
    silent_ns: int | None = None

    def frames(self, clock: Clock, cancelled: threading.Event) -> Generator[int, FrameBuffer, None]:
        """Fill buffers with the frames of `rows`; ends early when `cancelled` is set."""
        buffer = yield 0
        rows, period, age = self.rows, self.period_ns, self.conditions.age
        largest = max(1, _BATCH_NS // max(1, period)) if getattr(clock, "pace", 1.0) is not None else 1 << 30
        at = laid = 0
        while at < rows.size and not cancelled.is_set():
            if self.silent_ns is not None and clock.now_ns() >= self.silent_ns:
                cancelled.wait()
                return
            n = min(buffer.capacity, largest, rows.size - at)
            # damage shows after a fixed count of triggers, whatever the buffers are, so that frames repeat
            aged = (int(rows[at]) // _AGING + 1) * _AGING
            if age is not None:
                n = min(n, int(np.searchsorted(rows[at : at + n], aged)))
            some = rows[at : at + n]
            repeated = some == np.concatenate([rows[at - 1 : at] if at else [-1], some[:-1]])
            batch = self._fill(buffer, n, some, repeated)
            at += n
            upto = int(some[-1]) + 1
            if age is not None and (at == rows.size or rows[at] >= aged):
                upto = min(aged, self.triggers.number.size)
            laid = self._irradiate(laid, upto, batch)
            if age is not None and upto % _AGING == 0:
                age()
            if not clock.wait_until(int(self.triggers.time_ns[some[-1]]) + period, cancelled):
                return  # what was under exposure is lost
            buffer = yield n
        if at == rows.size:
            now = self.triggers.time_ns[-1:]
            batch = _Batch(-1, np.empty((0, 2)), self.conditions.electrons(), self.conditions.aberrations(now)[0])
            self._irradiate(laid, self.triggers.number.size, batch)
            if age is not None:
                age()

    def _fill(self, buffer: FrameBuffer, n: int, some: NDArray[np.int64], repeated: NDArray[np.bool_]) -> _Batch:
        triggers, conditions = self.triggers, self.conditions
        time_ns = triggers.time_ns[some]
        electrons = conditions.electrons()
        settling = time_ns < conditions.settled_ns()
        states = conditions.aberrations(time_ns)
        places = conditions.on_specimen(triggers.place[some], time_ns)
        numbers, seconds = triggers.number[some], self.period_ns * 1e-9
        saturated = self.exposer.expose(states, places, numbers, electrons, seconds, self.receiver, buffer.data[:n])
        flags = triggers.flags[some].copy()
        flags[settling] |= int(FrameFlag.SETTLING)
        flags[saturated] |= int(FrameFlag.SATURATED)
        flags[repeated] |= int(FrameFlag.PATTERN_REPEAT | FrameFlag.TRIGGER_MISSED)
        buffer.time_ns[:n] = time_ns
        buffer.scan_index[:n] = np.where(settling | repeated, -1, triggers.scan_index[some])
        buffer.position[:n] = triggers.position[some]
        buffer.dose[:n] = np.where(repeated, 0.0, electrons / conditions.truth.current)
        buffer.flags[:n] = flags
        return _Batch(int(some[0]), places, electrons, states[-1])

    def _irradiate(self, first: int, upto: int, batch: _Batch) -> int:
        """Lay the dose of triggers [first, upto), of lost frames and of the ways between them; return upto."""
        triggers, conditions, electrons = self.triggers, self.conditions, batch.electrons
        if conditions.dose is None or not electrons or upto <= first:
            return upto
        places = batch.places
        if len(places) != upto - first or batch.first != first:
            places = conditions.on_specimen(triggers.place[first:upto], triggers.time_ns[first:upto])
        radius = conditions.dose.footprint(batch.state)
        conditions.dose.lay(places, electrons, radius)
        low, high = np.searchsorted(self._transits, (first, upto))
        if high > low:
            to = self._transits[low:high]
            left = triggers.time_ns[to - 1]
            waited = triggers.time_ns[to] - left - self.period_ns
            conditions.dose.sweep(
                conditions.on_specimen(triggers.place[to - 1], left),
                conditions.on_specimen(triggers.place[to], left),
                electrons * waited / self.period_ns,
                radius,
            )
        return upto

    @cached_property
    def _transits(self) -> NDArray[np.int64]:
        """Rows of the triggers before which the beam was on its way."""
        return np.flatnonzero(np.diff(self.triggers.time_ns) > self.period_ns) + 1


@dataclass(frozen=True)
class _Batch:
    """What a batch was exposed with. first: row of its first trigger. places (N, 2): SPECIMEN [m]."""

    first: int
    places: NDArray[np.float64]
    electrons: float
    state: Aberrations

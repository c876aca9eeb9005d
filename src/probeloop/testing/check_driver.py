"""Holds a driver or simulator against its contract, as `probeloop check` does.

Every declared command is called once; every acquisition is pumped to its end, and once aborted; each verb is made
to hang, and `sense` and `make_safe` must return in time from another thread, and reach the state that is safe.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import commands as c
from ..data.clock import MonotonicClock
from ..data.driver import (
    OF_THE_CORE,
    VERBS,
    Acquisition,
    Instrument,
    InstrumentInfo,
    detector_alone,
    missing_verbs,
)
from ..data.errors import ContractError
from ..data.frame import FrameBuffer, FrameFlag
from ..data.scan import Region

Factory = Callable[[], Instrument]
SAFE_WITHIN = 0.5  # [s]
ENDS_WITHIN = 5.0  # [s] for a call that make_safe should have ended
MOST_FRAMES = 4096
_CAPACITY = 7  # does not divide a line: a driver must cope with any capacity
_NO_PIXEL = int(FrameFlag.FLYBACK | FrameFlag.SETTLING | FrameFlag.TRIGGER_MISSED | FrameFlag.PATTERN_REPEAT)


def check_driver(factory: Factory, *, hang: bool = True) -> list[str]:
    """Return every broken promise of the drivers that `factory` makes, in words; an empty list = none found.

    hang: also call `make_safe` while each verb is inside the driver (a driver of real hardware: on the bench only).
    """
    driver = factory()
    try:
        info = driver.describe()
        problems = [*_describes(driver, info), *missing_verbs(driver)] or _senses(driver, info)
        if problems:
            return problems
        for command in examples(info):
            problems += _calls(driver, command)
        problems += _becomes_safe(driver, info)
    except Exception as error:  # a driver may raise anything
        problems = [f"{type(error).__name__} out of describe, read_back or make_safe: {error}"]
    finally:
        driver.close()
    if hang:
        for command in examples(info):
            problems += safe_while_inside(factory, command)
    return problems


def require_driver(factory: Factory) -> None:
    """Raise ContractError with every broken promise."""
    problems = check_driver(factory)
    if problems:
        raise ContractError("; ".join(problems), "DESIGN.md 3.4 and CONVENTIONS.md 3 and 9 say what is promised")


def check_simulator(factory: Factory) -> list[str]:
    """Return every broken promise of a simulator: those of a driver, and of `check_truth`.

    The same frames and the same truth from the same seed, whoever looks; no truth on a topic; commands, nothing else.
    """
    problems = check_driver(factory)
    if problems:
        return problems
    first, second = _recording(factory), _recording(factory)
    if first.keys() != second.keys() or any(not np.array_equal(first[k], second[k]) for k in first):
        problems.append("two instruments of one seed give different frames")
    from .check_truth import check_simulation

    driver = factory()
    own_clock = not isinstance(driver.clock, MonotonicClock)
    driver.close()
    return problems + check_simulation(factory, examples, own_clock)


def examples(info: InstrumentInfo) -> Iterator[c.Command]:
    """Yield a mild command of each kind that the instrument declares, the ones that open the beam first.

    Scans are of a quarter of the region, of all of it for a detector alone.
    """
    (x0, y0), (x1, y1) = info.limits.region
    x, y = info.grid.nearest(((x0 + x1) / 2, (y0 + y1) / 2))
    low, high = info.limits.dwell_time
    dwell = min(max(1e-3, low), high)
    part = 1 if detector_alone(info) else 4
    size = (x1 - x0) / part, (y1 - y0) / part
    knob = next((n for n in info.limits.knobs if n.startswith("C") and n[1:2].isdigit()), "C10")
    current = sum(info.limits.beam_current) / 100 if info.limits.beam_current else 1e-12
    near = info.grid.nearest((x + (x1 - x0) / 16, y))
    bias = (sum(info.limits.bias) / 2 + info.limits.bias[1]) / 2 if info.limits.bias else 0.1
    made: dict[str, c.Command] = {
        "Unblank": c.Unblank(),
        "SetDetector": c.SetDetector(inserted=True),
        "MoveProbe": c.MoveProbe((x, y)),
        "Scan": c.Scan(Region(x, y, *size), (5, 9), dwell),
        "ScanPath": c.ScanPath(((x, y), near), dwell),
        "AcquireReference": c.AcquireReference("dark", 2),
        "SetSpectrometer": c.SetSpectrometer(
            energy_offset=sum(info.limits.spectrometer.get("energy_offset", (0, 0))) / 2
        ),
        "AcquireSpectrum": c.AcquireSpectrum((x, y), _kind(info, dwell)),
        "SetBeam": c.SetBeam(current),
        "SetAberrations": c.SetAberrations({knob: 0.0}),
        "Approach": c.Approach(),
        "SetFeedback": c.SetFeedback("on"),
        "SetBias": c.SetBias(bias),
        "ApplyPulse": c.ApplyPulse((x, y), bias, dwell),
        "SetDrive": c.SetDrive(amplitude=0.0),
        "Withdraw": c.Withdraw(),
        "Blank": c.Blank(),
    }
    yield from (command for name, command in made.items() if name in info.commands)


def _kind(info: InstrumentInfo, dwell: float) -> c.SpectrumKind:
    if "SetSpectrometer" in info.commands and info.modality == "stem":
        return c.EELS(dwell)
    if info.modality == "stem":
        return c.Diffraction(dwell)
    return c.IV(0.1, 0.2, 4) if info.modality == "stm" else c.BEPS()


def _describes(driver: Instrument, info: InstrumentInfo) -> list[str]:
    problems = [f"{name}: no such command" for name in info.commands if name not in c.COMMANDS]
    if not info.safe_state and not detector_alone(info):
        problems.append("safe_state is empty: say how the instrument becomes safe")
    if not callable(getattr(driver, "read_back", None)):
        return [*problems, "read_back() is missing"]
    values = driver.read_back()
    problems += [
        f"read_back() has no {name!r}, which safe_readback names" for name in info.safe_readback if name not in values
    ]
    wanted = {"Unblank": "blanked", "Approach": "feedback", "SetBias": "bias", "MoveProbe": "position_x"}
    problems += [
        f"read_back() has no {name!r}, which {command} changes"
        for command, name in wanted.items()
        if command in info.commands and name not in values
    ]
    if "SetAberrations" in info.commands:
        knobs = [name for name in info.limits.knobs if name.startswith("C") and name not in values]
        problems += [f"read_back() has no knob {name!r}" for name in knobs]
    return problems


def _senses(driver: Any, info: InstrumentInfo) -> list[str]:
    """Read every sensor once, at rest: each gives a number, and one that is always judged a good one."""
    problems = [f"limits.{text}" for text in info.limits.problems()]
    values = driver.sense() if info.limits.alarms else {}
    for name, alarm in info.limits.alarms.items():
        value = values.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
            problems.append(f"sense() gives {value!r} for the alarm {name!r}, a number is missing")
        elif not alarm.when and not alarm.low <= value <= alarm.high:
            problems.append(f"sense() gives {value:g} for {name!r} at rest, out of {alarm.low:g} to {alarm.high:g}")
    return problems


def _verb(driver: Instrument, command: c.Command) -> Callable[[Any], Any]:
    verb: Callable[[Any], Any] = getattr(driver, VERBS[c.name_of(command)][1])
    return verb


def _calls(driver: Instrument, command: c.Command) -> list[str]:
    name = c.name_of(command)
    if name in OF_THE_CORE:
        return []
    try:
        made = _verb(driver, command)(command)
    except Exception as error:  # a driver may raise anything
        return [f"{name}: {type(error).__name__}: {error}"]
    if isinstance(command, c.ACQUISITIONS):
        if not isinstance(made, Acquisition):
            return [f"{name}: gives a {type(made).__name__}, not an Acquisition"]
        problems = [f"{name}: {text}" for text in _delivers(made, command)]
        return problems or [f"{name}: {text}" for text in _aborts(_verb(driver, command)(command))]
    return [] if isinstance(made, int) else [f"{name}: gives {made!r}, not the time at which it is settled [ns]"]


@dataclass
class _Seen:
    """What an acquisition has delivered so far."""

    count: int = 0
    last_ns: int = -1


def _delivers(acquisition: Acquisition, command: c.Command) -> list[str]:
    """Pump an acquisition to its end, and look at every frame."""
    spec = acquisition.spec
    problems: list[str] = []
    seen = _Seen()
    pixels = int(np.prod(spec.nav_shape, dtype=np.int64)) if spec.nav else 0
    visits = np.zeros(pixels, np.int64)
    frames = acquisition.frames
    try:
        next(frames)
        while seen.count < MOST_FRAMES and not problems:
            buffer = _guarded(spec)
            try:
                n = frames.send(buffer)
            except StopIteration:
                break
            problems += _looks(buffer, n, seen, pixels, visits)
    except StopIteration:
        return ["ends before its first frame; prime it with a yield"]
    except Exception as error:  # a driver may raise anything
        return [f"fails after {seen.count} frames: {type(error).__name__}: {error}"]
    finally:
        frames.close()
    if not seen.count and not problems:
        problems.append("delivers no frame")
    if isinstance(command, c.AcquireSpectrum) and seen.count > 1:
        problems.append(f"a spectrum is one frame, this has {seen.count}")
    expected = command.shape if isinstance(command, c.Scan) else None
    if expected is not None and spec.sync != "none" and spec.nav_shape != expected:
        problems.append(f"the map is {spec.nav_shape}, asked were {expected}")
    if expected is not None and spec.sync != "none" and not problems and np.count_nonzero(visits) < 0.9 * pixels:
        problems.append(f"only {np.count_nonzero(visits)} of {pixels} pixels got a frame")
    return problems


def _guarded(spec: Any) -> FrameBuffer:
    """Return a buffer whose columns hold what no driver would write."""
    buffer = FrameBuffer.allocate(spec, _CAPACITY)
    buffer.time_ns[:] = -1
    buffer.scan_index[:] = np.iinfo(np.int64).min
    return buffer


def _looks(buffer: FrameBuffer, n: object, seen: _Seen, pixels: int, visits: Any) -> list[str]:
    if not isinstance(n, int) or not 1 <= n <= buffer.capacity:
        return [f"filled {n!r} rows of {buffer.capacity}"]
    problems = []
    index, time_ns = buffer.scan_index[:n], buffer.time_ns[:n]
    if (time_ns < 0).any():
        problems.append("leaves the column time_ns unwritten")
    elif seen.last_ns > int(time_ns[0]) or (np.diff(time_ns) < 0).any():
        problems.append("time_ns runs backwards")
    if (index == np.iinfo(np.int64).min).any():
        problems.append("leaves the column scan_index unwritten")
    elif pixels and ((index < -1).any() or (index >= pixels).any()):
        problems.append(f"scan_index {int(index.max())} in a map of {pixels} pixels")
    if n < buffer.capacity and (buffer.time_ns[n:] >= 0).any():
        problems.append("writes more rows than it says")
    if not problems and pixels:
        good = index[((buffer.flags[:n] & _NO_PIXEL) == 0) & (index >= 0)]
        np.add.at(visits, good, 1)
    seen.count += n
    seen.last_ns = int(time_ns[-1])
    return problems


def _aborts(acquisition: Acquisition) -> list[str]:
    """End an acquisition after its first frames."""
    frames = acquisition.frames
    try:
        next(frames)
        frames.send(FrameBuffer.allocate(acquisition.spec, 1))
    except Exception as error:  # a driver may raise anything
        return [f"a second one fails: {type(error).__name__}: {error}"]
    try:
        frames.close()
    except RuntimeError:
        return ["goes on after close(): a generator must let GeneratorExit end it"]
    except Exception as error:  # a driver may raise anything
        return [f"fails at close(): {type(error).__name__}: {error}"]
    return []


def _becomes_safe(driver: Instrument, info: InstrumentInfo) -> list[str]:
    driver.make_safe()
    driver.make_safe()
    values = driver.read_back()
    return [
        f"after make_safe {name} reads {values.get(name)!r}, safe is {value!r}"
        for name, value in info.safe_readback.items()
        if values.get(name) != value
    ]


def safe_while_inside(factory: Factory, command: c.Command) -> list[str]:
    """Call `sense` and `make_safe` from other threads while a verb, or its first frames, are inside the driver."""
    name = c.name_of(command)
    driver: Any = factory()
    alarms = driver.describe().limits.alarms.values()
    entered = threading.Event()

    def inside() -> None:
        entered.set()
        try:
            made = _verb(driver, command)(command)
            if isinstance(made, Acquisition):
                next(made.frames)
                while True:
                    made.frames.send(FrameBuffer.allocate(made.spec, _CAPACITY))
        except Exception:  # being made safe may end a call in any way; StopIteration among them
            return

    caller = threading.Thread(target=inside, name=f"inside {name}", daemon=True)
    caller.start()
    entered.wait(1.0)
    caller.join(0.02)
    problems: list[str] = []
    if alarms:
        problems += _in_time(driver.sense, "sense", name, min(each.missing_after for each in alarms))
    problems += _in_time(driver.make_safe, "make_safe", name, SAFE_WITHIN)
    caller.join(ENDS_WITHIN if not problems else 0.1)
    if caller.is_alive() and not problems:
        problems.append(f"{name} stays inside the driver after make_safe")
    if not problems:
        driver.make_safe()  # as the core does when a call that was inside has left
        problems += [f"during {name}: {text}" for text in _becomes_safe(driver, driver.describe())]
        driver.close()
    return problems


def _in_time(call: Callable[[], Any], what: str, during: str, within: float) -> list[str]:
    """Call something from a thread of its own, and return what is wrong with how long it takes [s]."""
    clock, done, took = MonotonicClock(), threading.Event(), list[float | Exception]()

    def run() -> None:
        begun = clock.now_ns()
        try:
            call()
        except Exception as error:  # a driver may raise anything
            took.append(error)
        else:
            took.append((clock.now_ns() - begun) / 1e9)
        done.set()

    threading.Thread(target=run, name=f"{what} during {during}", daemon=True).start()
    if not done.wait(2 * within):
        return [f"{what} hangs while {during} is inside the driver"]
    if isinstance(took[0], Exception):
        return [f"{what} fails while {during} is inside the driver: {type(took[0]).__name__}: {took[0]}"]
    if took[0] > within:
        return [f"{what} took {took[0]:.2f} s while {during} was inside the driver, allowed are {within} s"]
    return []


def _recording(factory: Factory) -> dict[str, Any]:
    """Return all frames of one scan, spectrum and reference."""
    driver = factory()
    kept: dict[str, Any] = {}
    try:
        for command in examples(driver.describe()):
            made = _verb(driver, command)(command) if not isinstance(command, c.Blank) else None
            if not isinstance(made, Acquisition):
                continue
            chunks = []
            next(made.frames)
            while True:
                buffer = FrameBuffer.allocate(made.spec, _CAPACITY)
                try:
                    n = made.frames.send(buffer)
                except StopIteration:
                    break
                chunks.append(buffer.data[:n].copy().view(np.uint8).reshape(-1))
            kept[c.name_of(command)] = np.concatenate(chunks) if chunks else np.zeros(0, np.uint8)
    finally:
        driver.close()
    return kept

"""What a simulator promises beyond a driver: the same again, a truth that is on no topic, and no other control.

`check_driver.check_simulator` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.commands import Blank, Command, name_of
from ..data.driver import VERBS, Acquisition, Instrument
from ..data.frame import FrameBuffer

Factory = Callable[[], Instrument]
_CONTROLLING = ("set_", "move_", "turn_", "add_", "apply_", "inject_", "change_", "put_")
_VERB_NAMES = frozenset(method for _, method in VERBS.values())


def is_truth(name: str) -> bool:
    """True for a name that says that it is what nobody measures."""
    return name.lower().startswith(("true_", "truth")) or name.lower().endswith(("_truth", ".truth"))


@dataclass
class Recording:
    """All frames (N, ...) of an acquisition, their times [ns], and what was said to be true of them."""

    spec: StreamSpec
    data: NDArray[Any]
    time_ns: NDArray[np.int64]
    truth: dict[str, Any] | None


def recordings(
    driver: Instrument, commands: Iterator[Command], capacity: int, ask: bool
) -> Iterator[tuple[str, Recording]]:
    """Carry out the commands; yield what each acquisition gave. ask: for the truth, before and after each too."""
    for command in commands:
        if isinstance(command, Blank) or name_of(command) not in VERBS:
            continue
        if ask:
            driver.truth()  # type: ignore[attr-defined]
        made = getattr(driver, VERBS[name_of(command)][1])(command)
        if isinstance(made, Acquisition):
            yield name_of(command), _pumped(made, capacity, ask)


def _pumped(made: Acquisition, capacity: int, ask: bool) -> Recording:
    chunks: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
    next(made.frames)
    while True:
        buffer = FrameBuffer.allocate(made.spec, capacity)
        try:
            n = made.frames.send(buffer)
        except StopIteration:
            break
        chunks.append((buffer.data[:n].copy(), buffer.time_ns[:n].copy()))
    data = np.concatenate([chunk[0] for chunk in chunks]) if chunks else np.zeros(0)
    times = np.concatenate([chunk[1] for chunk in chunks]) if chunks else np.zeros(0, np.int64)
    truth = dict(made.truth()) if ask and made.truth is not None else None
    return Recording(made.spec, data, times, truth)


def check_simulation(factory: Factory, commands: Callable[[Any], Iterator[Command]], own_clock: bool) -> list[str]:
    """Return in words what breaks these promises.

    commands: those to try, of an InstrumentInfo. own_clock: its time is virtual, so that it repeats.
    """
    driver: Any = factory()
    try:
        if not callable(getattr(driver, "truth", None)):
            return ["truth() is missing: a simulator says what is really there"]
        info = driver.describe()
        problems = _controls(driver)
        asked = dict(recordings(driver, commands(info), 7, True))
        said = dict(driver.truth())
        problems += _names(driver, info, asked)
        for name, each in asked.items():
            problems += [f"{name}: {text}" for text in _rows(each)]
    finally:
        driver.close()
    other: Any = factory()
    try:
        silent = dict(recordings(other, commands(other.describe()), 32, False))
        again = dict(other.truth())
    finally:
        other.close()
    both = asked.keys() & silent.keys() if own_clock else ()  # on the host's clock a busy host may cost frames
    if asked.keys() != silent.keys() or any(not _equal(asked[k].data, silent[k].data) for k in both):
        problems.append("the frames depend on the room in a buffer, or on whether somebody asks for the truth")
    if any(not _equal(asked[k].time_ns, silent[k].time_ns) for k in both):
        problems.append("the times of the frames depend on the room in a buffer, or on the host")
    if said.keys() != again.keys():
        return [*problems, "two instruments of one seed know different things"]
    odd = [name for name in said if not callable(said[name]) and not _equal(said[name], again[name])]
    return problems + ([f"two instruments of one seed differ in the truth of {', '.join(odd)}"] if odd else [])


def _controls(driver: Any) -> list[str]:
    names = [name for name in dir(driver) if not name.startswith("_")]
    return [
        f"{name}() is no command: a simulator is controlled by the commands of an instrument alone"
        for name in names
        if name.startswith(_CONTROLLING) and name not in _VERB_NAMES and callable(getattr(driver, name, None))
    ]


def _names(driver: Any, info: Any, made: dict[str, Recording]) -> list[str]:
    """Look at everything that a reader of topics or of the read-back sees."""
    shown = {f"topic {name!r}": name for name in info.topics}
    shown |= {f"read_back() {name!r}": name for name in driver.read_back()}
    shown |= {f"alarm {name!r}": name for name in info.limits.alarms}
    for each in made.values():
        spec = each.spec
        inside = [*(c.name for c in spec.channels), *spec.aux, *(name for name, _ in spec.fields)]
        shown |= {f"topic {spec.name!r}": spec.name}
        shown |= {f"{name!r} on topic {spec.name!r}": name for name in inside}
    return [f"{where}: the truth goes to truth() alone" for where, name in shown.items() if is_truth(name)]


def _rows(each: Recording) -> list[str]:
    """Hold what is said of frames against the frames."""
    if each.truth is None:
        return []
    if "time_ns" not in each.truth:
        return ["its truth has no time_ns, by which it is joined to the frames"]
    times = np.asarray(each.truth["time_ns"])
    problems = [
        f"its truth of {name} has {len(np.atleast_1d(value))} rows: 1 or {len(times)}, one for each trigger"
        for name, value in each.truth.items()
        if len(np.atleast_1d(value)) not in (1, len(times))
    ]
    unknown = int((~np.isin(each.time_ns, times)).sum())
    if unknown:
        problems.append(f"its truth knows nothing of {unknown} of {len(each.time_ns)} frames")
    flat = each.data.reshape(len(each.data), -1)
    for name, value in each.truth.items():
        true = np.asarray(value)
        if name == "time_ns" or len(true) != len(flat) or true.ndim > 2 or not np.ptp(np.abs(true)):
            continue
        columns = true.reshape(len(true), -1)
        if any(np.array_equal(flat[:, k], columns[:, j]) for k in range(min(64, flat.shape[1]))
               for j in range(min(64, columns.shape[1]))):  # fmt: skip
            problems.append(f"its frames are the truth of {name} itself: a measurement has noise")
    return problems


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) or callable(a) or callable(b):
        return callable(a) and callable(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    try:
        return bool(msgspec.json.encode(a, order="sorted") == msgspec.json.encode(b, order="sorted"))
    except (TypeError, msgspec.MsgspecError):
        return type(a) is type(b)  # an object that no session keeps either

"""Maps that a policy has made, as topics: what a plan's step Show puts on the bus.

They are made in the experiment's process, where policies live, and are `image` topics like a plug-in's: PLAN.NAME,
on the overview's axes, of its generation. So a window, the recorder and doctor find them without being told.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bus.node import Bus
from ..bus.publish import Publisher
from ..data.axes import Axis, Origin, StreamSpec
from ..data.commands import Scan
from ..data.errors import ProbeloopError
from ..data.frame import BlockFlag, block_bytes
from ..plugin.contract import Show
from ..plugin.output import meet_recorder

MOST = 8  # maps of one plan
VALUES = ("prediction", "uncertainty")  # what is in the scalarizer's units
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SMALLEST = 4096  # [bytes] of a block
_REFRESH = 0.1  # [s] between two looks for readers that came late
_PATIENCE = 1.0  # [s] for a reader that is behind


class Screen(Protocol):
    """Where maps go."""

    def show(self, spec: StreamSpec, generation: int, values: NDArray[np.float32], time_ns: int) -> None:
        """Show one map (ny, nx). Raises ProbeloopError."""
        ...


@dataclass(frozen=True)
class Picture:
    """A map that can be shown."""

    spec: StreamSpec
    values: NDArray[np.float32]


def axes_of(scan: Scan) -> tuple[Axis, Axis]:
    """Return the axes of a scan's map (y, x) [m]; of a turned region, along its own sides about its centre."""
    (ny, nx), region = scan.shape, scan.region
    y, x = region.height / ny, region.width / nx
    return (
        Axis("y", ny, y, region.centre_y - y * (ny - 1) / 2, "m"),
        Axis("x", nx, x, region.centre_x - x * (nx - 1) / 2, "m"),
    )


def pictures(plan: str, maps: object, scan: Scan, units: str, origin: Origin) -> tuple[list[Picture], list[str]]:
    """Return those of `maps` that can be shown, and in words what is wrong with the others.

    units: of the scalarizer. origin: of the overview's data.
    """
    if not isinstance(maps, Mapping):
        return [], [f"{plan}: maps() returned {type(maps).__name__}; it has to return (ny, nx) arrays by name"]
    made: list[Picture] = []
    faults: list[str] = []
    for name, values in maps.items():
        fault = _fault(name, values, scan.shape) or (f"is one more than {MOST}" if len(made) >= MOST else "")
        if fault:
            faults.append(f"{plan}: the policy's map {name!r:.40} {fault}; it is not shown, the run goes on")
            continue
        spec = StreamSpec(
            f"{plan}.{name}", "image", "<f4", sig=axes_of(scan), units=units if name in VALUES else "",
            origin=origin, sync="none", may_be_nan=True,
        )  # fmt: skip
        with np.errstate(over="ignore"):
            made.append(Picture(spec, np.asarray(values, np.float32)))
    return made, faults


def _fault(name: object, values: object, shape: tuple[int, int]) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "has a name that is no word of a-z, 0-9 and _"
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        return f"is of {kind}, not an array of real numbers"
    if values.shape != tuple(shape):
        return f"has the shape {values.shape}, the overview {tuple(shape)}"
    return ""


class MapTopics:
    """Publishes maps; any thread. A topic stays when its plan is over, so that a window can still be looked at."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = threading.Lock()
        self._publishers: dict[str, Publisher] = {}
        self._refresh_at = 0.0

    def show(self, spec: StreamSpec, generation: int, values: NDArray[np.float32], time_ns: int) -> None:
        """Send one map (ny, nx); raises BusError or SharedMemoryError."""
        with self._lock:
            publisher = self._publisher(spec)
            publisher.announce(spec, generation)
            publisher.wait_for_credit(_PATIENCE)
            buffer = publisher.loan(1)
            buffer.data[:1] = values
            buffer.time_ns[:1], buffer.scan_index[:1], buffer.flags[:1] = time_ns, -1, 0
            buffer.position[:1], buffer.dose[:1] = [axis.offset for axis in reversed(spec.sig)], 0.0
            publisher.send(buffer, 1, flags=BlockFlag.SCAN_BEGIN | BlockFlag.SCAN_END, generation=generation)

    def _publisher(self, spec: StreamSpec) -> Publisher:
        found = self._publishers.get(spec.name)
        if found is None:
            found = Publisher(self._bus, spec.name, max(_SMALLEST, block_bytes(spec, 1)), source_waits=True)
            self._publishers[spec.name] = found
            meet_recorder(self._bus, found)
        return found

    def refresh(self) -> None:
        """Let readers that came late join; now and then, by the thread that waits for requests."""
        now = time.monotonic()
        if now < self._refresh_at or not self._publishers:
            return
        if self._lock.acquire(blocking=False):  # else a map is on its way, and they join with it
            try:
                self._refresh_at = now + _REFRESH
                for publisher in self._publishers.values():
                    publisher.refresh()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Leave every topic; what was sent stays."""
        with self._lock:
            for publisher in self._publishers.values():
                publisher.close()
            self._publishers.clear()


class Showing:
    """Answers the step Show of one run. tell: told of each fault once, in a line."""

    def __init__(self, plan: str, screen: Screen | None, tell: Callable[[str], None]) -> None:
        self._plan, self._screen, self._tell = plan, screen, tell
        self._told: set[str] = set()

    def answer(self, step: Show, units: str, origin: Origin, time_ns: int) -> tuple[str, ...]:
        """Show the step's maps; return the names of those that were. units: of the scalarizer."""
        if self._screen is None:
            return ()
        try:
            maps = step.maps()
        except Exception as error:  # a policy may raise anything; what it learned goes on
            self._say([f"{self._plan}: the policy's maps() raises {type(error).__name__}: {error}; the run goes on"])
            return ()
        found, faults = pictures(self._plan, maps, step.scan, units, origin)
        names: list[str] = []
        for each in found:
            try:
                self._screen.show(each.spec, step.result.generation, each.values, time_ns)
                names.append(each.spec.name.partition(".")[2])
            except ProbeloopError as error:
                faults.append(f"{each.spec.name} is not shown, the run goes on: {error}")
        self._say(faults)
        return tuple(names)

    def _say(self, faults: list[str]) -> None:
        for fault in faults:
            if fault not in self._told:
                self._told.add(fault)
                self._tell(fault)

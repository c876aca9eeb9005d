"""Going safe: leases that run out by themselves, the safe state and its proof (CONVENTIONS.md 9).

The rule is Klipper's: every "on" expires. Nobody has to send anything for an output to become safe; somebody
has to keep sending for it to stay otherwise.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from ..data.control import Scalar
from ..data.driver import Instrument, InstrumentInfo
from .door import Door
from .gate import HOLDER_TIMEOUT, GateState

SAFE_WITHIN = 0.5  # [s] in which a driver reaches its safe state
QUIET_WITHIN = 0.2  # [s] to wait for a call that was inside the driver when STOP came
PROVEN_WITHIN = SAFE_WITHIN + QUIET_WITHIN  # [s] until the guard makes safe in its own way
_TOLERANCE = 1e-6


class OutputLeases(msgspec.Struct, frozen=True):
    """Until when each output may stay out of its safe state: name -> deadline [ns]."""

    deadlines: Mapping[str, int] = {}
    durations: Mapping[str, float] = {}

    def renewed(self, unsafe: tuple[str, ...], now_ns: int) -> OutputLeases:
        """Return the leases after a sign of life of the holder: of the outputs that are not safe now."""
        return replace(self, deadlines={name: now_ns + self._length(name) for name in unsafe})

    def followed(self, unsafe: tuple[str, ...], now_ns: int) -> OutputLeases:
        """Return the leases after a change of outputs, without a sign of life: new ones start, safe ones end."""
        kept = {name: self.deadlines.get(name, now_ns + self._length(name)) for name in unsafe}
        return replace(self, deadlines=kept)

    def expired(self, now_ns: int) -> tuple[str, ...]:
        """Return the outputs whose lease ran out."""
        return tuple(name for name, deadline in self.deadlines.items() if now_ns > deadline)

    def _length(self, name: str) -> int:
        return round(self.durations.get(name, HOLDER_TIMEOUT) * 1e9)


def unsafe_outputs(state: GateState, info: InstrumentInfo) -> tuple[str, ...]:
    """Return the names of the outputs that are not in their safe state, of those that going safe changes."""
    outputs = {
        "beam": not state.blanked and "Blank" in info.commands,
        "tip": state.feedback != "withdrawn" and "Withdraw" in info.commands,
        "bias": "bias" in info.safe_readback and not _same(state.bias, info.safe_readback["bias"]),
        "drive": "drive" in info.safe_readback and not _same(state.drive, info.safe_readback["drive"]),
    }
    return tuple(name for name, on in outputs.items() if on)


@dataclass(frozen=True, slots=True)
class SafeReport:
    """How going safe went. took [s]; problems: what is not as declared; verified: the read-back was compared."""

    took: float
    problems: tuple[str, ...]
    verified: bool
    readback: Mapping[str, Scalar] | None = None

    @property
    def ok(self) -> bool:
        """True when the safe state is reached, as far as the hardware can tell."""
        return not self.problems

    def words(self) -> str:
        """Return it in a line."""
        how = "verified by read-back" if self.verified else "not verifiable: the driver names no read-back"
        return "; ".join(self.problems) if self.problems else f"safe in {self.took * 1e3:.1f} ms, {how}"


def go_safe(instrument: Instrument, door: Door, now_ns: Callable[[], int]) -> SafeReport:
    """Shut the door, make the hardware safe, and prove it.

    A call that was inside may still act after the first `make_safe`; when it has left, safe is made once more.
    """
    start = now_ns()
    someone = door.shut()
    problems: list[str] = []
    info = instrument.describe()
    try:
        instrument.make_safe()
        quiet = not someone or door.quiet(QUIET_WITHIN)
        if someone:
            instrument.make_safe()
    except Exception as error:  # a driver may raise anything; the trip must go on
        problems.append(f"make_safe failed: {error}")
        quiet = False
    took = (now_ns() - start) / 1e9
    if not problems and not quiet:
        problems.append(f"a call hangs in the driver since {took:.2f} s")
    if took > PROVEN_WITHIN:
        problems.append(f"make_safe took {took:.2f} s, allowed are {SAFE_WITHIN:g} s")
    values = _read(instrument, door, problems) if quiet else None
    if values is not None:
        problems += differences(values, info.safe_readback)
    return SafeReport(took, tuple(problems), bool(info.safe_readback) and values is not None, values)


def _read(instrument: Instrument, door: Door, problems: list[str]) -> Mapping[str, Scalar] | None:
    try:
        with door.passing(None):
            return instrument.read_back()
    except Exception as error:  # a driver may raise anything; the trip must go on
        problems.append(f"read_back failed: {error}")
        return None


def differences(values: Mapping[str, Scalar], wanted: Mapping[str, Scalar]) -> list[str]:
    """Return in words where the read-back is not what is wanted; a missing value is a wrong one."""
    return [
        f"{name} reads {values.get(name)!r}, safe is {value!r}"
        for name, value in wanted.items()
        if not _same(values.get(name), value)
    ]


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return math.isclose(value, wanted, rel_tol=_TOLERANCE, abs_tol=1e-12)
    return bool(value == wanted)


def proof_test(instrument: Instrument, door: Door, now_ns: Callable[[], int]) -> SafeReport:
    """Try the STOP path before each arming: shut, safe, read back, and from a thread of its own, as STOP comes.

    The instrument is in its safe state afterwards and the door is shut.
    """
    found: list[SafeReport] = []
    thread = threading.Thread(target=lambda: found.append(go_safe(instrument, door, now_ns)), name="proof-test")
    thread.daemon = True  # a driver that hangs in make_safe must not keep the process alive
    thread.start()
    thread.join(2 * SAFE_WITHIN + QUIET_WITHIN)
    if not found:
        return SafeReport(2 * SAFE_WITHIN, ("make_safe hangs",), False)
    return found[0]

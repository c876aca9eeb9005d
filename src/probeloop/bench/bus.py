"""`probeloop bench bus`: the bus beside pyzmq, raw iceoryx2 and this machine's own limits, in interleaved rounds.

128 KiB frames, every byte read and every frame checked by all sides. In every round: throughput at 1 and at 8 frames
a block, one-way latency at 1,000 frames a second, the closed loop through the real gate, the fan-out to 3 readers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from .limits import Limits
from .loop import LoopParty
from .parties import Outcome, Party, rival
from .progress import Progress
from .rounds import Figures, spread_out
from .stream_role import FRAME_WORDS

OURS, ZMQ, RAW, MEMCPY, CROSS = "probeloop", "pyzmq", "iceoryx2", "memcpy", "cross core"
FRAME_BYTES = FRAME_WORDS * 8
RATE = 1_000.0  # frames a second of the latency
READERS = 3
SECONDS = 40.0
_ROUNDS = 7
_SHARES = {"throughput": 0.30, "latency": 0.15, "loop": 0.2, "fanout": 0.15}  # of the time; the rest connects
THROUGHPUT, LATENCY, LOOP, FANOUT = "throughput at {}", "latency", "loop", "fanout"
BLOCKS = (1, 8)  # frames
Tell = Callable[[int, int], None]
Contestants = dict[str, Callable[[], float]]


@dataclass
class Checked:
    """Frames lost and corrupt, of all runs and all transports."""

    lost: dict[str, int] = field(default_factory=dict)
    corrupt: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome) -> Outcome:
        """Count an outcome."""
        self.lost[name] = self.lost.get(name, 0) + outcome.lost
        self.corrupt[name] = self.corrupt.get(name, 0) + outcome.corrupt
        return outcome


@dataclass
class Bench:
    """The parties, and what is measured with them. rounds: of each measurement; seconds: of all."""

    parties: dict[str, Party]
    loops: dict[str, LoopParty]
    seconds: float
    rounds: int = _ROUNDS
    checked: Checked = field(default_factory=Checked)

    def run(self, limits: Limits, tell: Tell) -> dict[str, Figures]:
        """Return the figures of every measurement. tell: (rounds done, of all)."""
        measurements = {THROUGHPUT.format(n): self.throughput(n, limits) for n in BLOCKS}
        measurements |= {LATENCY: self.latency(), LOOP: self.loop(), FANOUT: self.fanout()}
        return spread_out(measurements, self.rounds, after_round=tell)

    def _each(self, what: str, contestants: int) -> float:
        """Return how long one run of a measurement may take [s]."""
        return max(0.05, self.seconds * _SHARES[what] / ((self.rounds + 1) * contestants))

    def throughput(self, n: int, limits: Limits) -> Contestants:
        """Return what tells bytes a second: blocks of `n` frames; a ring copied into, and read by another core."""
        each = self._each("throughput", len(BLOCKS) * (len(self.parties) + 2))

        def run(name: str, party: Party) -> Callable[[], float]:
            return lambda: self.checked.add(name, party.run(n, each)).fps * FRAME_BYTES

        runs = {name: run(name, party) for name, party in self.parties.items()}
        return {**runs, MEMCPY: lambda: limits.memcpy(each), CROSS: lambda: limits.cross_core(each)}

    def latency(self) -> Contestants:
        """Return what tells the median latency from the start of the copy to the reader's hands [us]."""
        each = self._each("latency", len(self.parties))

        def run(name: str, party: Party) -> Callable[[], float]:
            return lambda: self.checked.add(name, party.run(1, each, rate=RATE)).p50_us

        return {name: run(name, party) for name, party in self.parties.items()}

    def loop(self) -> Contestants:
        """Return what tells the median latency of the closed loop [us]."""
        each = self._each("loop", max(1, len(self.loops)))

        def run(party: LoopParty) -> Callable[[], float]:
            return lambda: float(party.run(each)["p50_us"])

        return {name: run(party) for name, party in self.loops.items()}

    def fanout(self) -> Contestants:
        """Return what tells the frames a second of the slowest of three readers."""
        several = {name: party for name, party in self.parties.items() if name != RAW}
        each = self._each("fanout", len(several))

        def run(name: str, party: Party) -> Callable[[], float]:
            return lambda: self.checked.add(name, party.run(1, each, readers=READERS, kind="-fanout")).fps

        return {name: run(name, party) for name, party in several.items()}


@contextlib.contextmanager
def _parties() -> Iterator[tuple[dict[str, Party], dict[str, LoopParty], list[str]]]:
    """Yield the transports that can be had here, their closed loops, and what is missing."""
    own = [sys.executable, "-m"]
    streams = {
        OURS: [*own, "probeloop.bench.bus_role"],
        ZMQ: rival("pyzmq_stream"),
        RAW: rival("iceoryx2_stream"),
    }
    loops = {OURS: [*own, "probeloop.bench.loop_role"], ZMQ: rival("pyzmq_loop")}
    with contextlib.ExitStack() as stack:
        made = {
            name: stack.enter_context(Party(name, command, 1 if name == RAW else READERS))
            for name, command in streams.items()
            if command is not None
        }
        closed = {
            name: stack.enter_context(LoopParty(name, command))
            for name, command in loops.items()
            if command is not None
        }
        yield made, closed, [name for name, command in streams.items() if command is None]


def bench(seconds: float = SECONDS, tell: Tell = lambda done, of: None) -> dict[str, Any]:
    """Measure all of it in about `seconds`; return plain data. Ratios are None where a rival is missing."""
    began = time.monotonic()
    with _parties() as (parties, loops, missing):
        limits = Limits()
        left = max(1.0, seconds - (time.monotonic() - began) - 1.0)
        made = Bench(parties, loops, left)
        measured = made.run(limits, tell)
        read = limits.read(0.3)
    by_n = {n: measured[THROUGHPUT.format(n)] for n in BLOCKS}
    latency, loop, fanout = measured[LATENCY], measured[LOOP], measured[FANOUT]
    worse = {name: min((figures.ratio(OURS, name) for figures in by_n.values() if name in figures.values),
                       default=None) for name in (ZMQ, MEMCPY, RAW)}  # fmt: skip
    by_round = {
        **{f"gb_s_{n}_a_block": _values(figures, 1e9) for n, figures in by_n.items()},
        "latency_p50_us": _values(latency),
        "loop_p50_us": _values(loop),
        "fanout3_fps": _values(fanout),
    }
    return {
        "throughput_x_pyzmq": _round(worse[ZMQ]),
        "throughput_x_memcpy": _round(worse[MEMCPY]),
        "throughput_x_iceoryx2": _round(worse[RAW]),
        "latency_p50_x_pyzmq": _ratio(latency, ZMQ),
        "latency_p50_x_iceoryx2": _ratio(latency, RAW),
        "loop_p50_x_pyzmq": _ratio(loop, ZMQ),
        "fanout3_x_pyzmq": _ratio(fanout, ZMQ),
        "frames_lost": sum(made.checked.lost.values()),
        "frames_corrupt": sum(made.checked.corrupt.values()),
        "limits": {
            "memcpy_gb_s": round(max(f.median(MEMCPY) for f in by_n.values()) / 1e9, 1),
            "read_gb_s": round(read / 1e9, 1),
            "cross_core_gb_s": round(min(f.median(CROSS) for f in by_n.values()) / 1e9, 1),
        },
        "medians": {
            what: {name: median(values) for name, values in rounds.items()} for what, rounds in by_round.items()
        },
        "by_round": by_round,
        "rounds": made.rounds,
        "missing": missing,
        "ok": not any(made.checked.lost.values()) and not any(made.checked.corrupt.values()),
    }


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    targets = {
        "throughput_x_pyzmq": "at least 5, better 8",
        "throughput_x_memcpy": "at least 0.45, better 0.65",
        "throughput_x_iceoryx2": "at least 0.85, better 0.95",
        "latency_p50_x_pyzmq": "at most 0.40, better 0.22",
        "latency_p50_x_iceoryx2": "at most 1.3, better 1.1",
        "loop_p50_x_pyzmq": "at most 0.50, better 0.30",
        "fanout3_x_pyzmq": "at least 5, better 8",
    }
    lines = [f"{name:26}{_shown(figures[name]):>8}   {target}" for name, target in targets.items()]
    lines += [f"{name:26}{figures[name]:>8}   0" for name in ("frames_lost", "frames_corrupt")]
    lines += [f"{name:26}{value:>8}   GB/s, this machine" for name, value in figures["limits"].items()]
    for name, medians in figures["medians"].items():
        lines.append(f"{name:26}" + ", ".join(f"{who} {value:g}" for who, value in medians.items()))
    if figures["missing"]:
        lines.append(f"missing: {', '.join(figures['missing'])}; from a checkout: pip install -e '.[bench]'")
    return "\n".join(lines)


def _ratio(figures: Figures, to: str) -> float | None:
    return _round(figures.ratio(OURS, to)) if to in figures.values else None


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _values(figures: Figures, unit: float = 1.0) -> dict[str, list[float]]:
    return {name: [round(value / unit, 2) for value in values] for name, values in figures.values.items()}


def run(options: argparse.Namespace) -> int:
    """Measure, and print a table or JSON; exit code 1 when a frame was lost or corrupt."""
    found = bench(SECONDS if options.seconds is None else options.seconds, Progress("round"))
    sys.stdout.write((json.dumps(found, indent=2, allow_nan=False) if options.json else table(found)) + "\n")
    return 0 if found["ok"] else 1

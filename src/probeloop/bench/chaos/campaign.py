"""The campaign: rigs one after the other, faults into each in an order drawn from the seed, and what came of them.

A process of a rig that dies five times is given up by its supervisor, so a rig takes a dozen faults and then
one that ends it. Whatever is left at its end is charged to that one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ...data.errors import ProbeloopError
from . import disk, knocks, network, plugins, signals, starts, wire
from .figures import Row, table
from .outcome import Fault, Outcome, Start, failed
from .record import wrong_cells
from .rig import PLUGINS, ChaosRig, Late

FAULTS: tuple[Fault, ...] = (
    *signals.FAULTS, *plugins.FAULTS, *disk.FAULTS, *wire.FAULTS, *network.FAULTS, *knocks.FAULTS,
)  # fmt: skip
STARTS: tuple[Start, ...] = starts.STARTS
_DEATHS = 3
_ONCE = ("window", "slow-import", "oom")
_RIG_S = 45.0  # [s] of faults for one rig, at most


class Seen(NamedTuple):
    """What the witness of a rig had seen at some time: corrupt blocks, and lost frames by topic."""

    corrupt: int
    lost: dict[str, int]


class Campaign:
    """Injects `names` (default: all) of `faults` from a seed, and counts.

    per_rig: faults in one rig, at most. say: hears a line for each injection.
    """

    def __init__(
        self,
        seed: int,
        names: Sequence[str] = (),
        say: Callable[[str], None] = lambda line: None,
        *,
        faults: Sequence[Fault] = FAULTS,
        per_rig: int = 12,
    ) -> None:
        """Raises ProbeloopError for a fault that there is none of."""
        self._per_rig = per_rig
        known = [*(f.name for f in faults), *(s.name for s in STARTS)]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ProbeloopError(f"no fault is called {', '.join(unknown)}", f"there are: {', '.join(known)}")
        self.seed, self._say = seed, say
        self._rng = random.Random(seed)
        chosen = set(names or known)
        every: list[Fault | Start] = [*faults, *STARTS]
        lacking = {each.name: each.lacks() for each in every if each.name in chosen}
        self.not_run = {name: why for name, why in lacking.items() if why}
        self._faults = [f for f in faults if f.name in chosen and f.name not in self.not_run]
        self._starts = [s for s in STARTS if s.name in chosen and s.name not in self.not_run]
        here = [each for each in every if each.name in chosen and each.name not in self.not_run]
        self.rows = {each.name: Row(each.row, each.what) for each in here}
        self.kills = self.rigs = self.frames = self.blocks = self.lost = self.half_sent = self.cells = 0
        self.problems: list[str] = []
        self._frame_s = 0.0

    @property
    def corrupt(self) -> int:
        """Blocks and recorded cells that were not what was sent."""
        return sum(row.corrupt for row in self.rows.values())

    @property
    def leftovers(self) -> int:
        """Processes and files that outlived their rig."""
        return sum(row.leftovers for row in self.rows.values())

    def run(self, until: Callable[[], bool]) -> None:
        """Inject until `until()` is true, which is asked between two rigs, after the first round."""
        with tempfile.TemporaryDirectory(prefix="probeloop-chaos-", ignore_cleanup_errors=True) as folder:
            home, number = Path(folder), 0
            while number == 0 or not until():
                if self._starts:
                    start = min(self._starts, key=self._times)
                    self._note(start.name, start.run(home / f"start{number}", self._rng))
                if self._faults:
                    self._rig(home / f"rig{number}")
                    shutil.rmtree(home / f"rig{number}", ignore_errors=True)
                number += 1

    def _times(self, each: Fault | Start) -> tuple[int, float]:
        return len(self.rows[each.name].outcomes), self._rng.random()

    def _rig(self, folder: Path) -> None:
        """Run one rig through its faults, and end it."""
        windows = [f for f in self._faults if f.victim == "window"]
        window = bool(windows) and self.rigs % 4 == 1 and _has_windows()
        self.rigs += 1
        rig = ChaosRig(folder, self._rng.getrandbits(31), waits=self._rng.random() < 0.6, window=window)
        last = Fault("the start", 0, "", signals.kill_instrument)
        try:
            rig.start()
            began, seen = time.monotonic(), self._seen(rig)
            for fault in self._plan(window):
                last = fault
                if not fault.ends and time.monotonic() - began > _RIG_S:
                    continue
                seen = self._inject(rig, fault, seen)
                if rig.problems:
                    break
            self._frame_s += time.monotonic() - began
        except Late as late:
            self.problems.append(f"{last.name}: {late}")
        finally:
            self._end(rig, last)

    def _plan(self, window: bool) -> list[Fault]:
        """Draw what one rig goes through: what was injected least comes first, and no process dies too often."""
        inside = [f for f in self._faults if not f.ends and (f.victim != "window" or window)]
        deaths: Counter[str] = Counter()
        chosen: list[Fault] = []
        for fault in (*sorted(inside, key=self._times), *sorted(inside, key=self._times)):
            most = 1 if fault.victim in _ONCE else _DEATHS
            if len(chosen) < self._per_rig and (not fault.victim or deaths[fault.victim] < most):
                deaths[fault.victim] += 1
                chosen.append(fault)
        self._rng.shuffle(chosen)
        return [*chosen, *sorted((f for f in self._faults if f.ends), key=self._times)[:1]]

    def _inject(self, rig: ChaosRig, fault: Fault, seen: Seen) -> Seen:
        """Inject a fault at a random phase, and note what came of it; return what was seen by then."""
        threading.Event().wait(self._rng.uniform(0.0, 0.3))
        try:
            outcome = fault.inject(rig, self._rng)
        except (Late, ProbeloopError) as error:
            outcome = failed(f"{error}; it last said: {rig.last_words()}")
            rig.problems.append(fault.name)
        now = self._seen(rig)
        self.rows[fault.name].corrupt += now.corrupt - seen.corrupt
        lost = {topic: more for topic, count in now.lost.items() if (more := count - seen.lost[topic])}
        own = PLUGINS.get(fault.victim, "") if outcome.kills else ""
        if 0 < lost.get(own, 0) <= rig.witness.tallies[own].largest:
            # killed while it sent: the index of that block is never used again, and the gap is named
            count = lost.pop(own)
            self.half_sent += count if rig.waits else 0
            outcome = replace(outcome, notes={**outcome.notes, "half_sent_frames": float(count)})
        if rig.waits and lost:
            named = ", ".join(f"{count} of {topic}" for topic, count in lost.items())
            outcome = replace(outcome, problems=(*outcome.problems, f"frames lost beside it: {named}"))
        self._note(fault.name, outcome)
        return now

    @staticmethod
    def _seen(rig: ChaosRig) -> Seen:
        return Seen(rig.witness.corrupt, {topic: tally.lost for topic, tally in rig.witness.tallies.items()})

    def _end(self, rig: ChaosRig, last: Fault) -> None:
        """End a rig; what it left, and what its record holds that was never sent, is charged to the last fault."""
        left = rig.end(None if last.ends and not rig.problems else signal.SIGINT)
        self._left(last.name, left)
        self.problems += [f"{last.name}: {each}" for each in rig.problems if each != last.name]
        witness = getattr(rig, "witness", None)
        wrong = 0
        if witness is not None:
            cells, wrong, unreadable = wrong_cells(rig.session, witness.sums, self._rng)
            self.cells += cells
            self.problems += [f"the record: {each}" for each in unreadable]
            for name, tally in witness.tallies.items():
                self.frames += tally.frames if name == "camera" else 0
                self.blocks += tally.blocks
                self.lost += tally.lost if rig.waits else 0
                self.problems += [f"{name}: {what}" for what in tally.found[:3]]
        if last.name in self.rows:
            self.rows[last.name].corrupt += wrong

    def _left(self, name: str, left: Sequence[str]) -> None:
        if left:
            more = f" and {len(left) - 2} more" if len(left) > 2 else ""
            self.problems.append(f"{name}: left {', '.join(left[:2])}{more}")
        if name in self.rows:
            self.rows[name].leftovers += len(left)

    def _note(self, name: str, outcome: Outcome) -> None:
        if outcome.problems:
            outcome = replace(outcome, verdict="failed")
            self.problems += [f"{name}: {problem}" for problem in outcome.problems]
        self.kills += outcome.kills
        self.rows[name].corrupt += outcome.corrupt
        self.rows[name].outcomes.append(outcome)
        self._left(name, outcome.left)
        took = "" if outcome.recovery_s is None else f"{outcome.recovery_s * 1e3:.0f} ms"
        self._say(f"rig {self.rigs}  {name:20}{outcome.verdict:11}{took:>9}  {'; '.join(outcome.problems)[:160]}")

    def figures(self) -> dict[str, Any]:
        """Return everything, with units in the names."""
        rate = self.frames / self._frame_s if self._frame_s else 0.0
        n_failed = sum(outcome.verdict == "failed" for row in self.rows.values() for outcome in row.outcomes)
        return {
            "seed": self.seed,
            "rigs": self.rigs,
            "kills": self.kills,
            "corrupt": self.corrupt,
            "leftovers": self.leftovers,
            "injections": sum(len(row.outcomes) for row in self.rows.values()),
            "failed": n_failed,
            "frames": self.frames,
            "blocks": self.blocks,
            "frames_per_s": round(rate),
            "frames_lost": self.lost - self.half_sent,
            "frames_half_sent": self.half_sent,
            "record_cells_compared": self.cells,
            "faults": {name: row.figures() for name, row in self.rows.items() if row.outcomes},
            "not_run": self.not_run
            | {n: "its turn did not come" for n, row in self.rows.items() if not row.outcomes},
            "problems": self.problems,
            "ok": not (self.corrupt or self.leftovers or n_failed or self.problems),
        }


def _has_windows() -> bool:
    from ...discover import installed

    return installed("PySide6") and installed("pyqtgraph")


def run(options: argparse.Namespace) -> int:
    """Run the campaign as the command line asks; print its figures; exit code 1 when anything was not survived."""
    names = [name for name in (options.faults or "").split(",") if name]
    deadline = time.monotonic() + 60.0 * options.minutes

    def say(line: str) -> None:
        if not options.json:
            sys.stderr.write(line + "\n")

    campaign = Campaign(options.seed, names, say)
    campaign.run(lambda: time.monotonic() > deadline)
    figures = campaign.figures()
    sys.stdout.write(json.dumps(figures, indent=2) + "\n" if options.json else table(figures))
    return 0 if figures["ok"] else 1

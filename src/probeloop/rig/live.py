"""`probeloop doctor --live`: joins a running rig, watches it for a while, and says where its time goes.

It reads every topic as any lossless reader does, but no source waits for it: watching changes nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..data.control import Describe, Description, Gap
from ..data.errors import BusError, ProbeloopError, SharedMemoryError
from ..data.latency import LOOP_STAGES, LOOP_TOTALS, Histogram, Timings, read_histograms
from ..data.units import display
from .client import INSTRUMENT, Connection
from .output import emit_json, say
from .run import which_rig
from .summary import in_us

if TYPE_CHECKING:
    from ..bus.subscribe import Subscriber
    from ..bus.wait import Poller

SECONDS = 5.0
LONGEST = 86_400.0
_LOOK_S = 0.25
_BLOCKS, _A_DECADE = " ▁▂▃▄▅▆▇█", 5  # of a histogram in one line
_LABELS = {each.name: each.label for each in (*LOOP_STAGES, *LOOP_TOTALS)}


def live(options: argparse.Namespace) -> int:
    """Watch a rig and print what was seen; return 1, with one line, when none runs or it ends meanwhile."""
    seconds = SECONDS if options.seconds is None else options.seconds
    if not 0 < seconds <= LONGEST:
        raise ProbeloopError(f"can't watch for {seconds:g} s", f"--seconds above 0, up to {LONGEST:g}")
    try:
        rig = which_rig(options.connect)
        if not options.json and sys.stderr.isatty():
            sys.stderr.write(f"watching {rig} for {seconds:g} s\n")
        with Connection(rig, "doctor") as connection:
            found = watch(connection, seconds)
    except BusError as error:
        sys.stderr.write(f"probeloop: {error}\n")
        return 1
    if options.json:
        emit_json(found)
    else:
        say("\n".join(words(found)))
    return 0


class _Watched:
    """One topic, read losslessly; counted from `begin` on."""

    def __init__(self, reader: Subscriber) -> None:
        self.reader, self.timings = reader, Timings()
        self.begin()

    def begin(self) -> None:
        self._before, self._since = self.reader.stats, time.monotonic()

    def read(self) -> None:
        for block in self.reader.drain():
            self.timings.add(time.monotonic_ns() - block.published_ns)

    def skip(self) -> None:
        """Pass over what waited while other topics were joined: it was on its way long enough."""
        for _ in self.reader.drain():
            pass

    def told(self) -> dict[str, Any]:
        now, spec, before = self.reader.stats, self.reader.spec, self._before
        span = max(time.monotonic() - self._since, 1e-9)
        frames, lost = now.frames - before.frames, now.lost - before.lost
        return {
            "topic": self.reader.topic,
            "kind": spec.kind if spec is not None else "",
            "rate_per_s": round((frames + lost) / span, 3),
            "mb_per_s": round((now.bytes - before.bytes) / span / 1e6, 3),
            "frames": frames,
            "lost": lost,
            "transport_us": in_us(self.timings.counted),
        }


def watch(connection: Connection, seconds: float) -> dict[str, Any]:
    """Return what a rig did in the next `seconds`, as plain data; raises BusError when it ends meanwhile.

    topics: rate, loss and transport (published -> read here). readers: the plug-ins, what they lost since they began
    and how long blocks were on their way to them. loop: its stages, in this time and since the rig's start. The
    longest of this time is known to its bin alone.
    """
    before = _described(connection)
    topics: dict[str, _Watched] = {}
    refused: dict[str, str] = {}
    gaps: Counter[tuple[str, str]] = Counter()
    events = connection.events()
    poller = connection.poller(events.source)
    try:
        _join(connection, topics, refused, poller)
        until = look_at = time.monotonic()
        until += seconds
        while (now := time.monotonic()) < until:
            if now >= look_at:
                look_at = now + _LOOK_S
                _join(connection, topics, refused, poller)
            poller.wait(min(until - now, _LOOK_S))
            for each in topics.values():
                each.read()
            for event in events.read():
                if isinstance(event, Gap):
                    gaps[event.topic, event.reason] += event.count
        seen = [topics[name].told() for name in sorted(topics)]
    finally:
        poller.close()
        for each in topics.values():
            each.reader.close()
        events.close()
    after = _described(connection)
    return {
        "rig": connection.rig_id,
        "seconds": seconds,
        "topics": seen,
        "not_read": refused,
        "readers": [
            {"reader": plugin, "topic": topic, "lost": lost, "transport_us": in_us(now)}
            for plugin, topic, lost, now in _readers(before, after)
        ],
        "gaps": [{"topic": topic, "reason": why, "frames": count} for (topic, why), count in gaps.items()],
        "loop": _loop(before[INSTRUMENT].state, after[INSTRUMENT].state),
    }


def _join(connection: Connection, topics: dict[str, _Watched], refused: dict[str, str], poller: Poller) -> None:
    """Read the topics that are new."""
    new = [name for name in connection.topics() if name not in {*topics, *refused, "events"}]
    for name in new:
        try:
            topics[name] = _Watched(connection.subscribe(name, "lossless"))
        except (BusError, SharedMemoryError) as error:
            refused[name] = str(error)
        else:
            poller.add(topics[name].reader)
    for each in topics.values() if new else ():
        each.skip()
    for name in new:
        if name in topics:
            topics[name].begin()


def _described(connection: Connection) -> dict[str, Description]:
    """Ask every process what it is; who is silent is left out, but for the instrument."""
    found = {}
    for name in connection.services():
        try:
            reply = connection.request(name, Describe(), 1.0)
        except BusError:
            if name == INSTRUMENT:
                raise BusError(
                    f"the instrument of {connection.rig_id!r} does not answer", "is the rig starting, or at its end?"
                ) from None
            continue
        if isinstance(reply, Description):
            found[name] = reply
    return found


def _readers(
    before: dict[str, Description], after: dict[str, Description]
) -> Iterable[tuple[str, str, int, Histogram]]:
    """Yield (plug-in, topic, frames lost, transport in this time)."""
    for service, told in after.items():
        for plugin, state in told.state.get("plugins", {}).items():
            if service != f"plugin.{plugin}":
                continue  # a process of several answers for all of them, at the service of each
            earlier = before[service].state["plugins"].get(plugin, {}) if service in before else {}
            known = read_histograms(earlier.get("transport"))
            for topic, histogram in read_histograms(state.get("transport")).items():
                yield plugin, topic, int(state.get("lost", 0)), histogram.since(known.get(topic, Histogram()))


def _loop(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    known, now = read_histograms(before.get("latency")), read_histograms(after.get("latency"))
    window = {name: histogram.since(known.get(name, Histogram())) for name, histogram in now.items()}
    return {
        "watched": {name: _with_bins(histogram) for name, histogram in window.items() if histogram.n},
        "since_start": {name: _with_bins(histogram) for name, histogram in now.items()},
    }


def _with_bins(histogram: Histogram) -> dict[str, Any]:
    """Return the figures of a histogram and itself: [from, to, how many] of each bin that holds something [us]."""
    counts = [count for count in histogram.counts if count]
    bounds = [(low / 1e3, high / 1e3 if high < 2**63 - 1 else None) for low, high, _ in histogram.bars()]
    return {**in_us(histogram), "bins": [[*each, count] for each, count in zip(bounds, counts, strict=True)]}


def _bars(shown: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the axis that all histograms share, in words, and each of them as a line of blocks on it."""
    ends = [end for each in shown.values() for low, high, _ in each["bins"] for end in (low or 1.0, high or low * 2)]
    first, last = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    last = max(last, first + 1)
    width = (last - first) * _A_DECADE
    lines = []
    for each in shown.values():
        heights = [0] * width
        for low, _, count in each["bins"]:
            heights[min(width - 1, max(0, int((math.log10(low or 1.0) - first) * _A_DECADE + 1e-6)))] += count
        highest = max(heights)
        lines.append("".join(_BLOCKS[math.ceil(h * (len(_BLOCKS) - 1) / highest)] for h in heights))
    axis = f"{display(10.0 ** (first - 6), 's')} to {display(10.0 ** (last - 6), 's')}"
    return axis.ljust(width), lines


def words(found: dict[str, Any]) -> list[str]:
    """Return what `watch` found in lines for a person."""
    watched, whole = found["loop"]["watched"], found["loop"]["since_start"]
    lines = [f"{found['rig']}, watched for {found['seconds']:g} s", ""]
    rows = [
        (each["topic"], f"{each['rate_per_s']:,.4g} /s", f"{each['mb_per_s']:,.1f} MB/s", f"{each['lost']:,}",
         *_times(each["transport_us"], "p50", "p99"))
        for each in found["topics"]
    ]  # fmt: skip
    lines += _table(("topic", "frames", "", "lost", "transport p50", "p99"), rows) if rows else ["no topic yet"]
    lines += [f"{name}: not read, {why}" for name, why in found["not_read"].items()]
    rows = [
        (f"{each['topic']} → {each['reader']}", f"{each['transport_us']['n']:,}", f"{each['lost']:,}",
         *_times(each["transport_us"], "p50", "p99"))
        for each in found["readers"]
    ]  # fmt: skip
    if rows:
        lines += ["", *_table(("read by a plug-in", "blocks", "lost", "transport p50", "p99"), rows)]
    lines += [f"gap on {each['topic']}: {each['frames']:,} frames, {each['reason']}" for each in found["gaps"]]
    if not whole:
        return [*lines, "", "no closed loop yet: no command had frames as its cause"]
    shown, since = (watched, "in this time") if watched else (whole, "since the start, none in this time")
    axis, bars = _bars(shown)
    rows = [
        (_LABELS.get(name, name), *_times(each, "p50", "p99"), f"{each['n']:,}", bar)
        for (name, each), bar in zip(shown.items(), bars, strict=True)
    ]
    lines += ["", *_table(("closed loop", "p50", "p99", "n", axis), rows), f"({since}; p50 and p99 within 6 %)"]
    return lines


def _times(told: dict[str, Any], *names: str) -> tuple[str, ...]:
    return tuple("–" if told[name] is None else display(told[name] / 1e6, "s", 2) for name in names)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Set words to the left in the first column, to the right in the others."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(w.rjust(n) for w, n in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in (head, *rows)
    ]

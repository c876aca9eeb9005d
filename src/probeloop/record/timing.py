"""The report's section on latency: one line a stage of the loop, each with its histogram on one common axis."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from ..data.latency import BINS, BINS_A_DECADE, LOOP_STAGES, LOOP_TOTALS, Histogram, Stage, Timings
from ..data.units import display
from .tally import EVERY_VERDICT, Tally

_WIDTH, _HEIGHT = 280, 30
_BAR, _FAINT, _ACCENT = "#31688e", "#d5d9e0", "#c8433a"


_EVERY = Stage(EVERY_VERDICT, EVERY_VERDICT, "", "submitted → verdict, of commands without a cause too")


def latency_section(tally: Tally) -> str:
    """Return the section, "" for a session in which no command was timed."""
    timed = {each: _counted(tally.latencies[each.name]) for each in (*LOOP_STAGES, *LOOP_TOTALS, _EVERY)}
    timed = {each: histogram for each, histogram in timed.items() if histogram.n}
    if not timed:
        return ""
    span = _decades(timed.values())
    rows = "".join(_row(each, histogram, tally.percentiles(each.name), span) for each, histogram in timed.items())
    head = "".join(f'<th class="n">{word}</th>' for word in ("median", "99 %", "longest", "commands"))
    closed = len(tally.latencies["software"]) > 0
    note = "" if closed else '<p class="none">No closed loop: no command had frames as its cause.</p>'
    return (
        f"<h2>Latency</h2>{note}<table><tr><th>stage</th><th>{_axis(span)}</th>{head}</tr>{rows}</table>"
        '<p class="none">Stamps of one clock, CLOCK_MONOTONIC. Red: the median. The stages add up to the software '
        "latency; the physical one includes the hardware's settling.</p>"
    )


def _counted(values: Sequence[int]) -> Histogram:
    timings = Timings()
    for value in values:
        timings.add(value)
    return timings.counted


def _decades(histograms: Iterable[Histogram]) -> tuple[int, int]:
    """Return the first and last power of ten [ns] that all of them need."""
    low, high = BINS, 0
    for each in histograms:
        low, high = min(low, each.first), max(high, each.first + len(each.counts) - 1)
    first = 3 + max(0, low - 1) // BINS_A_DECADE
    return first, max(first + 1, 3 + math.ceil(min(high, BINS - 2) / BINS_A_DECADE))


def _row(stage: Stage, histogram: Histogram, found: tuple[float, ...] | None, span: tuple[int, int]) -> str:
    assert found is not None
    cells = "".join(f'<td class="n">{html.escape(display(value, "s", 3))}</td>' for value in found)
    bars = _bars(histogram, found[0] * 1e9, span, stage.label)
    words = f"{html.escape(stage.label)}<small>{html.escape(stage.words)}</small>"
    kind = "total" if stage in LOOP_TOTALS else "stage"
    return f'<tr class="{kind}"><td>{words}</td><td>{bars}</td>{cells}<td class="n">{histogram.n:,}</td></tr>'


def _x(duration_ns: float, span: tuple[int, int]) -> float:
    """Return where a duration is [px]; what is outside the axis lies at its end."""
    first, last = span
    share = (math.log10(max(duration_ns, 1.0)) - first) / (last - first)
    return min(max(share, 0.0), 1.0) * _WIDTH


def _bars(histogram: Histogram, median_ns: float, span: tuple[int, int], label: str) -> str:
    body = [f'<path d="M{_x(10**p, span):.1f},0V{_HEIGHT}" stroke="{_FAINT}"/>' for p in range(span[0], span[1] + 1)]
    for start, end, share in histogram.bars():
        left, right = min(_x(start, span), _WIDTH - 1.0), _x(end, span)
        tall, wide = max(1.5, (_HEIGHT - 3) * share), max(right - left - 0.4, 1.0)
        place = f'x="{left:.1f}" y="{_HEIGHT - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
        body.append(f'<rect {place} fill="{_BAR}"/>')
    body.append(f'<path d="M{_x(median_ns, span):.1f},0V{_HEIGHT}" stroke="{_ACCENT}" stroke-width="1.6"/>')
    return _svg(_HEIGHT, "".join(body), f"{label}: histogram of {histogram.n} on a logarithmic axis")


def _axis(span: tuple[int, int]) -> str:
    first, last = span
    text = "".join(
        f'<text x="{_x(10**p, span):.1f}" y="11" fill="#667085" '
        f'text-anchor="{"start" if p == first else "end" if p == last else "middle"}">'
        f"{html.escape(display(10.0 ** (p - 9), 's'))}</text>"
        for p in range(first, last + 1)
    )
    return _svg(14, text, "logarithmic axis of time")


def _svg(height: int, body: str, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{body}</svg>'
    )

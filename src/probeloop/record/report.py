"""report.html: one file that shows what a session saw and did, pictures inside."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from ..data.errors import ProbeloopError, RecordError
from ..data.units import display
from .learned import Learned, learned_figures
from .reader import RecordedTopic, Session
from .sights import figures_of, origin_of
from .tally import Tally
from .timing import latency_section

_BANNER = {
    "simulation": ("Simulated", "No real microscope took part: these data were computed."),
    "replay": ("Replay", "Measured data were played back: no microscope took part in this session."),
    "experiment": ("Experiment", "Measured on a real instrument."),
}
_STYLE = """
:root{--ink:#1d2430;--faint:#667085;--line:#e2e5ea;--soft:#f6f7f9}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1160px;margin:0 auto;padding:28px 28px 60px}
header h1{font-size:27px;margin:18px 0 2px;letter-spacing:-.01em}
header p{margin:0;color:var(--faint)}
h2{font-size:18px;margin:38px 0 12px;padding-bottom:6px;border-bottom:1px solid var(--line)}
.banner{padding:9px 28px;font-weight:600;color:#fff}
.banner span{font-weight:400;opacity:.92;margin-left:10px}
.simulation{background:#7a2a8c}
.replay{background:#b45309}
.experiment{background:#166534}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:22px}
.tile{background:var(--soft);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:22px;font-variant-numeric:tabular-nums;line-height:1.25}
.tile span{color:var(--faint);font-size:13px}
.bad{background:#fdecea;border-color:#f3b9b3}
.bad b{color:#b42318}
.figures{display:flex;flex-wrap:wrap;gap:22px 26px;align-items:flex-start}
figure{margin:0}
figure svg{display:block;max-width:100%;height:auto;font:11px system-ui,sans-serif}
figcaption{font-size:13px;margin-top:6px;font-weight:600;max-width:400px}
figcaption small{display:block;font-weight:400;color:var(--faint)}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;
padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--faint);font-weight:500}
tr.total td{font-weight:600}
td small{display:block;color:var(--faint);font-weight:400}
td svg{display:block;font:10px system-ui,sans-serif}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;padding-right:22px}
.none{color:var(--faint)}
code{background:var(--soft);padding:1px 5px;border-radius:4px;font-size:13px}
@media print{.tile,.banner{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


def write_report(session_dir: Path) -> Path:
    """Write SESSION/report.html and return it; raises RecordError for no session, or when it can't be written."""
    session = Session(session_dir)
    tally = Tally.of(session.events())
    topics = session.topics()
    summary = _json(session_dir / "summary.json")
    parts = [
        _head(session_dir, session, tally, topics, summary),
        *_learned(session_dir, topics, tally),
        _commands(tally),
        latency_section(tally),
        _losses(tally, topics),
        _remarks(tally),
        _provenance(session_dir),
    ]
    body = "\n".join(part for part in parts if part)
    name = html.escape(session_dir.name)
    banner = _banner(origin_of(topics))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>probeloop: {name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body>{banner}<main>{body}</main></body></html>"
    )
    path, partial = session_dir / "report.html", session_dir / "report.html.partial"
    try:
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise RecordError(f"the report can't be written: {error.strerror}", "make room on the disk") from error
    return path


def _banner(origin: str) -> str:
    word, text = _BANNER[origin]
    return f'<div class="banner {origin}">{word}<span>{text}</span></div>'


def _head(folder: Path, session: Session, tally: Tally, topics: list[RecordedTopic], summary: dict[str, Any]) -> str:
    frames = Counter[str]()
    for topic in topics:
        try:
            frames[topic.topic] += int(topic.present.sum())
        except ProbeloopError:
            continue
    loop = tally.percentiles("software")
    tiles = [
        (f"{sum(frames.values()):,}", "frames recorded", False),
        (f"{tally.lost:,}", "frames lost", tally.lost > 0),
        (f"{sum(tally.accepted.values()):,}", "commands accepted", False),
        (f"{len(tally.refused):,}", "commands refused", False),
        (f"{len(tally.failed):,}", "commands failed", bool(tally.failed)),
        ("–" if loop is None else display(loop[0], "s"), "loop latency, median", False),
        (_seconds(tally.span_s), "from first to last event", False),
    ]
    if "spectra_measured" in summary:
        same = f"{summary.get('spectra_equal')} of {summary['spectra_measured']}"
        tiles.append((same, "spectra equal to the file", summary.get("spectra_equal") != summary["spectra_measured"]))
    made = "".join(
        f'<div class="tile{" bad" if bad else ""}"><b>{value}</b><span>{text}</span></div>'
        for value, text, bad in tiles
    )
    rig = html.escape(str(summary.get("rig", folder.name)))
    plans = "; ".join(
        _plan_words(plan.state, plan.reason, plan.data) for plan in tally.plans if plan.state != "running"
    )
    when = html.escape(tally.started.replace("T", " ")[:19])
    return (
        f"<header><h1>{rig}</h1><p>{when} · session <code>{html.escape(folder.name)}</code></p>"
        f'</header><div class="tiles">{made}</div>' + (f"<p>{html.escape(plans)}</p>" if plans else "")
    )


def _plan_words(state: str, reason: str, data: Any) -> str:
    name = str(data.get("plan", "plan")) if isinstance(data, dict) else "plan"
    message = str(data.get("message", "")) if isinstance(data, dict) else ""
    return f"{name}: {state}" + (f" ({reason or message})" if reason or message else "")


def _learned(folder: Path, topics: list[RecordedTopic], tally: Tally) -> list[str]:
    """Return what a plan has learned, and the pictures of all else."""
    learned = Learned.of(tally.plans)
    if learned is None:
        return figures_of(topics, tally.observed)
    figures = learned_figures(learned, topics, tally.observed.get(learned.scalarizer, ()), folder)
    own = set(learned.topics.values())
    rest = figures_of([each for each in topics if each.topic not in own], tally.observed)
    title = f"Learned by {html.escape(learned.plan)}: {html.escape(learned.scalarizer.replace('_', ' '))}"
    return [f'<h2>{title}</h2><div class="figures">{"".join(figures)}</div>', *rest] if figures else rest


def _commands(tally: Tally) -> str:
    if not tally.accepted and not tally.refused:
        return ""
    rows = "".join(
        f'<tr><td>{name}</td><td class="n">{count:,}</td></tr>' for name, count in sorted(tally.accepted.items())
    )
    made = f'<h2>Commands</h2><table><tr><th>accepted</th><th class="n">times</th></tr>{rows}</table>'
    if tally.refused:
        grouped = Counter((type(v.command).__name__, v.reason, v.limit, v.allowed) for v in tally.refused)
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(reason)}</td><td>{html.escape(allowed or limit)}</td>"
            f'<td class="n">{count}</td></tr>'
            for (name, reason, limit, allowed), count in grouped.most_common(40)
        )
        made += (
            f'<br><table><tr><th>refused</th><th>why</th><th>allowed</th><th class="n">times</th></tr>{rows}</table>'
        )
    else:
        made += '<p class="none">The gate refused nothing.</p>'
    return made


def _losses(tally: Tally, topics: list[RecordedTopic]) -> str:
    lost: Counter[tuple[str, str]] = Counter()
    for gap in tally.gaps:
        lost[gap.topic, gap.reason] += gap.count
    rows = "".join(
        f'<tr><td><code>{html.escape(topic)}</code></td><td>{html.escape(why)}</td><td class="n">{count:,}</td></tr>'
        for (topic, why), count in lost.most_common(30)
    )
    text = (
        f'<table><tr><th>topic</th><th>why</th><th class="n">frames</th></tr>{rows}</table>'
        if rows
        else '<p class="none">No frame was lost on any recorded topic.</p>'
    )
    files = ""
    for topic in topics:
        try:
            present = topic.present
            done = f"{int(present.sum()):,} of {present.size:,}" if topic.is_scan else f"{present.size:,}"
            whole = "closed" if topic.complete else "not closed: its recorder was killed"
        except ProbeloopError as error:
            done, whole = "", str(error)
        which = str(topic.generation) if topic.is_scan else "points"
        file = html.escape(f"{topic.topic}/{topic.path.name}" if topic.is_scan else topic.path.name)
        files += f'<tr><td><code>{file}</code></td><td>{which}</td><td class="n">{done}</td>'
        files += f"<td>{html.escape(whole)}</td></tr>"
    head = '<tr><th>file (opens in HyperSpy)</th><th>generation</th><th class="n">frames</th><th></th></tr>'
    return f"<h2>Frames</h2>{text}<br><table>{head}{files}</table>"


def _remarks(tally: Tally) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(r.wall[11:19])}</td><td>{html.escape(r.process)}</td><td>{html.escape(r.level)}</td>"
        f"<td>{html.escape(r.text)}</td></tr>"
        for r in tally.remarks[-40:]
        if r.level != "debug"
    )
    failed = "".join(f"<li>{html.escape(reason)}</li>" for reason in tally.failed[:20])
    made = f"<h2>Failed commands</h2><ul>{failed}</ul>" if failed else ""
    return made + (f"<h2>Remarks</h2><table>{rows}</table>" if rows else "")


def _provenance(folder: Path) -> str:
    told = _json(folder / "environment.json")
    if not told:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in dict(told.get("versions") or {}).items())
    git = told.get("git") or {}
    state = f"{str(git.get('commit', ''))[:12]}{' (changed)' if git.get('changed') else ''}" if git else "no checkout"
    text = html.escape(f"Python {told.get('python')} on {told.get('platform')}; {versions}; source {state}")
    return f'<h2>Made with</h2><p class="none">{text}</p>'


def _json(path: Path) -> dict[str, Any]:
    try:
        made = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"

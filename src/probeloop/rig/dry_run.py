"""`probeloop plan RIG --dry-run`: what the plans of a rig will cost, before any of it is spent.

A plan asks for what it measured last, so its cost follows from no list of commands: it is run, on a simulator, behind
the rig's own gate (rehearsal.py). A simulated or replayed rig is rehearsed on itself. A rig with hardware is not
touched; a simulator has to be named that stands in for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .. import discover
from ..data.errors import DropInError, SettingsError, SourceError
from ..data.units import display
from .calibrations import Calibrated, kept
from .drop_ins import faults
from .load import load
from .output import emit_json, say
from .rehearsal import Rehearsal
from .run import load_with_plan
from .schema import InstrumentEntry, Rig, limits_of

_SAY_EVERY = 2.0  # [s]
_EXPECTS = "dkl"  # the drop-in whose commands tell what exploring earns
_PARTS = {
    "scans": "scans",
    "spectra": "spectra, and the way to each",
    "moves": "moves",
    "other": "approach, settings, references",
    "choices": "choosing: policy, fits, scalarizers, as it took here",
}


def plan(options: argparse.Namespace) -> int:
    """Rehearse the plans of a rig and print what they took; 0 when all of them came to their end."""
    if not options.dry_run:
        raise SourceError("probeloop plan only rehearses", "add --dry-run; probeloop run RIG --plan NAME measures")
    rig = load_with_plan(options.rig, options.plan, options.seed, options.set)
    if not rig.plans:
        raise SourceError(f"{rig.name} has no plan", "name one: --plan explore")
    on = _stand_in(rig, options.on)
    problems = faults(on)
    if problems:
        raise SettingsError(problems, f"mend {rig.source}")
    summary = rehearsed(on, quiet=options.json or not sys.stderr.isatty())
    summary["rig"], summary["on"] = rig.name, options.on or on.instrument.use
    if options.session:
        summary["expected"] = _expected(options.session, summary, on)
    if options.json:
        emit_json(summary)
    else:
        say("\n".join(told(summary)))
    return 0 if summary["ok"] else 1


def _stand_in(rig: Rig, name: str | None) -> Rig:
    """Return the rig with a simulator as its instrument; raises SourceError where it is hardware, or no simulator."""
    if name is not None:
        other = load(name)
        rig = msgspec.structs.replace(
            rig, instrument=InstrumentEntry(other.instrument.use, other.instrument.parameters)
        )
    found = discover.find(rig.instrument.use, "Instrument", rig.folders)
    if found.kind != "Simulator":
        raise SourceError(
            f"{rig.instrument.use!r} is hardware, which a dry run does not touch",
            "name the rig of a simulator that stands in for it: --on spm, --on stem",
        )
    return rig


def _expected(session: str, summary: Mapping[str, Any], rig: Rig) -> dict[str, Any]:
    """Return what as many spectra as the plans take are expected to earn, by who knows of it; raises DropInError."""
    commands = discover.load_commands(_EXPECTS, rig.folders)
    rounds = sum(each["spectra"] for each in summary["plans"])
    if not rounds:
        raise SourceError("the plans take no spectra, so --from says nothing", "leave it out")
    asked = getattr(commands, "expected", None)
    if asked is None:
        raise DropInError(f"{_EXPECTS!r} does not tell what to expect", "leave --from out")
    made: dict[str, Any] = asked(session, rounds, rig.plans[0].seed)
    return made


def rehearsed(rig: Rig, quiet: bool = True) -> dict[str, Any]:
    """Run every plan of a rig on its simulator and return what each took, and all of them together."""
    began = time.monotonic()
    entry = rig.instrument
    made = discover.load_instrument(entry.use, entry.parameters, rig.folders, spelled=True, unpaced=True)
    if own := kept(rig):
        made = Calibrated(made, own)
    limits = limits_of(made.describe().limits, rig.limits)
    rehearsal = Rehearsal(rig, made, limits, _Progress(quiet))
    try:
        plans = [rehearsal.run(each) for each in rig.plans for _ in range(max(1, each.times))]
    finally:
        rehearsal.close()
    return {
        "plans": plans,
        "total": {
            "commands": sum(each["commands_total"] for each in plans),
            "time_s": sum(each["time_s"]["total"] for each in plans),
            "dose_e": sum(each["dose_e"] for each in plans),
            "highest_e_per_m2": max(each["highest_e_per_m2"] for each in plans),
        },
        "took_s": time.monotonic() - began,
        "ok": all(each["state"] == "finished" for each in plans),
    }


class _Progress:
    """Says now and then on the error output how far it is."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._said = quiet, time.monotonic()

    def __call__(self, done: float, message: str) -> None:
        if not self._quiet and time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            sys.stderr.write(f"{done:4.0%} {message}\n")


def told(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for a person."""
    yield f"rehearsed on the simulator {summary['on']!r}, in {summary['took_s']:.1f} s; nothing was measured"
    for each in summary["plans"]:
        yield ""
        yield f"{each['plan']} (seed {each['seed']}): {each['state']}. {each['message']}"
        names = ", ".join(f"{n} {name}" for name, n in sorted(each["commands"].items()))
        yield f"  commands  {each['commands_total']}: {names or 'none'}"
        yield f"  time      {_long(each['time_s']['total'])}"
        for part, words in _PARTS.items():
            if each["time_s"][part] > 0:
                yield f"    {_long(each['time_s'][part]):>10}  {words}"
        yield f"  dose      {_dose(each)}"
        if each["pulses"]:
            yield f"  pulses    {each['pulses']}"
        if each["spectra"]:
            yield f"  spectra   {each['spectra']}, of which {each['invalid']} could not be judged"
        refusal = each["first_refusal"]
        if refusal is None:
            yield "  refusals  none"
        else:
            yield f"  refusals  {each['refused']}; the first is step {refusal['step']}, {refusal['command']}:"
            yield f"            {refusal['reason']} (limit {refusal['limit']}; allowed: {refusal['allowed']})"
        for text in each.get("plugins_refused", ()):
            yield f"  plug-in   {text}"
    yield from _told_expected(summary.get("expected"))
    if len(summary["plans"]) > 1:
        total = summary["total"]
        yield ""
        yield f"together: {total['commands']} commands, {_long(total['time_s'])}, {total['dose_e']:.3g} e"


def _told_expected(found: Mapping[str, Any] | None) -> Iterator[str]:
    if found is None:
        return
    yield ""
    yield (
        f"a campaign of {found['rounds']} spectra on such a specimen is expected to earn, judged by the "
        f"{found['measured']} of {found['scalarizer']} in the session (best {found['best_measured']:.4g}):"
    )
    yield f"  {'model':17} {'acquisition':21} {'reward':>11}  {'90 % of games':25} regret"
    for each in found["pairs"]:
        interval = "{:.4g} to {:.4g}".format(*each["interval"])
        names = f"{each['model']:17} {each['acquisition']:21}"
        yield f"  {names} {each['reward']:11.4g}  {interval:25} {each['regret']:.3g}"


def _dose(each: Mapping[str, Any]) -> str:
    if not each["dose_e"]:
        return "none"
    made = f"{each['dose_e']:.3g} e; {each['highest_e_per_m2'] / 1e20:.3g} e/Å² where it is highest"
    return made + (", estimated from the highest current" if each["dose_is_estimate"] else "")


def _long(seconds: float) -> str:
    if seconds < 120:
        return display(seconds, "s")
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

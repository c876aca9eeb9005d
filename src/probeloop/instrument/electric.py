"""The gate's checks of bias, excitation and pulses. See checks.py for who may command."""

from __future__ import annotations

from collections.abc import Iterator

from ..data import commands as c
from .gate import Proposal, Refusal

_RAMPS = (c.SetBias, c.IV)


def bias(p: Proposal) -> Refusal | None:
    """Every bias that the command reaches is within its bounds."""
    if p.limits.bias is None:
        return None
    low, high = p.limits.bias
    if _names_no_waveform(p.command) and p.info.own_waveform is None:
        return Refusal("the biases of this instrument's own waveform are not known", "bias", "spell the waveform")
    for value in _biases(p.command, p.info.own_waveform):
        if not low <= value <= high:
            return Refusal(f"a bias of {value:g} V", "bias", f"{low:g} to {high:g} V")
    return None


def bias_ramp(p: Proposal) -> Refusal | None:
    """The bias changes no faster than it may."""
    source = p.command.kind if isinstance(p.command, c.AcquireSpectrum) else p.command
    if p.limits.bias_ramp is None or not isinstance(source, _RAMPS) or source.ramp <= p.limits.bias_ramp:
        return None
    return Refusal(f"a ramp of {source.ramp:g} V/s", "bias_ramp", f"at most {p.limits.bias_ramp:g} V/s")


def bias_contact(p: Proposal) -> Refusal | None:
    """In STM, while engaged, the bias stays away from zero: the feedback would drive the tip into the surface."""
    limit = p.limits.min_bias_engaged
    if limit is None or p.info.modality != "stm" or p.state.feedback not in ("engaged", "approaching"):
        if limit is None or p.info.modality != "stm" or not isinstance(p.command, c.Approach):
            return None
        values = [p.state.bias]
    else:
        kind = p.command.kind if isinstance(p.command, c.AcquireSpectrum) else None
        if isinstance(kind, c.IV) and kind.hold:
            return None  # it holds the feedback itself
        values = list(_biases(p.command, p.info.own_waveform))
        values = [p.state.bias, *values] if values else []
    if all(v >= limit for v in values) or all(v <= -limit for v in values):
        return None
    return Refusal(
        f"the bias would cross |V| < {limit:g} V in feedback",
        f"min_bias_engaged {limit:g} V",
        "hold or withdraw first",
    )


def drive(p: Proposal) -> Refusal | None:
    """The excitation is within its bounds: those of the knobs drive and drive_frequency, else of the bias."""
    if not isinstance(p.command, c.SetDrive):
        return None
    bounds = {
        "amplitude": (p.command.amplitude, p.limits.knobs.get("drive", p.limits.bias)),
        "frequency": (p.command.frequency, p.limits.knobs.get("drive_frequency")),
    }
    for name, (value, pair) in bounds.items():
        if value is not None and pair is not None and not pair[0] <= value <= pair[1]:
            return Refusal(f"a drive {name} of {value:g}", f"drive {name}", f"{pair[0]:g} to {pair[1]:g}")
    return None


def pulses(p: Proposal) -> Refusal | None:
    """No more pulses than the run may give."""
    limit = p.limits.pulses
    if limit is None or not isinstance(p.command, c.ApplyPulse) or p.state.pulses < limit:
        return None
    return Refusal(f"{p.state.pulses} pulses were given", f"pulses {limit}", "none left")


def _names_no_waveform(command: c.Command) -> bool:
    kind = command.kind if isinstance(command, c.AcquireSpectrum) else None
    return isinstance(kind, c.BEPS) and not kind.waveform


def _biases(command: c.Command, own_waveform: tuple[float, float] | None) -> Iterator[float]:
    """Yield every bias the command reaches [V]. own_waveform: of a loop that names none."""
    match command:
        case c.SetBias() | c.ApplyPulse():
            yield command.value
        case c.AcquireSpectrum(kind=c.IV() as kind):
            yield from (kind.start, kind.stop)
        case c.AcquireSpectrum(kind=c.BEPS() as kind):
            waveform = kind.waveform or own_waveform or (0.0,)
            yield from waveform
            yield from (max(waveform) + kind.drive, min(waveform) - kind.drive)

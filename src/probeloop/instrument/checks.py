"""The gate's checks, each with a name: who may command, and when. What a command may do: physics.py, electric.py.

A check says None, or why not with the limit and what is allowed. A mutation test removes each in turn; the
property tests must then find a call at the driver that breaks the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..data import commands as c
from ..data.driver import OF_THE_CORE, VERBS
from ..data.errors import SettingsError
from . import electric, physics
from .gate import Check, Proposal, Refusal, is_valid

FOR_ANYONE = ("Stop", "Read", "Annotate")
WHEN_TRIPPED = ("Stop", "Read", "Annotate")


def valid(proposal: Proposal) -> Refusal | None:
    """Types and ranges again, every number finite: a struct built in Python skipped all of it."""
    try:
        is_valid(proposal.submit.command)
    except SettingsError as error:
        return Refusal(f"malformed: {error.message}", "type and range")
    return None


def known(proposal: Proposal) -> Refusal | None:
    """The instrument understands the command."""
    name, info = c.name_of(proposal.command), proposal.info
    if name in OF_THE_CORE or (name in info.commands and name in VERBS):
        return None
    return Refusal(f"{info.name} has no {name}", "commands", ", ".join(info.commands))


def fault(proposal: Proposal) -> Refusal | None:
    """Nothing moves while a STOP or a fault is latched."""
    if not proposal.state.fault or c.name_of(proposal.command) in WHEN_TRIPPED:
        return None
    return Refusal(f"stopped: {proposal.state.fault}", "latched fault", "the operator's Rearm, then TakeControl")


def lease(proposal: Proposal) -> Refusal | None:
    """Only the holder of the lease commands."""
    if c.name_of(proposal.command) in FOR_ANYONE or (
        proposal.state.holder and proposal.submit.holder == proposal.state.holder
    ):
        return None
    who = f"{proposal.state.holder!r} holds control" if proposal.state.holder else "nobody holds control"
    return Refusal(who, "lease", "TakeControl first")


def epoch(proposal: Proposal) -> Refusal | None:
    """A command made before the last STOP or hand-over is void, whatever order it arrives in."""
    if c.name_of(proposal.command) in FOR_ANYONE or proposal.submit.epoch == proposal.state.epoch:
        return None
    return Refusal(f"made in epoch {proposal.submit.epoch}", "epoch", f"epoch {proposal.state.epoch}")


def late(proposal: Proposal) -> Refusal | None:
    """A command after its time is refused, never caught up with."""
    limit = proposal.submit.not_after
    if not limit or proposal.now_ns <= limit:
        return None
    return Refusal(f"late by {(proposal.now_ns - limit) / 1e6:.3g} ms", "not_after", "submit it again")


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "valid": valid,
        "known": known,
        "fault": fault,
        "lease": lease,
        "epoch": epoch,
        "late": late,
        "drift": physics.drift,
        "region": physics.region,
        "grid": physics.grid,
        "step": physics.step,
        "tip_speed": physics.tip_speed,
        "dwell": physics.dwell,
        "points": physics.points,
        "feedback": physics.feedback,
        "lateral": physics.lateral,
        "bias": electric.bias,
        "bias_ramp": electric.bias_ramp,
        "bias_contact": electric.bias_contact,
        "drive": electric.drive,
        "pulses": electric.pulses,
        "knobs": physics.knobs,
        "absolute": physics.absolute,
        "spectrometer": physics.spectrometer,
        "beam_current": physics.beam_current,
        "beam_on": physics.beam_on,
        "detector_flux": physics.detector_flux,
        "camera_length": physics.camera_length,
        "convergence_angle": physics.convergence_angle,
        "stage": physics.stage,
        "vendor": physics.vendor,
        "dose": physics.dose,
        "area_dose": physics.area_dose,
    }
)

"""What an experiment process is told at its start, and the drop-ins it makes of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from ..data.calibration import CalibrationSet
from ..data.commands import SpectrumKind
from ..data.driver import InstrumentInfo
from ..data.errors import ContractError
from ..data.limits import Limits
from ..data.settings import convert
from ..discover import load_class
from ..plugin.contract import Context, DropIn, Plan, Policy, Reward, Scalarizer
from .budget import Allowance
from .interest import ScalarizerInput
from .loop import Timeouts

HOLDER = "experiment"
SMALL_FRAME = 4096  # [bytes]


class Entry(msgspec.Struct, frozen=True):
    """A drop-in by name, with its parameters. input: the topic a scalarizer is given, "" = the result's own."""

    use: str
    input: str = ""
    parameters: dict[str, Any] = {}


class ExperimentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an experiment process is set up.

    inputs: topics every plan may look at, besides those it names and the instrument's small ones. scalarizers,
    rewards: by their name in the rig. weights: of the rewards. spectra: kinds of spectrum, the first one being the
    rig's choice. folders: where the rig's drop-ins are. budget: of every run. approval: suggestions wait for the
    operator. resume: events.jsonl of a session whose last run was cut off, "" = begin with nothing. repeat: commands
    of that run without a result may be done again though they cost something. data_timeout, result_timeout: for
    frames, and for a result beyond three times the expected duration [s].
    """

    inputs: tuple[str, ...] = ()
    scalarizers: dict[str, Entry] = {}
    rewards: dict[str, Entry] = {}
    weights: dict[str, float] = {}
    spectra: dict[str, SpectrumKind] = {}
    folders: tuple[str, ...] = ()
    budget: Allowance = Allowance()
    approval: bool = False
    resume: str = ""
    repeat: bool = False
    data_timeout: float = 10.0
    result_timeout: float = 60.0
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts of the loop [s]."""
        return Timeouts(self.data_timeout, self.result_timeout)


def make(
    entry: Entry, kind: type[DropIn], name: str, config: ExperimentConfig, context: Context | None = None
) -> Any:
    """Make a drop-in; raises DropInError, ContractError when it is of another kind, SettingsError."""
    cls = load_class(entry.use, kind.__name__, config.folders)
    if not issubclass(cls, kind):
        raise ContractError(f"{entry.use!r} is no {kind.__name__}", "probeloop list shows what it is")
    return cls(convert(cls.Parameters, entry.parameters, name), context or Context(name))


def make_scalarizers(config: ExperimentConfig) -> dict[str, ScalarizerInput]:
    """Return the rig's scalarizers by name."""
    return {
        name: ScalarizerInput(make(entry, Scalarizer, name, config), entry.input)
        for name, entry in config.scalarizers.items()
    }


def make_rewards(config: ExperimentConfig) -> dict[str, Reward]:
    """Return the rig's rewards by name."""
    return {name: make(entry, Reward, name, config) for name, entry in config.rewards.items()}


def make_plan(
    name: str, parameters: Mapping[str, Any], seed: int, info: InstrumentInfo, config: ExperimentConfig
) -> Plan:
    """Return the plan called `name`; raises DropInError or SettingsError."""
    context = Context(name, seed, CalibrationSet(info.calibrations), config.device)
    plan: Plan = make(Entry(name, parameters=dict(parameters)), Plan, name, config, context)
    return plan


def policy_maker(
    seed: int, info: InstrumentInfo, config: ExperimentConfig, made: Callable[[str, Policy], None]
) -> Callable[[str, Mapping[str, Any]], Policy]:
    """Return what makes a plan's policies: each has a seed of its own that follows from the plan's.

    made: told of every policy by its name, the second of a name as NAME_2.
    """
    count = 0

    def make_policy(name: str, parameters: Mapping[str, Any]) -> Policy:
        nonlocal count
        count += 1
        own = int(np.random.SeedSequence([seed, count]).generate_state(1)[0])
        context = Context(name, own, CalibrationSet(info.calibrations), config.device)
        policy: Policy = make(Entry(name, parameters=dict(parameters)), Policy, name, config, context)
        made(name if count == 1 else f"{name}_{count}", policy)
        return policy

    return make_policy


def info_from(state: Mapping[str, Any]) -> InstrumentInfo:
    """Return what the instrument is, from its answer to Describe, with the limits and commands now in force."""
    info = msgspec.convert(state["info"], InstrumentInfo)
    limits = msgspec.convert(state.get("limits", state["info"]["limits"]), Limits)
    commands = tuple(state.get("commands", info.commands))
    return msgspec.structs.replace(info, limits=limits, commands=commands)


def small_topics(info: InstrumentInfo) -> list[str]:
    """Return the instrument's topics that cost little to follow: values and maps, not patterns."""
    return [name for name, size in info.topics.items() if size <= SMALL_FRAME]

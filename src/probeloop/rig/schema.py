"""What a rig file says: an instrument, its limits, plug-ins, plans, and what is recorded (DESIGN.md 3.7)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from ..data.calibration import Calibration
from ..data.commands import SpectrumKind
from ..data.errors import BusError, ProbeloopError, Problem, SettingsError
from ..data.limits import Alarm, Limits, tightened
from ..data.settings import Settings, allowed, convert
from ..data.units import to_si

SCHEMA = 1
NAME = re.compile(r"^[a-z][a-z0-9_-]{0,40}$")
RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}
Spend = Annotated[float, msgspec.Meta(ge=0.0, le=1e30)]
Name = Annotated[str, msgspec.Meta(pattern=NAME.pattern)]


class InstrumentEntry(msgspec.Struct, frozen=True):
    """A driver or simulator by name, with its parameters as the file spelled them."""

    use: str
    parameters: dict[str, Any] = {}


class PluginEntry(Settings):
    """One running plug-in. input: topics it reads, in the order of a JoinTransform's inputs.

    record: write its outputs. own_process: a shipped one does not share a process. polls: its process, its own, looks
    for frames without ever sleeping, some 15 us less latency for a core of its own. device: where it may compute.
    """

    use: Name
    input: tuple[str, ...] = ("camera",)
    record: bool = True
    enabled: bool = True
    own_process: bool = False
    polls: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    parameters: dict[str, Any] = {}


class PlanEntry(Settings):
    """A plan by name. seed: of everything random in it. times: how often; 0 = until the operator ends it."""

    use: Name
    parameters: dict[str, Any] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    times: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1


class RecordEntry(Settings):
    """What is written: topics of the instrument (None = all of them), and where (None = the sessions folder)."""

    topics: tuple[str, ...] | None = None
    directory: str | None = None
    fsync: bool = False


class RelayEntry(Settings):
    """What goes to other hosts, and who may come.

    bind: tcp://HOST:PORT. key: this host's pair; without one only this machine can connect, and `without_keys` is
    what it may do. allow: names of trusted keys, None = all of them (probeloop keys list). topics: pattern = mode,
    the first that fits; none = all topics, of frames the newest and of everything else all. buffer_mb: kept for one
    lossless topic of one reader [MiB].
    """

    bind: str
    key: Name | None = None
    allow: tuple[Name, ...] | None = None
    without_keys: Literal["viewer", "operator"] = "viewer"
    topics: dict[str, Literal["newest", "lossless"]] = {}
    compression: Literal["lz4", "none"] = "lz4"
    buffer_mb: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 32

    def problems(self) -> Iterable[str]:
        """An address, and a key where others can reach it."""
        from ..bus.relay.sockets import Endpoint

        try:
            Endpoint.parse(self.bind).require_key(self.key, 'probeloop keys new NAME, then key = "NAME"')
        except BusError as error:
            yield str(error)


class Rig(msgspec.Struct, frozen=True, kw_only=True):
    """A rig, checked as far as that is possible without its instrument."""

    name: str
    description: str = ""
    folder: str = ""
    instrument: InstrumentEntry
    limits: dict[str, Any] = {}
    plugins: dict[str, PluginEntry] = {}
    plans: tuple[PlanEntry, ...] = ()
    record: RecordEntry = RecordEntry()
    relay: RelayEntry | None = None
    calibrations: tuple[Calibration, ...] = ()
    spectra: dict[str, SpectrumKind] = {}
    budget: dict[str, float] = {}
    approval: bool = False
    plugin_folders: tuple[str, ...] = ()
    memory_budget_mb: int = 256
    source: str = ""
    values: dict[str, Any] = {}

    @property
    def folders(self) -> tuple[str, ...]:
        """The rig's own drop-in folders, absolute."""
        return tuple(str(Path(self.folder, name).expanduser()) for name in self.plugin_folders)


class RigError(SettingsError):
    """Faults of a rig file. rig: what could be read of it, None without an instrument."""

    def __init__(self, problems: Sequence[Problem], next_move: str, rig: Rig | None) -> None:
        super().__init__(problems, next_move)
        self.rig = rig


def check(values: Mapping[str, Any], name: str, folder: str = "", source: str = "") -> Rig:
    """Make a Rig of a parsed file; raises SettingsError with every fault, its key path and what is allowed."""
    problems: list[Problem] = []
    known = {"schema", "name", "description", "instrument", "limits", "plugins", "plan", "record", "relay",
             "calibrations", "spectra", "budget", "approval", "plugin_folders", "memory_budget"}  # fmt: skip
    problems += [Problem(str(key), "unknown", ", ".join(sorted(known))) for key in values if key not in known]
    if values.get("schema") != SCHEMA:
        problems.append(Problem("schema", f"{values.get('schema')!r}", f"{SCHEMA}"))
    name = values.get("name", name)
    if not isinstance(name, str) or not NAME.match(name) or name.split("-")[0] in RESERVED:
        problems.append(Problem("name", f"{name!r}", "small letters, digits, - and _, a letter first, 41 at most"))
    instrument = _instrument(values.get("instrument"), problems)
    plugins = {}
    for key, entry in _table(values, "plugins", problems).items():
        if not NAME.match(str(key)):
            problems.append(Problem(f"plugins.{key}", "is no name", "small letters, digits, - and _"))
        made = _convert(PluginEntry, entry, f"plugins.{key}", problems)
        if made is not None:
            plugins[key] = made
    plans = values.get("plan", [])
    plans = [plans] if isinstance(plans, Mapping) else plans
    if not isinstance(plans, list | tuple):
        problems.append(Problem("plan", f"{plans!r}", "a table [plan], or several [[plan]]"))
        plans = []
    made_plans = [_convert(PlanEntry, each, f"plan[{i}]", problems) for i, each in enumerate(plans)]
    record = _convert(RecordEntry, _table(values, "record", problems), "record", problems)
    relay = _convert(RelayEntry, values["relay"], "relay", problems) if "relay" in values else None
    limits = _limits(_table(values, "limits", problems), problems)
    calibrations = _calibrations(values.get("calibrations", []), problems)
    spectra = _each(_table(values, "spectra", problems), SpectrumKind, "spectra", problems)
    budget = _each(_table(values, "budget", problems), Spend, "budget", problems)
    memory = values.get("memory_budget", 256)
    if not isinstance(memory, int) or not 16 <= memory <= 65536:
        problems.append(Problem("memory_budget", f"{memory!r}", "16 <= MiB of shared memory <= 65536"))
    folders = values.get("plugin_folders", ())
    if not isinstance(folders, list | tuple) or not all(isinstance(each, str) for each in folders):
        problems.append(Problem("plugin_folders", f"{folders!r}", "a list of paths"))
        folders = ()
    move = f"mend {source or 'the rig file'}"
    if instrument is None:
        raise RigError(problems, move, None)
    rig = Rig(
        name=str(name),
        description=str(values.get("description", "")),
        folder=folder,
        instrument=instrument,
        limits=limits,
        plugins=plugins,
        plans=tuple(plan for plan in made_plans if plan is not None),
        record=record or RecordEntry(),
        relay=relay,
        calibrations=calibrations,
        plugin_folders=tuple(folders),
        spectra=spectra,
        budget=budget,
        approval=values.get("approval") is True,
        memory_budget_mb=memory,
        source=source,
        values=dict(values),
    )
    if problems:
        raise RigError(problems, move, rig)
    return rig


def limits_of(own: Limits, wanted: Mapping[str, Any]) -> Limits:
    """Return the instrument's `own` limits narrowed by the rig's; raises SettingsError where it loosens one."""
    given = convert(Limits, {"region": own.region, **wanted, **_alarms(wanted, own.alarms)}, "limits", spelled=True)
    values = {name: getattr(given if name in wanted else own, name) for name in Limits.__struct_fields__}
    return tightened(own, Limits(**values))


def _instrument(entry: Any, problems: list[Problem]) -> InstrumentEntry | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("use"), str):
        problems.append(Problem("instrument.use", "missing", "the name of a driver or simulator: probeloop list"))
        return None
    return InstrumentEntry(entry["use"], {key: value for key, value in entry.items() if key != "use"})


def _alarms(entry: Mapping[str, Any], own: Mapping[str, Alarm]) -> dict[str, Any]:
    """Return the alarms of a table of limits: bounds in SI, and what it leaves out as the instrument has it."""
    alarms = entry.get("alarms")
    if not isinstance(alarms, Mapping) or not all(isinstance(each, Mapping) for each in alarms.values()):
        return {}  # said by who converts it
    made = {}
    for name, each in alarms.items():
        made[name] = {**(msgspec.to_builtins(own[name]) if name in own else {}), **each}
        for bound in ("low", "high"):
            with contextlib.suppress(ProbeloopError):  # a unit that is none: said by who converts it
                if isinstance(each.get(bound), str):
                    made[name][bound], made[name]["units"] = to_si(each[bound])
    return {"alarms": made}


def _limits(entry: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    try:
        convert(Limits, {"region": ((0.0, 0.0), (0.0, 0.0)), **entry, **_alarms(entry, {})}, "limits", spelled=True)
    except SettingsError as error:
        problems.extend(error.problems)
    return dict(entry)


def _calibrations(entries: Any, problems: list[Problem]) -> tuple[Calibration, ...]:
    made = []
    for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            made.append(msgspec.convert(entry, Calibration))
        except msgspec.ValidationError as error:
            problems.append(Problem(f"calibrations[{i}]", str(error), allowed(Calibration)))
    return tuple(made)


def _each(table: Mapping[str, Any], kind: Any, where: str, problems: list[Problem]) -> dict[str, Any]:
    made = {}
    for key, entry in table.items():
        try:
            made[key] = msgspec.convert(entry, kind)
        except msgspec.ValidationError as error:
            problems.append(Problem(f"{where}.{key}", str(error)))
    return made


def _table(values: Mapping[str, Any], key: str, problems: list[Problem]) -> Mapping[str, Any]:
    table = values.get(key, {})
    if isinstance(table, Mapping):
        return table
    problems.append(Problem(key, f"{table!r}", f"a table: [{key}]"))
    return {}


def _convert(cls: type[Any], entry: Any, where: str, problems: list[Problem]) -> Any:
    if not isinstance(entry, Mapping):
        problems.append(Problem(where, f"{entry!r}", "a table"))
        return None
    try:
        return convert(cls, entry, where, spelled=True)
    except SettingsError as error:
        problems.extend(error.problems)
        return None

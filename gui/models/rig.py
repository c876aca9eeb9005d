"""What the window knows of the rig, rebuilt from `Describe` and the events alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from probeloop.api import (
    Description,
    Done,
    Event,
    Failed,
    Generation,
    Histogram,
    Observed,
    Progress,
    Revision,
    StateChange,
    Verdict,
    read_histograms,
)

PLAN_ENDS = ("finished", "failed", "aborted", "stopped")
_LATENCIES = 256
_POINTS = 4096


@dataclass(frozen=True)
class Knob:
    """An aberration. readback: of the knob [m]. measured, sigma: an estimate [m]; None = not measured."""

    name: str
    readback: float | None = None
    measured: float | None = None
    sigma: float | None = None
    method: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plugin:
    """One plug-in. values: read back from its process, with their revision. process: that answers for it.

    transport: published -> taken in, by topic.
    """

    name: str
    process: str
    use: str = ""
    state: str = "unknown"
    error: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    topics: tuple[str, ...] = ()
    enabled: bool = True
    transport: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanState:
    """The plan that runs or ran. done of total; eta [s]."""

    name: str = ""
    state: str = "idle"
    done: float = 0.0
    total: float = 0.0
    eta: float | None = None
    message: str = ""
    reason: str = ""
    since: float = 0.0

    @property
    def running(self) -> bool:
        """True from Run to the end, pauses included."""
        return bool(self.name) and self.state not in ("idle", *PLAN_ENDS)


@dataclass
class Rig:
    """Sticky state, one writer (the feed's thread). version rises with every change."""

    version: int = 0
    instrument: str = ""
    origin: str = ""
    description: str = ""
    modality: str = ""
    commands: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    calibrations: dict[str, Any] = field(default_factory=dict)
    fault: str = ""
    holder: str = ""
    epoch: int = 0
    blanked: bool | None = None
    paused: bool = False
    safe_state: str = ""
    dose: float | None = None
    dose_limit: float | None = None
    area_dose: float | None = None
    area_dose_limit: float | None = None
    dose_estimate: bool = False
    knobs: dict[str, Knob] = field(default_factory=dict)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    plans: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    plan: PlanState = PlanState()
    plan_values: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    scalarizers: tuple[str, ...] = ()
    scalarizer: str = ""
    recording: bool | None = None
    session: str = ""
    roles: dict[str, str] = field(default_factory=dict)
    software_ns: list[int] = field(default_factory=list)
    physical_ns: list[int] = field(default_factory=list)
    latency: Mapping[str, Histogram] = field(default_factory=dict)
    generation: int = -1
    topic_generation: dict[str, int] = field(default_factory=dict)
    t_settled_ns: int = 0
    generation_ns: int = 0
    busy: int = 0
    acquiring: bool = False
    points: list[tuple[float, float, float | None]] = field(default_factory=list)
    clock_error: float = 0.0

    def process_of(self, role: str) -> str:
        """Return the process of a role, by default of that name."""
        return next((process for process, each in self.roles.items() if each == role), role)

    @property
    def convergence(self) -> float | None:
        """The convergence angle [rad], None = uncalibrated."""
        found = self.calibrations.get("convergence_angle")
        return float(found["value"][0]) if found and found.get("value") else None

    # --- what a process says of itself ------------------------------------------------------------------

    def described(self, process: str, reply: Description) -> None:
        """Take in the answer to Describe."""
        role = reply.role or process
        self.roles[process] = role
        state = reply.state
        if role == "instrument":
            self._instrument(state)
        elif role in ("experiment", "plan"):
            self._experiment(state, reply.schema)
        elif role in ("recorder", "record"):
            self._recorder(state)
        elif role == "link":
            self.clock_error = _number(state.get("clock_error"), self.clock_error) or 0.0
        if "plugins" in state:
            self._plugins(process, state["plugins"], reply.schema)
        elif role.startswith("plugin"):
            self._plugins(process, {process: state}, {process: reply.schema})
        self.version += 1

    def _instrument(self, state: Mapping[str, Any]) -> None:
        info = _table(state, "info") or _table(state, "instrument") or state
        self.instrument = str(info.get("name", self.instrument))
        self.origin = str(info.get("origin", self.origin))
        self.description = str(info.get("description", self.description))
        self.modality = str(info.get("modality", self.modality))
        self.commands = tuple(info.get("commands", self.commands))
        self.limits = _table(state, "limits") or _table(info, "limits") or self.limits
        self.safe_state = str(state.get("safe_words", self.safe_state))
        calibrations = state.get("calibrations", info.get("calibrations", ()))
        self.calibrations |= {each["kind"]: each for each in calibrations if isinstance(each, Mapping)}
        gate = _table(state, "gate") or state
        self.fault = str(gate.get("fault", self.fault) or "")
        self.holder = str(gate.get("holder", self.holder) or "")
        self.epoch = int(gate.get("epoch", self.epoch) or 0)
        self.paused = bool(gate.get("paused", state.get("paused", self.paused)))
        self.acquiring = bool(state.get("running"))
        self.busy = 0 if not self.acquiring and not state.get("queued") else self.busy
        self.blanked = state.get("blanked", self.blanked)
        self.latency = read_histograms(state.get("latency"))
        self._dose({**state, **gate})
        self._readback(_table(state, "readback") or _table(state, "read_back") or _table(gate, "readback"))
        self._readback(_table(gate, "knobs"))
        for name, measured in (_table(state, "measured") or {}).items():
            self._measured(name, measured)

    def _dose(self, state: Mapping[str, Any]) -> None:
        dose = state.get("dose")
        if isinstance(dose, Mapping):
            state = {**state, **dose, "dose": dose.get("spent")}
        self.dose = _number(state.get("dose"), self.dose)
        self.area_dose = _number(state.get("area_max"), self.area_dose)
        self.dose_limit = _number(self.limits.get("dose"), self.dose_limit)
        self.area_dose_limit = _number(self.limits.get("area_dose"), self.area_dose_limit)
        self.dose_estimate = bool(state.get("estimate", self.dose_estimate))

    def _readback(self, values: Mapping[str, Any]) -> None:
        ranges = _table(self.limits, "knobs")
        for name, value in values.items():
            self.settings[name] = value
            if name == "blanked":
                self.blanked = bool(value)
            if name in ranges or (len(name) in (3, 4) and name[0] == "C" and name[1:3].isdigit()):
                low, high = ranges.get(name, (None, None))
                known = self.knobs.get(name, Knob(name))
                self.knobs[name] = replace(known, readback=_number(value, None), low=low, high=high)
        for name, (low, high) in ranges.items():
            self.knobs.setdefault(name, Knob(name, low=low, high=high))

    def _measured(self, name: str, found: Any) -> None:
        known = self.knobs.get(name, Knob(name))
        if not isinstance(found, Mapping):
            found = {"value": found}
        self.knobs[name] = replace(
            known,
            measured=_number(found.get("value"), None),
            sigma=_number(found.get("sigma"), None),
            method=str(found.get("method", "")),
        )

    def _experiment(self, state: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
        plans = state.get("plans", {})
        schemas = _table(schema, "plans") or schema
        if isinstance(plans, Mapping):
            self.plans = {
                name: each if "properties" in each else schemas.get(name, {}) for name, each in plans.items()
            }
        elif plans:
            names = [each["name"] if isinstance(each, Mapping) else str(each) for each in plans]
            self.plans = {name: schemas.get(name, {}) for name in names}
        elif schemas and "properties" not in schemas:
            self.plans = {name: each for name, each in schemas.items() if isinstance(each, Mapping)}
        self.scalarizers = tuple(map(str, _table(state, "scalarizers"))) or self.scalarizers
        self.scalarizer = str(state.get("scalarizer") or self.scalarizer)
        found = str(state.get("state", ""))
        if not found:
            return
        running = found not in ("idle", *PLAN_ENDS)
        plan = replace(self.plan, name=str(state.get("plan") or self.plan.name), state=found)
        if running and "progress" in state:
            done, eta = _number(state["progress"], 0.0) or 0.0, _number(state.get("eta"), None)
            plan = replace(plan, done=done, total=1.0, eta=eta, message=str(state.get("message", "")))
        elif not running:
            plan = replace(plan, reason=str(state.get("message", plan.reason)), eta=None)
        self.plan = plan
        if plan.name:
            self.plan_values[plan.name] = _table(state, "parameters")
        self._found_by(plan.name, _table(state, "summary"))

    def _found_by(self, plan: str, summary: Mapping[str, Any]) -> None:
        """Take over what a plan measured of the lens; sigma as it says itself."""
        sigma = _table(summary, "sigma_m")
        for name, value in _table(summary, "measured_m").items():
            self._measured(name, {"value": value, "sigma": sigma.get(name), "method": plan})

    def _recorder(self, state: Mapping[str, Any]) -> None:
        self.recording = bool(state.get("recording", state.get("state") == "recording"))
        self.session = str(state.get("session", state.get("folder", self.session)))

    def _plugins(self, process: str, found: Any, schemas: Mapping[str, Any]) -> None:
        if not isinstance(found, Mapping):
            found = {each["name"]: each for each in found if isinstance(each, Mapping) and "name" in each}
        for name, each in found.items():
            # every instance answers on a service of its own, whoever it shares a process with
            service = f"plugin.{name}" if process.startswith("plugin.") else process
            known = self.plugins.get(name, Plugin(name, service))
            schema = each.get("schema") or schemas.get(name) or (schemas if "properties" in schemas else known.schema)
            topics = each.get("topics", each.get("outputs", known.topics))
            self.plugins[name] = replace(
                known,
                process=service,
                use=str(each.get("use", known.use)),
                state=str(each.get("state", known.state)),
                error=str(each.get("error", each.get("reason", "")) or ""),
                values=dict(each.get("parameters", each.get("values", known.values)) or {}),
                schema=_parameters_schema(schema),
                revision=int(each.get("revision", known.revision) or 0),
                topics=tuple(topics),
                enabled=bool(each.get("enabled", True)) and each.get("state") != "disabled",
                transport=read_histograms(each.get("transport")),
            )

    # --- what happens -----------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, StateChange):
            self._changed(event)
        elif isinstance(event, Observed):
            self._observed(event)
        elif isinstance(event, Revision):
            known = self.plugins.get(event.target.removeprefix("plugin."))
            if known is not None:
                values = {**known.values, **event.values}
                self.plugins[known.name] = replace(known, values=values, revision=event.revision)
        elif isinstance(event, Progress):
            if event.target in ("plan", self.plan.name) or not self.plan.running:
                self.plan = replace(
                    self.plan, done=event.done, total=event.total, eta=event.eta, message=event.message
                )
        elif isinstance(event, Generation):
            self.generation = max(self.generation, event.id)
            self.topic_generation[event.topic] = event.id
            self.generation_ns, self.t_settled_ns = time.monotonic_ns(), event.t_settled_ns
            self._readback(event.settings)
        elif isinstance(event, Done):
            self.busy = max(0, self.busy - 1)
            self._readback(event.result.readback)
            latency = event.result.trace.loop_latency_ns
            if latency is not None:
                self.software_ns = [*self.software_ns[1 - _LATENCIES :], latency]
            if event.result.physical_ns is not None:
                self.physical_ns = [*self.physical_ns[1 - _LATENCIES :], event.result.physical_ns]
        elif isinstance(event, Failed):
            self.busy = max(0, self.busy - 1)
        elif isinstance(event, Verdict) and event.accepted and not event.dry_run:
            self.epoch = max(self.epoch, event.epoch)
            self.busy += 1
        self.version += 1

    def _observed(self, event: Any) -> None:
        """Keep where a plan measured, and the value; None where the measurement is invalid."""
        answers = event.value.get("value") if event.kind == "observe" and isinstance(event.value, Mapping) else None
        again: dict[tuple[float, ...], float | None] = {}
        for each in answers if isinstance(answers, list | tuple) else ():
            if isinstance(each, Mapping) and len(each.get("position", ())) == 2:
                value = _number(each.get("value"), None) if each.get("valid", True) else None
                place = tuple(map(float, each["position"]))
                self.scalarizer = str(each.get("scalarizer") or self.scalarizer)
                if each.get("again"):
                    again[place] = value
                else:
                    self.points = [*self.points[1 - _POINTS :], (place[0], place[1], value)]
        if again:
            self.points = [(x, y, again.get((x, y), value)) for x, y, value in self.points]

    def _changed(self, event: Any) -> None:
        target, state, data = event.target.removeprefix("plugin."), event.state, event.data
        if target == "plan":
            known = self.plan if self.plan.running else PlanState(since=time.monotonic())
            name = str(data.get("plan", data.get("name", known.name)) or known.name)
            self.plan = replace(known, name=name, state=state, reason=event.reason)
            self._found_by(name, data)
            if state == "running" and "parameters" in data and not data.get("resumed"):
                self.points = []
        elif target == "scalarizer":
            self.scalarizer = str(data.get("scalarizer", self.scalarizer))
        elif target in ("gate", "instrument"):
            self._gate(state, event.reason, data)
        elif target == "lease":
            self.holder = str(data.get("holder", "") or "")
            self.epoch = int(data.get("epoch", self.epoch) or 0)
        elif target == "scan":
            self.paused = state == "pause"
        elif target == "recorder":
            self.recording = state == "recording"
            self.session = str(data.get("session", self.session))
        elif target in ("measured", "aberrations"):
            for name, found in data.items():
                self._measured(name, found)
        elif target in self.plugins:
            known_plugin = self.plugins[target]
            bad = event.reason if state in ("died", "failed", "off", "reload failed") else ""
            on = state not in ("disabled", "off")
            kept = known_plugin.state if state == "reload failed" else state
            self.plugins[target] = replace(known_plugin, state=kept, error=bad, enabled=on)

    def _gate(self, state: str, reason: str, data: Mapping[str, Any]) -> None:
        if state in ("stopped", "tripped", "fault", "latched", "safe"):
            self.fault = str(data.get("fault", reason) or state)
            self.paused, self.busy = False, 0
        elif state in ("armed", "free", "held", "running", "ready", "rearmed"):
            self.fault, self.paused = str(data.get("fault", "") or ""), False
        elif state == "paused":
            self.paused = True
        elif state == "resumed":
            self.paused = False
        self.holder = str(data.get("holder", self.holder) or "")
        self.epoch = int(data.get("epoch", self.epoch) or 0)
        self._dose(data)


def _parameters_schema(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the object's schema: msgspec puts it behind a reference."""
    definitions, reference = schema.get("$defs", {}), schema.get("$ref", "")
    if reference and definitions:
        return {**definitions.get(reference.rsplit("/", 1)[-1], {}), "$defs": definitions}
    return schema


def _table(state: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = state.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else otherwise

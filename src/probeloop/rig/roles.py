"""What each process of a rig does; the function is named like the role. A process imports only what it needs."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..bus.node import Bus
from ..bus.request import Client
from ..data.calibration import CalibrationSet
from ..data.errors import (
    BusError,
    ContractError,
    DriverError,
    DropInError,
    ProbeloopError,
    RecordError,
    SettingsError,
)

if TYPE_CHECKING:
    from ..discover import Found
    from ..experiment.setup import ExperimentConfig
    from .process import ProcessConfig
    from .schema import Rig

_PATIENCE_S = 60.0


def check(config: ProcessConfig, stop: threading.Event) -> int:
    """Write every fault of the rig's drop-ins and their parameters into SESSION/log; 1 when there are any."""
    from .drop_ins import faults

    found = faults(config.rig)
    Path(config.session, "log", "check.json.faults").write_bytes(msgspec.json.encode(found))
    return 1 if found else 0


def truth(config: ProcessConfig, stop: threading.Event) -> None:
    """Write a simulator's true calibrations, where it tells them, into SESSION/truth."""
    from ..discover import load_instrument

    entry = config.rig.instrument
    made: Any = load_instrument(entry.use, entry.parameters, config.rig.folders, kind="Simulator", spelled=True)
    try:
        told = made.truth().get("calibrations", {}) if hasattr(made, "truth") else {}
    finally:
        made.close()
    folder = Path(config.session, "truth")
    folder.mkdir(exist_ok=True)
    (folder / "calibrations.json").write_bytes(msgspec.json.encode(told))


def instrument(config: ProcessConfig, stop: threading.Event) -> None:
    """Make the driver or simulator and serve it."""
    from ..discover import load_instrument
    from ..instrument.service import run_instrument
    from ..record.truth import TruthWriter
    from .calibrations import Calibrated, kept
    from .schema import limits_of

    rig = config.rig
    made = load_instrument(rig.instrument.use, rig.instrument.parameters, rig.folders, spelled=True)
    if own := kept(rig):
        made = Calibrated(made, own)
    limits = limits_of(made.describe().limits, rig.limits)
    truth = TruthWriter(Path(config.session)) if callable(getattr(made, "truth", None)) else None
    try:
        with Bus(rig.name, config.name) as bus:
            run_instrument(bus, made, limits, stop=stop, keep=truth.keep if truth is not None else None)
    finally:
        if truth is not None:
            truth.close()
            sys.stderr.writelines(f"{fault}\n" for fault in truth.faults)


def guard(config: ProcessConfig, stop: threading.Event) -> None:
    """Watch the instrument's process over a connection of its own, where the driver offers one."""
    from ..data.settings import Settings, convert
    from ..discover import find, load
    from ..instrument.guard import guard_connection, run_guard

    entry = config.rig.instrument
    found, connect, rig = find(entry.use, "Instrument", config.rig.folders), None, config.rig
    if not _is_shipped_simulator(found):
        driver = load(found)
        settings: type[Settings] = getattr(driver, "Parameters", Settings)
        connect = guard_connection(driver, convert(settings, entry.parameters, entry.use, spelled=True))
    with Bus(rig.name, config.name) as bus:
        run_guard(bus, connect, stop=stop)


def _is_shipped_simulator(found: Found) -> bool:
    """True for one that says nothing of a guard: to import it would cost a second, and 60 MB, for nothing."""
    if found.kind != "Simulator" or found.origin != "shipped":
        return False
    sources = found.path.rglob("*.py") if found.path.is_dir() else (found.path,)
    return not any(b"guard_connection" in source.read_bytes() for source in sources)


def plugins(config: ProcessConfig, stop: threading.Event) -> int:
    """Run one plug-in, or a group of shipped ones."""
    from ..plugin.worker import pin_threads, run_plugin_process

    pin_threads()
    from ..record.history import SessionHistory

    def must_pass(cls: type[Any]) -> None:
        from ..testing.check import check_class

        faults = check_class(cls)
        if faults:
            raise ContractError("; ".join(faults[:3]), "probeloop check shows all of it")

    if not config.take_over and len(config.instances) > 1:
        _warm_up(config)
    with Bus(config.rig.name, config.name) as bus:
        return run_plugin_process(
            bus,
            config.instances,
            stop,
            history=SessionHistory(Path(config.session)),
            calibrations=_calibrations(config, bus, stop),
            check=must_pass if config.take_over else None,
            take_over=config.take_over,
        )


def _warm_up(config: ProcessConfig) -> None:
    """Do, while the instrument still starts, what the first frame would wait for; for shipped plug-ins alone.

    Imports, and numba's first call, which sets up its compiler even for a kernel out of the cache [0.6 s].
    """
    from .. import discover

    for instance in config.instances:
        with contextlib.suppress(ProbeloopError):  # told when it is opened
            discover.load_class(instance.use, None, instance.folders)
    if "numba" in sys.modules:
        import numpy as np

        from ..compute.kernels import VirtualDetectors

        VirtualDetectors(np.ones((1, 2, 2))).sums(np.zeros((1, 2, 2), np.uint16))


_EVENTS_ON_DISK_S = 1.0  # the recorder writes events every 0.5 s


def _wait_for_record(bus: Bus, stop: threading.Event) -> bool:
    """Give a living recorder the time to write what was said last; False = the run ends.

    Raises RecordError when none comes: a plan that is taken up from half a record would spend dose twice.
    """
    from ..bus.heartbeat import Pulse

    pulse = Pulse(bus)
    for _ in range(int(_PATIENCE_S / 0.1)):
        beat = pulse.read("recorder")
        if beat is not None and beat[0] < _EVENTS_ON_DISK_S / 2:
            return not stop.wait(_EVENTS_ON_DISK_S)
        if stop.wait(0.1):
            return False
    raise RecordError("the plan that was cut off is not taken up: no recorder runs", "see log/recorder.log")


def experiment(config: ProcessConfig, stop: threading.Event) -> None:
    """Run plans; one that died takes up the plan where it was, from the session's events."""
    from ..experiment.process import run_experiment
    from .drop_ins import faults_of_experiment
    from .recorded import recorded_frames

    problems = faults_of_experiment(config.rig)
    if problems:
        raise SettingsError(problems, f"mend {config.rig.source}")
    with Bus(config.rig.name, config.name) as bus:
        made = experiment_config(config.rig)
        events = Path(config.session, "events.jsonl")
        if config.again and events.exists() and _wait_for_record(bus, stop):
            made = msgspec.structs.replace(made, resume=str(events))
        run_experiment(bus, made, stop=stop, recorded=recorded_frames(Path(config.session)))


def recorder(config: ProcessConfig, stop: threading.Event) -> None:
    """Write the session: the instrument's topics (all, or those the rig names) and the plug-ins' that it wants."""
    from ..record.recorder import run_recorder

    rig, session = config.rig, Path(config.session)

    def wanted(topic: str) -> bool:
        owner = rig.plugins.get(topic.partition(".")[0]) if "." in topic else None
        if owner is not None:
            return owner.record
        return rig.record.topics is None or topic in rig.record.topics

    with Bus(rig.name, config.name) as bus:
        run_recorder(
            bus,
            session,
            stop=stop,
            wanted=wanted,
            instrument="instrument",
            rig=session / "rig.toml",
            calibrations=_calibrations(config, bus, stop).calibrations,
            seeds={"instrument": rig.instrument.parameters.get("seed"), "plans": [plan.seed for plan in rig.plans]},
            fsync=rig.record.fsync,
        )


def relay(config: ProcessConfig, stop: threading.Event) -> None:
    """Serve readers and operators on other hosts, as the rig's [relay] says."""
    from ..bus.relay.keys import KeyRing
    from ..bus.relay.out import run_relay
    from .client import services_of
    from .remote import rules_of

    entry = config.rig.relay
    assert entry is not None
    with Bus(config.rig.name, config.name) as bus:
        expected = tuple(map(str, _instrument_state(bus, stop).get("topics", {})))
        run_relay(bus, rules_of(entry), KeyRing(), lambda: services_of(bus), expected=expected, stop=stop)


def window(config: ProcessConfig, stop: threading.Event) -> int:
    """Show the window."""
    return show("probeloop.gui.app:main", config.rig.name)


def stop_window(config: ProcessConfig, stop: threading.Event) -> int:
    """Show the small window that does nothing but STOP."""
    return show("probeloop.gui.stop_window:main", config.rig.name)


def show(window: str, rig_id: str) -> int:
    """Open a window, which the core may not import by name; raises DropInError when it can't be loaded."""
    import pkgutil

    try:
        main = pkgutil.resolve_name(window)
    except (ImportError, AttributeError) as error:
        raise DropInError(f"the window can't be loaded: {error}", "probeloop doctor says what is missing") from error
    return int(main(rig_id))


def _calibrations(config: ProcessConfig, bus: Bus, stop: threading.Event) -> CalibrationSet:
    """Return the instrument's calibrations, with the rig's own on top; waits until the instrument answers."""
    from ..data.calibration import Calibration

    found = _instrument_state(bus, stop).get("info", {}).get("calibrations", ())
    return CalibrationSet(msgspec.convert(found, tuple[Calibration, ...])).replace(config.rig.calibrations)


def _instrument_state(bus: Bus, stop: threading.Event) -> dict[str, Any]:
    """Return what the instrument says of itself; waits until it answers."""
    from ..data.control import Describe, Description, decode_reply, encode

    client = Client(bus, "instrument")
    try:
        for _ in range(int(_PATIENCE_S / 0.1)):
            try:
                reply = decode_reply(client.call(encode(Describe()), 1.0))
            except BusError:
                if stop.wait(0.1):
                    raise ProbeloopError("ended before the instrument was there") from None
                continue
            if isinstance(reply, Description):
                return reply.state
    finally:
        client.close()
    raise DriverError(f"the instrument does not answer since {_PATIENCE_S:g} s", "see log/instrument.log")


def experiment_config(rig: Rig) -> ExperimentConfig:
    """Return how the experiment's process is set up: scalarizers and rewards live there, not in plug-in processes."""
    from .. import discover
    from ..experiment.budget import Allowance
    from ..experiment.setup import Entry, ExperimentConfig

    scalarizers, rewards = {}, {}
    for name, entry in rig.plugins.items():
        kind = discover.find(entry.use, None, rig.folders).kind
        made = Entry(entry.use, entry.input[0] if entry.input else "", dict(entry.parameters))
        if kind == "Scalarizer":
            scalarizers[name] = made
        elif kind == "Reward":
            rewards[name] = made
    return ExperimentConfig(
        scalarizers=scalarizers,
        rewards=rewards,
        spectra=rig.spectra,
        folders=rig.folders,
        budget=msgspec.convert({k: int(v) if k == "count" else v for k, v in rig.budget.items()}, Allowance),
        approval=rig.approval,
    )

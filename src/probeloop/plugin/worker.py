"""The body of a plug-in process: one plug-in, or a group of those that ship with probeloop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from .. import discover
from ..bus.event import EventWriter
from ..bus.heartbeat import Heartbeat
from ..bus.node import Bus
from ..bus.request import Client, Server
from ..bus.subscribe import Poller
from ..data.calibration import CalibrationSet
from ..data.control import (
    Accepted,
    Describe,
    Description,
    Disable,
    Enable,
    Event,
    Refused,
    Reload,
    Reply,
    SetParameters,
    Shutdown,
    StateChange,
    decode_reply,
    decode_request,
    encode,
)
from ..data.errors import BusError, ContractError, DropInError, ProbeloopError, WireError
from ..data.settings import convert
from .backoff import Restarts
from .contract import Context, DropIn
from .host import History, Host
from .instance import TRANSFORMS, PluginInstance, service_name
from .memory import limit_memory
from .pulse import Work

Check = Callable[[type[Any]], Sequence[str] | None]
_IDLE_S = 0.1
_CRASHED = 3
_ANNOUNCED_S = 0.5
_LAST_WORD_S = 0.3  # a writer that goes before its readers looked takes its events with it


def pin_threads() -> None:
    """Let the libraries of this process use one thread each; call before they are imported."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def run_plugin_process(
    bus: Bus,
    instances: Sequence[PluginInstance],
    stop: threading.Event,
    *,
    history: History | None = None,
    calibrations: CalibrationSet | None = None,
    check: Check | None = None,
    take_over: bool = False,
    poll_s: float = _IDLE_S,
) -> int:
    """Run plug-ins until `stop`, a Shutdown, or the failure of the only one; return the exit code.

    check: returns the faults of a class. take_over: this is the second process of a reload: the class is checked
    first, then the running instance is asked to end at a block boundary, and this one goes on with the next frame.
    With a faulty source nothing is taken over, the event says why, and the code is 1.
    """
    pin_threads()
    become_subreaper()
    process = PluginProcess(bus, stop, history, calibrations or CalibrationSet())
    try:
        opened = all(process.open(each, check=check, take_over=take_over) for each in instances)
        code = process.loop(poll_s) if opened else 1
        if code:
            stop.wait(_LAST_WORD_S)
        return code
    finally:
        process.close()


def become_subreaper() -> None:
    """Keep what plug-ins start below this process, also when it forks twice (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


class PluginProcess:
    """The instances of this process, their services, and the loop that serves them all."""

    def __init__(self, bus: Bus, stop: threading.Event, history: History | None, calibrations: CalibrationSet):
        self.bus, self.stop = bus, stop
        self.history, self.calibrations = history, calibrations
        self.events = EventWriter(bus)
        self.heartbeat = Heartbeat(bus)
        self.hosts: dict[str, Host] = {}
        self.servers: dict[str, Server] = {}
        self.poller = Poller(bus)
        self._instances: dict[str, PluginInstance] = {}
        self._restarts = Restarts()
        self._restart_ns: dict[str, int] = {}
        self._off: dict[str, str] = {}

    def report(self, event: Event) -> None:
        """Write an event with this process's name and the time."""
        self.events.write(encode(stamped(event, self.bus.process)))

    def open(self, instance: PluginInstance, *, check: Check | None = None, take_over: bool = False) -> bool:
        """Import, make and join one instance; False when it can't be, which the events explain."""
        self._instances[instance.name] = instance
        work = Work(self.bus, instance.name) if not take_over else None
        try:
            if work is not None:
                work.expect_slow()
                work.begin()
            drop_in = discover.find(instance.use, None, instance.folders)
            cls = discover.load(drop_in)
            faults = check(cls) if check is not None and take_over else None
            if faults:
                raise ContractError(f"{instance.use} breaks its contract: {'; '.join(faults)}", "mend the file")
            plugin = self._make(cls, instance)
            digest = drop_in.source_hash
            host = Host(self.bus, instance, plugin, self.report, history=self.history, source_hash=digest)
        except Exception as error:
            # a stranger's code: whatever it raises is reported, and its process ends
            state = "reload failed" if take_over else "failed"
            self.report(StateChange(target=instance.name, state=state, reason=_line(error)))
            if work is not None:
                work.end()
            if not take_over and len(self._instances) > 1:
                self._off[instance.name] = _line(error)
                self._serve(instance.name)
                return True
            return False
        if work is not None:
            work.end()
        limit_memory(getattr(cls, "memory_mb", 1024) if len(self._instances) == 1 else None)
        if take_over:
            self._take_over(host)
        self.hosts[instance.name] = host
        for reader in host.readers:
            self.poller.add(reader)
        self._serve(instance.name)
        state = "running" if take_over else host.state
        facts = {"pid": os.getpid(), "source_hash": digest, "path": str(drop_in.path), "revision": host.revision}
        why = "reloaded" if take_over else ""
        self.report(StateChange(target=instance.name, state=state, reason=why, data=facts))
        return True

    def _make(self, cls: type[Any], instance: PluginInstance) -> DropIn:
        if not (isinstance(cls, type) and issubclass(cls, DropIn)):
            raise DropInError(f"{instance.use!r} is no plug-in", f"a plug-in is a {', a '.join(TRANSFORMS)}")
        parameters = convert(cls.Parameters, instance.parameters, f"plugins.{instance.name}.parameters",
                             spelled=instance.spelled)  # fmt: skip
        return cls(parameters, Context(instance.name, instance.seed, self.calibrations, instance.device))

    def _serve(self, name: str) -> None:
        for service in (self.bus.process, service_name(name)):
            if service not in self.servers:
                self.servers[service] = Server(self.bus, service)
                self.poller.add(self.servers[service])

    def _take_over(self, host: Host) -> None:
        """Have the running instance end at a block boundary; go on with the frame after it, at a new revision."""
        client = Client(self.bus, service_name(host.instance.name))
        try:
            told = decode_reply(client.call(encode(Describe()), 2.0))
            if isinstance(told, Description):
                state = told.state["plugins"][host.instance.name]
                host.revision = int(state["revision"])
                reply = host.set_parameters(state["chosen"])
                if isinstance(reply, Refused):  # the new class may have other parameters
                    host.renew()
            self._await_announcements(host)
            client.call(encode(Disable(host.instance.name)), 2.0)
            told = decode_reply(client.call(encode(Describe()), 2.0))
            if isinstance(told, Description):
                host.intake.next |= told.state["plugins"][host.instance.name]["next"]
            host.adopt_scan()
        except (BusError, KeyError):  # nobody runs it, or it hangs: begin with what comes
            host.adopt_scan()
        finally:
            client.close()

    def _await_announcements(self, host: Host) -> None:
        """Let idle sources say what the scan is that is on; they look for new readers every 100 ms."""
        until = time.monotonic() + _ANNOUNCED_S
        while host.readers and host.intake.now_on() is None and time.monotonic() < until:
            self.stop.wait(0.01)

    def loop(self, poll_s: float = _IDLE_S) -> int:
        """Serve requests and blocks until the end; return the exit code."""
        refreshed = 0
        while not self.stop.is_set():
            work_left = any(host.busy for host in self.hosts.values())
            polls = any(instance.polls for instance in self._instances.values())
            (self.poller.poll if polls else self.poller.wait)(0.001 if work_left else poll_s)
            self.heartbeat.beat()
            for server in tuple(self.servers.values()):
                for body, respond in server.receive():
                    respond(encode(self._answer(body)))
            for name, host in tuple(self.hosts.items()):
                try:
                    host.step()
                except Exception as error:
                    # a plug-in may raise anything
                    if not self._failed(name, error):
                        return _CRASHED
            if any(host.intake.holding for host in self.hosts.values()):
                self.stop.wait(0.001)  # something is there, but left unread
            now = time.monotonic_ns()
            if now - refreshed > 100_000_000:
                refreshed = now
                for host in self.hosts.values():
                    host.refresh()
                self._restart_due(now)
        return 0

    def _failed(self, name: str, error: Exception) -> bool:
        """Take a failed plug-in out; False when this process was its alone and ends."""
        self.report(StateChange(target=name, state="failed", reason=_line(error)))
        if len(self._instances) == 1:
            return False
        host = self.hosts.pop(name)
        for reader in host.readers:
            self.poller.remove(reader)
        self._instances[name] = _standing(host)
        with contextlib.suppress(Exception):
            host.close()
        pause = self._restarts.next_pause(name)
        if pause is None:
            self._off[name] = _line(error)
            self.report(StateChange(target=name, state="off", reason=self._restarts.why(_line(error))))
        else:
            self._restart_ns[name] = time.monotonic_ns() + int(pause * 1e9)
        return True

    def _restart_due(self, now: int) -> None:
        for name in [name for name, due in self._restart_ns.items() if due <= now]:
            del self._restart_ns[name]
            self.open(self._instances[name])

    def _answer(self, body: bytes) -> Reply:
        try:
            request = decode_request(body)
        except WireError as error:
            return Refused(str(error))
        match request:
            case Describe():
                state = {key: each.describe() for key, each in self.hosts.items()}
                state |= {key: {"state": "off", "reason": why} for key, why in self._off.items()}
                schema = {key: each.pop("schema") for key, each in state.items() if "schema" in each}
                return Description(self.bus.process, "plugins", {"plugins": state, "pid": os.getpid()}, schema)
            case Shutdown():
                self.stop.set()
                return Accepted()
            case SetParameters():
                return self._for_host(request.target, request)
            case Enable() | Disable():
                return self._for_host(request.plugin, request)
            case Reload():
                return Refused("a reload is a second process", "", "send Reload to the supervisor")
            case _:
                return Refused(f"a plug-in does not know {type(request).__name__}")

    def _for_host(self, target: str, request: SetParameters | Enable | Disable) -> Reply:
        name = target.removeprefix("plugin.")
        host = self.hosts.get(name)
        if host is None and name in self._off and isinstance(request, Enable):
            self._off.pop(name)
            self._restarts.forget(name)
            opened = self.open(self._instances[name]) and name in self.hosts
            return Accepted() if opened else Refused(self._off.get(name, "it failed again"))
        if host is None:
            known = name in self._instances
            why = self._off.get(name, "it is being restarted") if known else f"here are {', '.join(self._instances)}"
            return Refused(f"{name} does not run: {why}")
        if isinstance(request, SetParameters):
            try:
                return host.set_parameters(request.values, request.expect_revision)
            except ProbeloopError as error:
                return Refused(str(error))
        before = host.readers
        for reader in before if isinstance(request, Disable) else ():
            self.poller.remove(reader)
        reply = host.set_enabled(isinstance(request, Enable))
        for reader in host.readers if not before else ():
            self.poller.add(reader)
        return reply

    def close(self) -> None:
        """Leave the bus."""
        self.poller.close()
        for host in self.hosts.values():
            with contextlib.suppress(Exception):
                host.close()
        for server in self.servers.values():
            server.close()
        self.events.close()


def stamped(event: Event, process: str) -> Event:
    """Return the event with who says it and when."""
    import datetime

    import msgspec

    wall = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    return msgspec.structs.replace(event, process=process, time_ns=time.monotonic_ns(), wall=wall)


def _standing(host: Host) -> PluginInstance:
    """Return the instance with the parameters it has now."""
    import msgspec

    from ..data.settings import to_mapping

    return msgspec.structs.replace(host.instance, parameters=to_mapping(host.plugin.parameters), spelled=False,
                                   revision=host.revision)  # fmt: skip


def _line(error: BaseException) -> str:
    """Return an error in one line; a stranger's with its type and place."""
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory: more than it declares as memory_mb"
    if isinstance(error, ProbeloopError):
        return " ".join(str(error).split())
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())

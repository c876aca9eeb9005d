"""Keeps the plug-in processes of a rig: starts, watches, restarts, reloads and ends them. Lives in the supervisor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .. import discover
from ..bus.node import Bus
from ..data.clock import Clock, MonotonicClock
from ..data.control import Accepted, Event, Refused, Remark, Reply, Revision, StateChange
from .backoff import Restarts
from .instance import PluginInstance
from .reload import SourceWatch
from .watchdog import Family, collect, fault

RELOAD_S = 60.0
Auto = Callable[[discover.Found], PluginInstance | None]


class Process(Protocol):
    """A started process, as subprocess.Popen has it."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        ...


Spawn = Callable[[str, tuple[PluginInstance, ...], bool], Process]


@dataclass
class _Member:
    """One plug-in process."""

    name: str
    instances: dict[str, PluginInstance]
    process: Process | None = None
    family: Family | None = None
    due_ns: int = 0
    off: bool = False
    blamed: str = ""
    hashes: dict[str, str] = field(default_factory=dict)


@dataclass
class _Candidate:
    """The second process of a reload. taken: it said that it took over."""

    instance: PluginInstance
    process: Process
    family: Family
    since: float
    digest: str
    taken: bool = False
    told: bool = False


class PluginKeeper:
    """Not thread-safe: the supervisor's thread owns it, calls `look` 4 times a second and gives it every event.

    spawn(process name, instances, take_over): starts a process in a session of its own that calls
    `run_plugin_process` with them. folders: the rig's. auto: makes an instance of a file that is dropped into the
    user's or the rig's folder while it runs; None = new files are only reported.
    """

    def __init__(
        self,
        bus: Bus,
        spawn: Spawn,
        *,
        folders: Iterable[str | Path] = (),
        auto: Auto | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.bus, self._spawn, self._auto = bus, spawn, auto
        self.folders = tuple(str(folder) for folder in folders)
        self._members: dict[str, _Member] = {}
        self._candidates: dict[str, _Candidate] = {}
        self._clock = clock or MonotonicClock()
        self._restarts = Restarts(self._clock)
        self._watch = SourceWatch(self.folders)
        self._again: dict[str, str] = {}
        self._began: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
        self._count = 0

    # --- what the supervisor calls ---

    def start(self, name: str, instances: Iterable[PluginInstance]) -> None:
        """Start a process called `name` with one instance, or a group of shipped ones."""
        member = _Member(name, {each.name: each for each in instances})
        self._members[name] = member
        self._launch(member)

    def names(self) -> dict[str, str]:
        """Return the process of every instance."""
        return {instance: member.name for member in self._members.values() for instance in member.instances}

    def pids(self) -> list[int]:
        """Return the number of every living plug-in process."""
        processes = [m.process for m in self._members.values()] + [c.process for c in self._candidates.values()]
        return [process.pid for process in processes if process is not None and process.poll() is None]

    def take(self, event: Event) -> None:
        """Hear an event: new parameters are kept for a restart, a take-over is completed."""
        if not isinstance(event, Revision | StateChange):
            return
        instance = event.target
        member, candidate = self._member_of(instance), self._candidates.get(instance)
        if isinstance(event, StateChange) and candidate is not None:
            candidate.taken |= event.data.get("pid") == candidate.process.pid
            candidate.told |= event.state == "reload failed"
        if member is None:
            return
        old = member.instances[instance]
        if isinstance(event, Revision):
            self._remember(member, old, event)
        elif event.state == "failed":
            member.blamed = event.reason
        elif event.state in ("disabled", "waiting") and candidate is None:
            member.instances[instance] = msgspec.structs.replace(old, enabled=event.state == "waiting")

    def look(self) -> list[Event]:
        """Notice what hangs, died or changed, act on it, and return what to tell."""
        told: list[Event] = []
        for member in tuple(self._members.values()):
            told += self._look_at(member)
        for candidate in tuple(self._candidates.values()):
            told += self._look_at_candidate(candidate)
        for name in [name for name in self._again if name not in self._candidates]:
            digest, owner = self._again.pop(name), self._member_of(name)
            if owner is not None and owner.hashes.get(name) != digest:
                self._begin_reload(owner, owner.instances[name], digest)
        for change in self._watch.look():
            told += self._changed(change.what, change.found)
        return told

    def reload(self, instance: str) -> Reply:
        """Load an instance's source again, in a second process; the outcome is an event."""
        member = self._member_of(instance)
        if member is None:
            return Refused(f"no plug-in {instance!r} runs", "", ", ".join(sorted(self.names())))
        if instance in self._candidates:
            return Refused(f"{instance} is being reloaded already")
        self._begin_reload(member, member.instances[instance], "")
        return Accepted()

    def enable(self, instance: str) -> Reply:
        """Start an instance again that was switched off after too many failures."""
        member = self._member_of(instance)
        if member is None:
            return Refused(f"no plug-in {instance!r} in this rig", "", ", ".join(sorted(self.names())))
        if member.off:
            self._restarts.forget(member.name)
            self._launch(member)
        return Accepted()

    def stop(self) -> list[int]:
        """End every plug-in process and what they started at once; return the descendants that had to be killed."""
        killed = []
        for member in self._members.values():
            killed += _end(member.family, member.process)
        for candidate in self._candidates.values():
            killed += _end(candidate.family, candidate.process)
        self._members.clear()
        self._candidates.clear()
        return killed

    # --- inside ---

    def _remember(self, member: _Member, instance: PluginInstance, event: Revision) -> None:
        """Keep what was changed since the source began; what was not follows the defaults of a newer source."""
        digest, first, given = self._began.get(instance.name, ("", {}, {}))
        if digest != event.source_hash or not digest:
            first, given = dict(event.values), dict(instance.parameters)
            self._began[instance.name] = (event.source_hash, first, given)
        changed = {name: value for name, value in event.values.items() if first.get(name) != value}
        member.instances[instance.name] = msgspec.structs.replace(
            instance, parameters={**given, **changed}, spelled=False, revision=event.revision
        )

    def _member_of(self, instance: str) -> _Member | None:
        return next((m for m in self._members.values() if instance in m.instances), None)

    def _launch(self, member: _Member) -> None:
        member.off, member.blamed = False, ""
        member.hashes = {name: self._hash(each) for name, each in member.instances.items()}
        member.process = self._spawn(member.name, tuple(member.instances.values()), False)
        member.family = Family(member.process.pid)

    def _hash(self, instance: PluginInstance) -> str:
        found = (e for e in discover.on_disk(self.folders) if instance.use in e.names and e.error is None)
        return next((each.source_hash for each in found), "")

    def _look_at(self, member: _Member) -> list[Event]:
        if member.process is None or member.family is None:
            if not member.off and member.instances and self._clock.now_ns() >= member.due_ns:
                self._launch(member)
                return [StateChange(target=n, state="restarted") for n in member.instances]
            return []
        code = member.process.poll()
        why = None
        if code is None:
            member.family.look()
            why = fault(self.bus, member.process.pid, member.instances)
            if why is None:
                return []
        _end(member.family, member.process)
        member.process = member.family = None
        if code == 0:
            member.off = True
            return []
        why = why or member.blamed or _how(code)
        return self._failed(member, why)

    def _failed(self, member: _Member, why: str) -> list[Event]:
        pause = self._restarts.next_pause(member.name)
        if pause is None:
            member.off, state, why = True, "off", Restarts.why(why)
        else:
            member.due_ns, state = self._clock.now_ns() + int(pause * 1e9), "stopped"
        told: list[Event] = [StateChange(target=n, state=state, reason=why) for n in member.instances]
        return [*told, Remark(text=f"{member.name}: {why}", level="error")]

    def _begin_reload(self, member: _Member, instance: PluginInstance, digest: str) -> None:
        if member.process is None:  # it failed, or is off: the new source gets its chance
            self._restarts.forget(member.name)
            self._launch(member)
            return
        self._count += 1
        process = self._spawn(f"{instance.name}.{self._count}", (instance,), True)
        self._candidates[instance.name] = _Candidate(instance, process, Family(process.pid), time.monotonic(), digest)

    def _look_at_candidate(self, candidate: _Candidate) -> list[Event]:
        name, process = candidate.instance.name, candidate.process
        candidate.family.look()
        code = process.poll()
        if candidate.taken:
            del self._candidates[name]
            return self._complete(candidate)
        late = time.monotonic() - candidate.since > RELOAD_S
        if code is None and not late:
            return []
        _end(candidate.family, process)
        del self._candidates[name]
        why = f"it took longer than {RELOAD_S:g} s" if late else _how(code)
        told: list[Event] = []
        if not candidate.told:
            told = [StateChange(target=name, state="reload failed", reason=why)]
        return [*told, Remark(text=f"{name}: the last good version keeps running", level="warning")]

    def _complete(self, candidate: _Candidate) -> list[Event]:
        """The second process runs: end the first, or leave it to the others of its group."""
        name = candidate.instance.name
        old = self._member_of(name)
        instance = candidate.instance
        if old is not None:
            instance = old.instances.pop(name)
            if not old.instances:
                _end(old.family, old.process)
                del self._members[old.name]
        new = _Member(name if name not in self._members else f"{name}.{self._count}", {name: instance})
        new.process, new.family = candidate.process, candidate.family
        new.hashes = {name: candidate.digest}
        self._members[new.name] = new
        return []

    def _changed(self, what: str, found: discover.Found) -> list[Event]:
        users = [(m, i) for m in self._members.values() for i in m.instances.values() if i.use in found.names]
        if what == "broken":
            kept = "; the last good version keeps running" if users or self._stems(found) else ""
            targets = [i.name for _, i in users] or self._stems(found)
            told: list[Event] = [
                StateChange(target=n, state="reload failed", reason=str(found.error)) for n in targets
            ]
            return [*told, Remark(text=f"{found.path.name}: {found.error}{kept}", level="error")]
        if users:
            for member, instance in users:
                if instance.name in self._candidates:
                    self._again[instance.name] = found.source_hash
                elif member.hashes.get(instance.name) != found.source_hash:
                    self._begin_reload(member, instance, found.source_hash)
            return []
        if self._auto is None or found.origin not in ("user", "rig") or found.name in self.names():
            return []
        if found.kind == "JoinTransform":
            how = f'name them in the rig: [plugins.{found.name}] input = ["TOPIC", "TOPIC"]'
            return [Remark(text=f"{found.path.name} joins several topics; {how}", level="warning")]
        made = self._auto(found)
        if made is None:
            return []
        self.start(made.name, (made,))
        return [StateChange(target=made.name, state="started", reason=f"{found.path.name} is new")]

    def _stems(self, found: discover.Found) -> list[str]:
        """Return the instances whose drop-in is this file: one that can't be read has no class names."""
        return [i.name for m in self._members.values() for i in m.instances.values() if i.use == found.name]


def _end(family: Family | None, process: Process | None) -> list[int]:
    """Kill a process and all that it started, and collect them; return the descendants that were alive."""
    if family is None or process is None:
        return []
    killed = family.kill()
    deadline, pause = time.monotonic() + 1.0, threading.Event()
    while process.poll() is None and time.monotonic() < deadline:
        pause.wait(0.002)
    collect(killed)
    return killed


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        import signal

        return f"it was killed by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"

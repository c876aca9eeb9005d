"""The plug-ins of a rig: which run in processes, in which, and who answers for them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from .. import discover
from ..bus.node import Bus
from ..bus.request import Server
from ..data.control import (
    Describe,
    Description,
    Enable,
    Event,
    Refused,
    Reload,
    Reply,
    Request,
    StateChange,
    decode_request,
    encode,
)
from ..data.errors import DropInError, Problem, SettingsError, WireError
from ..plugin.instance import TRANSFORMS, PluginInstance
from ..plugin.keeper import PluginKeeper
from .schema import PluginEntry, Rig

Spawn = Callable[[str, tuple[PluginInstance, ...], bool], "subprocess.Popen[bytes]"]
_GROUP = "plugins"


def transforms(rig: Rig) -> dict[str, tuple[PluginInstance, bool]]:
    """Return (instance, may share a process) of every plug-in that needs a process; raises SettingsError."""
    made, problems = {}, []
    folders = rig.folders
    for name, entry in rig.plugins.items():
        try:
            drop_in = discover.find(entry.use, None, folders)
        except DropInError as error:
            problems.append(Problem(f"plugins.{name}.use", error.message, error.next_move))
            continue
        if drop_in.kind in TRANSFORMS:
            shared = drop_in.origin == "shipped" and not entry.own_process and not entry.polls
            made[name] = (_instance(name, entry, folders), shared)
    if problems:
        raise SettingsError(problems, f"mend {rig.source}")
    return made


def _instance(name: str, entry: PluginEntry, folders: tuple[str, ...]) -> PluginInstance:
    return PluginInstance(
        name=name,
        use=entry.use,
        input=entry.input,
        parameters=dict(entry.parameters),
        spelled=True,
        enabled=entry.enabled,
        recorded=entry.record,
        polls=entry.polls,
        device=entry.device,
        folders=folders,
    )


class RigPlugins:
    """Starts a rig's transforms, and answers Reload and Enable on the service `supervisor`."""

    def __init__(self, bus: Bus, rig: Rig, spawn: Spawn) -> None:
        """Start them; raises SettingsError when one is unknown."""
        wanted = transforms(rig)
        self.names = frozenset(wanted)
        self.starting = set(wanted)  # not yet heard of
        self.failed: set[str] = set()
        inputs = sorted({topic for instance, _ in wanted.values() for topic in instance.input})
        self._input = tuple(inputs[:1]) or ("camera",)
        self._folders = rig.folders
        self._keeper = PluginKeeper(bus, spawn, folders=self._folders, auto=self._dropped_in)
        self._server = Server(bus, "supervisor")
        self._rig = rig
        shared = [instance for instance, together in wanted.values() if together]
        if shared:
            self._keeper.start(_GROUP, shared)
        for instance, together in wanted.values():
            if not together:
                self._keeper.start(instance.name, (instance,))

    def _dropped_in(self, found: discover.Found) -> PluginInstance | None:
        """Run a transform that somebody drops into a watched folder on what the others read."""
        if found.kind not in TRANSFORMS or Path(found.path).suffix not in (".py", ""):
            return None
        return PluginInstance(name=found.name, use=found.name, input=self._input, folders=self._folders)

    def take(self, event: Event) -> None:
        """Hear an event."""
        self._hear(event)
        self._keeper.take(event)

    def _hear(self, event: Event) -> None:
        if isinstance(event, StateChange) and event.target in self.starting and event.state != "restarted":
            self.starting.discard(event.target)
            if event.state not in ("waiting", "running", "disabled"):
                self.failed.add(event.target)

    def look(self) -> list[Event]:
        """Answer requests, notice what hangs, died or changed; return what to tell."""
        for body, respond in self._server.receive():
            try:
                respond(encode(self._answer(decode_request(body))))
            except WireError as error:
                respond(encode(Refused(error.message)))
        told = self._keeper.look()
        for event in told:
            self._hear(event)
        return told

    def _answer(self, request: Request) -> Reply:
        match request:
            case Reload(plugin=name):
                return self._keeper.reload(name)
            case Enable(plugin=name):
                return self._keeper.enable(name)
            case Describe():
                state = {"rig": self._rig.name, "plugins": self._keeper.names()}
                return Description(process="supervisor", role="supervisor", state=state)
        return Refused(f"the supervisor does not know {type(request).__name__}", "", "Describe, Reload, Enable")

    def pids(self) -> list[int]:
        """Return the numbers of the plug-in processes."""
        return self._keeper.pids()

    def close(self) -> None:
        """End every plug-in process."""
        self._keeper.stop()
        self._server.close()

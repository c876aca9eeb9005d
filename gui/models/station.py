"""Everything the window works with, without Qt: what is known, what can be asked, and STOP."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from probeloop.api import (
    Abort,
    Accepted,
    Command,
    Description,
    Disable,
    Enable,
    Event,
    MoveProbe,
    Note,
    Pause,
    ProbeloopError,
    Rearm,
    Refused,
    ReleaseControl,
    Reload,
    Reply,
    Resume,
    Run,
    SetParameters,
    SetReward,
    StartRecording,
    StopRecording,
    TakeControl,
)

from .asker import Asker
from .banner import Banner, Facts, banner
from .connection import Link
from .feed import Feed
from .journal import Journal
from .rig import Plugin, Rig
from .stop import StopThread


class Station:
    """An operator's place at a rig. Its views read, and call the verbs below; every verb returns at once."""

    def __init__(self, link: Link, *, operator: str = "") -> None:
        self.link = link
        self.rig_id = link.rig_id
        self.holder = f"{operator or 'operator'}-{os.getpid()}"
        self.rig = Rig()
        self.journal = Journal()
        self.feed = Feed(link, self.journal, self._heard)
        self.asker = Asker(link, self.journal, self._described)
        self.asker.pulse = self._lease
        self.stopping = StopThread(link)
        self._in_control = False
        self._closed = False
        self.feed.start()
        self.asker.start()

    # --- what is known --------------------------------------------------------------------------------

    def _heard(self, event: Event) -> None:
        self.rig.take(event)
        target = getattr(event, "target", "")
        if target:
            plugin = self.rig.plugins.get(target)
            self.asker.stale(plugin.process if plugin else event.process)

    def _described(self, process: str, reply: Description) -> None:
        self.rig.described(process, reply)
        self.feed.clock_error = self.rig.clock_error
        self.asker.instrument = self.rig.process_of("instrument")

    def _lease(self) -> tuple[str, int] | None:
        return (self.holder, self.rig.epoch) if self._in_control and self.rig.holder == self.holder else None

    def _uncalibrated(self) -> tuple[str, ...]:
        """Return, in words, which axes of what arrives have no scale."""
        specs = [m.spec for m in list(self.feed.maps.values())] + [f.spec for f in list(self.feed.frames.values())]
        scan = any(axis.scale is None for spec in specs if spec is not None for axis in spec.nav)
        frame = any(axis.scale is None for spec in specs if spec is not None for axis in spec.sig)
        return (("scan scale",) if scan else ()) + (("detector scale",) if frame else ())

    def facts(self) -> Facts:
        """Return what the banner looks at."""
        feed, rig = self.feed, self.rig
        name = rig.process_of("instrument")
        now = time.monotonic()
        return Facts(
            instrument_age=feed.ages.get(name),
            fault=rig.fault,
            paused=rig.paused or rig.plan.state == "paused",
            settling=feed.settling and feed.last_frame is not None and now - feed.last_frame < 1.0,
            acquiring=rig.acquiring or rig.busy > 0,
            frame_age=None if feed.last_frame is None else now - feed.last_frame,
            origin=rig.origin,
            uncalibrated=self._uncalibrated(),
        )

    @property
    def banner(self) -> Banner:
        """The state that stands over everything."""
        return banner(self.facts())

    def progress(self) -> tuple[float, bool]:
        """Return how far the plan is, 0 to 1; (share, True) = of its scan, where it does not say itself."""
        plan = self.rig.plan
        if plan.total and plan.done:
            return plan.done / plan.total, False
        maps = [m for m in list(self.feed.maps.values()) if m.spec is not None and m.spec.kind == "values"]
        newest = max((m.generation for m in maps), default=-1)
        shares = [m.share for m in maps if m.generation == newest]
        return (max(shares), True) if shares and plan.running else (0.0, False)

    @property
    def in_control(self) -> bool:
        """True while this window holds the lease on control."""
        return self._in_control and self.rig.holder == self.holder

    # --- what can be asked ----------------------------------------------------------------------------

    def stop(self) -> None:
        """STOP."""
        self.stopping.press()

    def rearm(self) -> None:
        """Permit new commands after a STOP or a fault; restarts nothing."""
        self.asker.ask(
            self.rig.process_of("instrument"), Rearm(self.holder), self._told("re-armed; nothing restarts")
        )

    def set_parameters(self, plugin: Plugin, values: Mapping[str, Any], *, dragged: bool = False) -> None:
        """Set parameters of a plug-in; `dragged` ones replace each other while they wait."""
        request = SetParameters(plugin.name, dict(values), None if dragged else plugin.revision)
        if dragged:
            self.asker.ask_newest(plugin.process, plugin.name, request)
        else:
            self.asker.ask(plugin.process, request)

    def enable(self, plugin: Plugin, on: bool) -> None:
        """Let a plug-in run, or stop it."""
        self.asker.ask(plugin.process, Enable(plugin.name) if on else Disable(plugin.name))

    def reload(self, plugin: Plugin) -> None:
        """Load a plug-in's source again, in a second process, which the supervisor starts."""
        self.asker.ask("supervisor", Reload(plugin.name))

    def run_plan(self, plan: str, parameters: Mapping[str, Any], seed: int | None = None) -> None:
        """Run a plan."""
        self.asker.ask(self.rig.process_of("experiment"), Run(plan, dict(parameters), seed))

    def pause(self) -> None:
        """Hold the plan before its next step."""
        self.asker.ask(self.rig.process_of("experiment"), Pause())

    def resume(self) -> None:
        """Let the plan go on."""
        self.asker.ask(self.rig.process_of("experiment"), Resume())

    def abort(self) -> None:
        """End the plan in order."""
        self.asker.ask(self.rig.process_of("experiment"), Abort("ended by the operator"))

    def set_scalarizer(self, name: str) -> None:
        """Let another scalarizer of the rig say what is interesting; what was measured is valued anew."""
        self.asker.ask(self.rig.process_of("experiment"), SetReward(scalarizer=name))

    def record(self, on: bool) -> None:
        """Start or stop the record."""
        self.asker.ask(self.rig.process_of("recorder"), StartRecording() if on else StopRecording())

    def note(self, text: str) -> None:
        """Put a remark in the record."""
        self.asker.ask(self.rig.process_of("instrument"), Note(text))

    def take_control(self, force: bool = False) -> None:
        """Take the lease; `force` takes it from whoever holds it."""
        self._in_control = True
        request = TakeControl(self.holder, force)
        self.asker.ask(self.rig.process_of("instrument"), request, self._taken)

    def release_control(self) -> None:
        """Give the lease back."""
        self._in_control = False
        self.asker.ask(self.rig.process_of("instrument"), ReleaseControl(self.holder), self._released)

    def _taken(self, reply: Reply) -> None:
        self._in_control = isinstance(reply, Accepted)
        if isinstance(reply, Accepted):
            self.rig.holder = self.holder
            self.rig.epoch = reply.epoch or self.rig.epoch
            self.rig.version += 1

    def _released(self, reply: Reply) -> None:
        if isinstance(reply, Accepted) and self.rig.holder == self.holder:
            self.rig.holder = ""
            self.rig.version += 1

    def _told(self, text: str) -> Any:
        return lambda reply: self.journal.say(text, "info") if isinstance(reply, Accepted) else None

    def move_probe(self, x: float, y: float) -> None:
        """Ask the gate to put the probe at (x, y) [m]; needs the lease."""
        if not self.in_control:
            self.journal.say("moving the probe needs control: press Take control first", "warning")
            return
        self.submit(MoveProbe((x, y)))

    def submit(self, command: Command) -> None:
        """Hand a command to the gate; its verdict comes as an event."""
        holder, epoch = self.holder, self.rig.epoch

        def job() -> None:
            try:
                reply = self.link.submit(command, holder=holder, epoch=epoch)
            except ProbeloopError as error:
                self.journal.say(str(error), "warning")
                return
            if isinstance(reply, Refused):
                self.journal.version += 1  # the gate's own event says why

        self.asker.run(job)

    def close(self) -> None:
        """End every thread and leave the rig; harmless when closed already."""
        if self._closed:
            return
        self._closed = True
        self.feed.close()
        self.asker.close()
        self.stopping.close()
        self.link.close()

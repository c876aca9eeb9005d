"""A run ends when its plug-ins and its recorder have read what there is."""

from __future__ import annotations

from typing import Any

from probeloop.data import control
from probeloop.data.errors import BusError
from probeloop.rig.drain import drain


class Readers:
    """Two plug-ins and a recorder that read a few frames at each turn. frames: that there are."""

    def __init__(self, frames: int, *, dead: bool = False) -> None:
        self.frames, self.dead = frames, dead
        self.read = {"haadf": 0, "recorder": 0}

    def turn(self, seconds: float) -> None:
        assert seconds > 0
        self.read["haadf"] = min(self.frames, self.read["haadf"] + 3)
        self.read["recorder"] = min(self.read["haadf"], self.read["recorder"] + 2)

    def ask(self, service: str, request: control.Request, seconds: float) -> control.Reply:
        assert isinstance(request, control.Describe)
        assert seconds < 1
        if service == "recorder":
            state: dict[str, Any] = {"topics": {"haadf.value": {"frames": self.read["recorder"]}}}
            return control.Description("recorder", "recorder", state)
        if "dead" in service:
            raise BusError("nobody serves")
        state = {"plugins": {"haadf": {"next": {"camera": self.read["haadf"]}}}}
        return control.Description("plugins", "plugins", state)


def test_everything_is_read_before_a_run_ends() -> None:
    readers = Readers(20)
    assert drain(readers.ask, {"haadf"}, readers.turn)
    assert readers.read == {"haadf": 20, "recorder": 20}


def test_a_plugin_that_is_off_holds_nobody_up() -> None:
    readers = Readers(5)
    assert drain(readers.ask, {"haadf", "dead"}, readers.turn)
    assert readers.read["recorder"] == 5


def test_a_reader_that_never_stands_still_is_not_waited_for() -> None:
    readers = Readers(10**9)
    assert not drain(readers.ask, {"haadf"}, readers.turn, seconds=0.05)

"""Commands from another host, through a real gate."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from relay_site import MOVE, Site, ask, moved, raw_link, running

from probeloop.bus.relay import link as link_module
from probeloop.bus.relay.channel import now_ns
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.control import Accepted, Description, Refused, Submit, decode_reply, encode
from probeloop.rig.client import Connection


def test_a_command_goes_through_the_gate_under_the_name_of_the_key(site: Site) -> None:
    site.mirror("anna")
    site.events()
    assert isinstance(site.take("operator-7"), Accepted)
    said = site.ask(control.Describe())
    assert isinstance(said, Description)
    assert said.state["holder"] == "operator-7"  # its own name on that host ...
    reply = site.ask(Submit(MOVE, "operator-7", site.epoch))
    assert isinstance(reply, Accepted)
    found: list[Any] = []
    site.until(lambda: found.extend(site.events()) or any(isinstance(e, control.Done) for e in found), "the result")
    (verdict,) = [event for event in found if isinstance(event, control.Verdict)]
    assert verdict.holder == "operator:anna"  # ... and the key's on this one
    assert moved(site) == 1
    far = site.ask(Submit(c.MoveProbe((1.0, 0.0)), "operator-7", site.epoch))
    assert isinstance(far, Refused)
    assert far.limit
    assert moved(site) == 1
    assert isinstance(site.ask(control.Heartbeat("operator-7", site.epoch)), Accepted)
    assert isinstance(site.ask(control.ReleaseControl("operator-7")), Accepted)


def test_a_viewer_reads_and_stops_and_does_nothing_else(site: Site) -> None:
    site.mirror("hall")
    assert isinstance(site.ask(control.Describe()), Description)
    refused = site.take("operator-7")
    assert isinstance(refused, Refused)
    assert refused.limit == "role"
    for request in (
        control.Rearm("operator"),
        control.Note("x"),
        control.Abort(),
        c.Pause(),
        control.Run("overview"),
    ):
        assert site.ask(request).limit == "role"
    assert site.ask(Submit(c.Annotate("x"), "operator", 0)).limit == "role"
    assert isinstance(site.ask(c.Stop("smoke")), Accepted)
    state = site.ask(control.Describe()).state
    assert state["fault"] == "STOP smoke (viewer:hall)"


def test_the_stop_of_an_operator_and_its_reset(site: Site) -> None:
    site.mirror("anna")
    site.take()
    assert isinstance(site.ask(c.Stop("x")), Accepted)
    assert site.ask(Submit(MOVE, "operator-7", site.epoch)).limit in ("lease", "latched fault")
    assert isinstance(site.ask(control.Rearm("anybody")), Accepted)
    assert site.ask(control.Describe()).state["fault"] == ""
    assert isinstance(site.ask(control.Shutdown()), Refused)


def test_two_hosts_are_two_holders_also_with_one_key(site: Site) -> None:
    site.mirror("anna")
    site.mirror("anna")
    assert isinstance(site.take("operator-7", 0), Accepted)
    first = site.epoch
    second = site.ask(control.TakeControl("operator-7"), 1)
    assert isinstance(second, Refused)
    assert second.reason == "'operator:anna' holds control"
    forced = site.ask(control.TakeControl("operator-7", force=True), 1)
    assert forced.epoch > first
    site.until(lambda: site.mirrors[0]._translate.local_holder == "", "the news at the first host")
    assert isinstance(site.ask(Submit(MOVE, "operator-7", forced.epoch), 0), Refused)
    assert isinstance(site.ask(Submit(MOVE, "operator-7", forced.epoch), 1), Accepted)


def test_what_a_message_says_of_its_sender_is_never_read(site: Site) -> None:
    link = raw_link(site, "anna")
    try:
        taken = ask(site, link, 1, control.TakeControl("experiment"))
        site.events()
        for number, name in enumerate(("experiment", "operator:boss", "", "gui"), 2):
            assert isinstance(ask(site, link, number, Submit(MOVE, name, taken.epoch)), Accepted)
        verdicts = [event for event in site.events() if isinstance(event, control.Verdict)]
        assert {event.holder for event in verdicts} == {"operator:anna"}
        assert len(verdicts) == 4
    finally:
        link.close()


def test_a_late_command_is_refused_beyond_the_clocks_error(site: Site) -> None:
    link = raw_link(site, "anna")
    try:
        taken = ask(site, link, 1, control.TakeControl("x"))
        late = ask(site, link, 2, Submit(MOVE, "x", taken.epoch), late_ns=3_000_000_000)
        assert isinstance(late, Refused)
        assert late.limit == "not_after"
        assert isinstance(ask(site, link, 3, Submit(MOVE, "x", taken.epoch)), Accepted)
        past = ask(site, link, 4, Submit(MOVE, "x", taken.epoch, not_after=now_ns() - 2_000_000_000))
        assert past.limit == "not_after"
        assert isinstance(ask(site, link, 5, c.Stop("late"), late_ns=60_000_000_000), Accepted)  # never too late
    finally:
        link.close()


def test_without_keys_this_machine_may_look_and_stop(tmp_path: Path, rig_id: str) -> None:
    with running(tmp_path, rig_id, keys=False) as site:
        site.mirror(None)
        assert site.take().limit == "role"
        assert isinstance(site.ask(c.Stop("local")), Accepted)
        assert site.ask(control.Describe()).state["fault"] == "STOP local (viewer:local)"


def test_while_the_link_is_cut_nothing_is_promised(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SILENT_NS", 400_000_000)
    proxy = site.proxy()
    mirror = site.mirror("anna", proxy)
    site.take()
    proxy.cut()
    client = site._clients[0]
    waiting = client.ask(encode(Submit(MOVE, "operator-7", site.epoch)))
    site.until(lambda: not mirror.link.up, "a cut")
    broken = decode_reply(site.until(waiting.reply, "an answer"))
    waiting.close()
    assert isinstance(broken, Refused)
    assert "it may have been done" in broken.reason
    refused = site.ask(c.Stop())
    assert isinstance(refused, Refused)
    assert "hardware switch" in refused.allowed
    site.turn_for(1.2)  # so long that what waits in the line is late when it comes
    proxy.heal()
    site.until(lambda: mirror.link.up, "a link that is back")
    site.turn_for(0.3)
    assert moved(site) == 0


def test_a_remote_holder_that_falls_silent_loses_control(site: Site) -> None:
    proxy = site.proxy()
    mirror = site.mirror("anna", proxy)
    site.take()
    assert isinstance(site.ask(Submit(c.Unblank(), "operator-7", site.epoch)), Accepted)
    site.until(lambda: not site.driver.values["blanked"], "a beam")
    proxy.cut()
    lost: list[Any] = []

    def free() -> bool:
        lost.extend(e for e in site.events() if isinstance(e, control.StateChange) and not e.data.get("holder", "x"))
        return bool(lost)

    site.until(free, "the end of its lease")
    assert "'operator:anna' is silent" in lost[0].reason
    assert site.driver.values["blanked"]
    proxy.heal()
    site.until(lambda: mirror.link.up and not mirror._translate.local_holder, "the news at its host")
    assert isinstance(site.ask(Submit(MOVE, "operator-7", site.epoch)), Refused)
    assert moved(site) == 0


def test_the_operators_door_works_on_the_mirrored_rig(site: Site) -> None:
    """`probeloop stop`, the window: they ask from threads of their own."""
    site.mirror("anna")
    site.until(lambda: site.mirrors[0]._servers, "the services")
    found: list[Any] = []

    def person() -> None:
        with Connection(f"{site.rig_id}-0", "person", local=True) as connection:
            found.append(connection.request("instrument", control.Describe(), 5.0))
            door = connection.stop_door()
            found.append(door.stop("key", 5.0)[0])
            door.close()
            found.extend((connection.processes(), connection.services()))

    thread = threading.Thread(target=person)
    thread.start()
    deadline = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < deadline:
        site.turn()
    thread.join()
    assert isinstance(found[0], Description)
    assert isinstance(found[1], Accepted)
    assert found[2]["instrument"] < 1.0

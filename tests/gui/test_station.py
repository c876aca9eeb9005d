"""The window's threads against a rig on the real bus: what they read, ask, and above all STOP. No Qt."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from probeloop.gui.models.station import Station

from probeloop.data import control
from probeloop.data.commands import MoveProbe, Stop


def eventually(what: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Wait until `what` is true, and return it."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (found := what()):
        assert time.monotonic() < deadline, "it never happened"
        pause.wait(0.01)
    return found


def the_map(station: Station) -> Any:
    return station.feed.maps.get("annular_detector.intensity")


def test_a_scan_becomes_a_map_at_scan_index_with_what_is_missing_missing(station: Station, fake: Any) -> None:
    eventually(lambda: len(station.feed.rows) == 2)
    fake.begin()
    for _ in range(fake.n):
        fake.line(skip=(70, 71))
    live = eventually(lambda: the_map(station))
    eventually(lambda: live.complete)
    expected = fake.value(np.arange(fake.n)[: fake.n])
    assert np.isnan(live.data.ravel()[[70, 71]]).all()
    assert live.measured == fake.n**2 - 2
    np.testing.assert_array_equal(live.data[0], expected)
    frame = eventually(lambda: station.feed.frames.get("camera"))
    assert frame.data.shape == (fake.pixels, fake.pixels)
    eventually(lambda: any(row.frames for row in station.feed.rows))


def test_cells_already_scanned_follow_an_annulus_within_2_seconds(station: Station, fake: Any) -> None:
    eventually(lambda: "annular_detector" in station.rig.plugins and len(station.feed.rows) == 2)
    fake.scan()
    live = eventually(lambda: the_map(station))
    eventually(lambda: live.complete)
    before = live.data.copy()
    for outer in np.linspace(200, 320, 30):  # a drag
        station.set_parameters(station.rig.plugins["annular_detector"], {"outer": float(outer)}, dragged=True)
    begun = time.monotonic()
    wanted = fake.truth.max() * (320 - 60)
    eventually(lambda: live.data.max() > 0.9 * wanted and (live.data != before).mean() > 0.9, 2.0)
    assert time.monotonic() - begun < 2.0
    asked = [r for r in fake.requests if isinstance(r, control.SetParameters)]
    assert asked[-1].values == {"outer": 320.0}
    assert len(asked) < 30, "what was overtaken is not sent"
    eventually(lambda: station.rig.plugins["annular_detector"].values["outer"] == 320.0)


def test_stop_is_not_queued_behind_a_hung_process_and_latches(station: Station, fake: Any) -> None:
    eventually(lambda: station.rig.origin == "simulation")
    fake.hang.set()  # experiment and plug-ins answer nobody
    for _ in range(5):
        station.pause()
    station.stop()
    result = eventually(lambda: station.stopping.result)
    fake.hang.clear()
    assert result.confirmed
    assert result.latency_ns < 100e6
    assert fake.stopped_ns
    eventually(lambda: station.rig.fault)
    assert station.banner.kind == "stopped"
    station.rearm()
    eventually(lambda: not station.rig.fault)


def test_stop_says_so_when_it_is_not_confirmed_and_can_be_pressed_again(station: Station, fake: Any) -> None:
    fake.refuse["Stop"] = control.Refused("NOT SAFE: the beam is not blanked")
    station.stop()
    result = eventually(lambda: station.stopping.result, 8)
    assert not result.confirmed
    assert "NOT SAFE" in result.text
    assert "hardware switch" in result.text
    fake.refuse.clear()
    station.stop()
    assert eventually(lambda: station.stopping.wait(2.0)).confirmed


def test_refused_requests_are_told_with_what_is_allowed(station: Station, fake: Any) -> None:
    fake.refuse["Run"] = control.Refused("no plan 'x'", allowed="explore, overview")
    station.run_plan("x", {})
    eventually(lambda: station.journal.lines("warning"))
    assert "no plan 'x'. Allowed: explore, overview" in station.journal.lines("warning")[0].text


def test_the_probe_moves_only_with_control_and_through_the_gate(station: Station, fake: Any) -> None:
    station.move_probe(1e-9, 0.0)
    assert "Take control" in station.journal.lines("warning")[0].text
    station.take_control()
    eventually(lambda: station.in_control)
    station.move_probe(1e-9, 0.0)
    sent = eventually(lambda: [r for r in fake.requests if isinstance(r, control.Submit)])
    assert sent[0].command == MoveProbe((1e-9, 0.0))
    assert sent[0].holder == station.holder
    eventually(lambda: any(isinstance(r, control.Heartbeat) for r in fake.requests))
    station.release_control()
    eventually(lambda: not station.in_control)


def test_a_silent_instrument_is_stale_and_comes_back_by_itself(station: Station, fake: Any) -> None:
    eventually(lambda: station.banner.kind in ("ready", "live"))
    fake.hang.set()
    eventually(lambda: station.banner.kind == "stale", 4)
    fake.hang.clear()
    eventually(lambda: station.banner.kind in ("ready", "live"), 2)


def test_settling_frames_are_said_to_settle(station: Station, fake: Any) -> None:
    eventually(lambda: len(station.feed.rows) == 2)
    fake.begin()
    eventually(lambda: [fake.line(settling=True)] and station.banner.kind == "settling", 3)
    fake.line()
    eventually(lambda: station.banner.kind == "live")


@pytest.mark.parametrize("request_", [Stop("x"), control.Rearm("cli")])
def test_the_stop_door_and_requests_share_one_way_in(fake: Any, rig_id: str, request_: Any) -> None:
    from probeloop.rig.client import Connection

    with Connection(rig_id, "person", local=True) as connection:
        assert isinstance(connection.request("instrument", request_), control.Accepted)
        door = connection.stop_door()
        reply, took = door.stop("test")
        door.close()
        assert isinstance(reply, control.Accepted)
        assert 0 < took < 1e9

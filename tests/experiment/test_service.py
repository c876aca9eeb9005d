"""The experiment process on a bus inside one process, against the real gate and a driver that obeys everything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.ledger import TOPIC
from probeloop.bus.node import Bus
from probeloop.bus.request import Client
from probeloop.bus.subscribe import Subscriber
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.control import Accepted, Description, Done, Observed, Progress, Refused, StateChange, Verdict
from probeloop.experiment.process import run_experiment
from probeloop.experiment.setup import Entry, ExperimentConfig
from probeloop.instrument.service import run_instrument
from probeloop.testing.fake_driver import FakeDriver

ENDS = ("finished", "failed", "aborted", "stopped")
SMALL = {"count": 4, "shape": [8, 8], "dwell_time": 1e-4}
LONG = {"count": 4000, "shape": [64, 64], "dwell_time": 1e-4, "overview": False}


class Host:
    """Instrument and experiment as threads, and a person who asks and listens."""

    def __init__(self, rig_id: str, config: ExperimentConfig | None = None) -> None:
        self.driver = FakeDriver(modality="stem")
        self.stop = threading.Event()
        self.buses = {name: Bus(rig_id, name, local=True) for name in ("instrument", "experiment", "person")}
        self.reader = EventReader(self.buses["person"])
        self.clients = {name: Client(self.buses["person"], name) for name in ("instrument", "experiment")}
        self.events: list[control.Event] = []
        self.threads: list[threading.Thread] = []
        self._start(run_instrument, "instrument", self.driver)
        self._start(run_experiment, "experiment", config or ExperimentConfig())

    def _start(self, serve: Any, name: str, what: Any) -> None:
        ready = threading.Event()
        options = {"stop": self.stop, "ready": ready.set}
        thread = threading.Thread(target=serve, args=(self.buses[name], what), kwargs=options, name=name)
        thread.start()
        self.threads.append(thread)
        assert ready.wait(10.0)

    def ask(self, request: control.Request, process: str = "experiment") -> control.Reply:
        return control.decode_reply(self.clients[process].call(control.encode(request), 5.0))

    def state(self) -> dict[str, Any]:
        reply = self.ask(control.Describe())
        assert isinstance(reply, Description)
        return reply.state

    def until(self, wanted: Callable[[control.Event], bool], timeout: float = 10.0) -> Any:
        """Listen until an event is the wanted one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for body in self.reader.read(0.2):
                self.events.append(control.decode_event(body))
            for event in self.events:
                if wanted(event):
                    return event
        raise AssertionError(f"never came; last: {self.events[-3:]}")

    def ended(self) -> StateChange:
        event: StateChange = self.until(
            lambda e: isinstance(e, StateChange) and e.target == "plan" and e.state in ENDS
        )
        return event

    def measured(self, n: int) -> None:
        self.until(lambda e: isinstance(e, Observed) and e.step >= 3 * n)

    def close(self) -> None:
        self.stop.set()
        for thread in reversed(self.threads):
            thread.join(10.0)
            assert not thread.is_alive()
        for port in (*self.clients.values(), self.reader, *self.buses.values()):
            port.close()


@pytest.fixture
def host(rig_id: str) -> Iterator[Host]:
    made = Host(rig_id)
    yield made
    made.close()


def test_a_plan_runs_to_its_end_through_the_gate(host: Host) -> None:
    assert isinstance(host.ask(control.Run("explore", SMALL, 1)), Accepted)
    again = host.ask(control.Run("explore", SMALL, 1))
    assert isinstance(again, Refused)
    assert "the plan 'explore' runs" in again.reason
    end = host.ended()
    assert (end.state, end.data["spectra_measured"], end.data["plan"]) == ("finished", 4, "explore")
    assert end.data["budget"]["spent"]["count"] == 4
    verdicts = [event for event in host.events if isinstance(event, Verdict)]
    assert all(verdict.accepted and verdict.holder == "experiment" for verdict in verdicts)
    moves = [verdict.command for verdict in verdicts if isinstance(verdict.command, c.MoveProbe)]
    assert moves  # the driver's max_step is shorter than the region
    progress = [event for event in host.events if isinstance(event, Progress) and event.target == "plan"]
    assert progress[-1].done == 1.0
    state = host.state()
    assert (state["state"], state["summary"]["spectra_measured"]) == ("finished", 4)
    described = host.ask(control.Describe(), "instrument")
    assert isinstance(described, Description)
    assert described.state["holder"] == ""


def test_describe_says_what_there_is(host: Host) -> None:
    state = host.state()
    assert state["state"] == "idle"
    assert {"explore", "overview", "zoom"} <= set(state["plans"])
    assert {"raster", "random", "hill_climb"} <= set(state["policies"])


def test_two_plans_one_after_the_other(host: Host) -> None:
    for _ in range(2):
        host.events.clear()
        assert isinstance(host.ask(control.Run("overview", {"shape": [8, 8], "dwell_time": 1e-4}, 1)), Accepted)
        assert host.ended().state == "finished"


def test_stop_ends_the_plan_and_nothing_is_done_after_it(host: Host) -> None:
    host.ask(control.Run("explore", LONG, 1))
    host.measured(2)
    reply = host.ask(c.Stop("by the operator"), "instrument")
    assert isinstance(reply, Accepted)
    calls = len(host.driver.calls)
    end = host.ended()
    assert end.state == "stopped"
    assert end.data["spectra_measured"] >= 1
    assert {call.verb for call in host.driver.calls[calls:]} <= {"make_safe"}
    refused = host.ask(control.Run("explore", SMALL, 1))
    assert isinstance(refused, Refused)
    assert "by the operator" in refused.reason


def test_a_lease_taken_by_force_ends_the_plan(host: Host) -> None:
    host.ask(control.Run("explore", LONG, 1))
    host.measured(1)
    assert isinstance(host.ask(control.TakeControl("operator", force=True), "instrument"), Accepted)
    end = host.ended()
    assert end.state == "stopped"
    assert isinstance(host.ask(control.ReleaseControl("operator"), "instrument"), Accepted)


def test_pause_resume_abort(host: Host) -> None:
    host.ask(control.Run("explore", LONG, 1))
    host.measured(1)
    assert isinstance(host.ask(c.Pause()), Accepted)
    assert host.state()["state"] == "paused"
    assert isinstance(host.ask(c.Resume()), Accepted)
    assert isinstance(host.ask(control.Abort("enough")), Accepted)
    end = host.ended()
    assert (end.state, end.reason) == ("aborted", "aborted: enough")
    assert host.ask(c.Pause()) == Refused(
        "no plan runs", "state", "Run, Describe, SetParameters, SetBudget, SetReward"
    )


def test_the_lease_is_kept_for_longer_than_its_timeout(host: Host) -> None:
    """Paused, the plan hands over nothing: only the sign of life keeps the lease (3 s)."""
    host.ask(control.Run("explore", LONG, 1))
    host.measured(1)
    host.ask(c.Pause())
    assert not host.stop.wait(3.6)
    assert host.state()["state"] == "paused"
    described = host.ask(control.Describe(), "instrument")
    assert isinstance(described, Description)
    assert described.state["holder"] == "experiment"
    host.ask(control.Abort())
    assert host.ended().state == "aborted"


def test_a_budget_and_a_point_of_ones_own_while_it_runs(host: Host) -> None:
    host.ask(control.Run("explore", LONG, 1))
    host.measured(1)
    host.ask(c.Pause())
    assert isinstance(host.ask(control.AddPoint((3e-9, 4e-9))), Accepted)
    spent = host.state()["budget"]["spent"]["count"]
    assert isinstance(host.ask(control.SetBudget(count=spent + 3)), Accepted)
    assert isinstance(host.ask(c.Resume()), Accepted)
    end = host.ended()
    assert end.data["budget"]["spent"]["count"] == spent + 3
    places = [e.command.position for e in host.events if isinstance(e, Verdict) and hasattr(e.command, "kind")]
    assert pytest.approx((3e-9, 4e-9), abs=1e-15) in places


def test_approval_through_requests(host: Host) -> None:
    assert isinstance(host.ask(control.SetParameters("experiment", {"approval": True})), Accepted)
    host.ask(control.Run("explore", {**LONG, "count": 2, "batch": 2}, 1))
    waiting = host.until(lambda e: isinstance(e, StateChange) and e.state == "waiting")
    first, second = (each["id"] for each in waiting.data["suggestions"])
    assert host.state()["state"] == "waiting"
    assert isinstance(host.ask(control.Approve((77,))), Refused)
    assert isinstance(host.ask(control.Approve((first,))), Accepted)
    assert [each["id"] for each in host.state()["suggestions"]] == [second]
    assert isinstance(host.ask(control.Veto((second,))), Accepted)
    host.until(lambda e: isinstance(e, StateChange) and e.state == "waiting" and e is not waiting)
    host.ask(control.Abort())
    assert host.ended().data["spectra_measured"] == 1


def test_parameters_of_a_policy_while_it_runs(host: Host) -> None:
    host.ask(control.Run("explore", LONG, 1))
    host.measured(1)
    assert "random" in host.state()["settings"]
    refused = host.ask(control.SetParameters("plan", {"count": -1}))
    assert isinstance(refused, Refused)
    assert "count" in refused.reason
    assert isinstance(host.ask(control.SetParameters("nobody", {})), Refused)
    assert isinstance(host.ask(control.SetParameters("plan", {"batch": 3}, 0)), Accepted)
    assert isinstance(host.ask(control.SetParameters("plan", {"batch": 3}, 0)), Refused)
    host.until(lambda e: isinstance(e, Observed) and e.kind == "change")
    assert host.state()["settings"]["plan"]["batch"] == 3
    host.ask(control.Abort())
    host.ended()


@pytest.mark.parametrize(
    ("plan", "parameters", "words"),
    [
        ("exlpore", {}, "did you mean explore"),
        ("explore", {"count": "many"}, "count"),
        ("explore", {"conut": 1}, "conut"),
        ("random", {}, "is a Policy"),
    ],
)
def test_what_cannot_run_is_refused_in_words(host: Host, plan: str, parameters: dict[str, Any], words: str) -> None:
    reply = host.ask(control.Run(plan, parameters, 1))
    assert isinstance(reply, Refused)
    assert words in f"{reply.reason} {reply.allowed}"
    assert host.state()["state"] == "idle"


def test_the_gates_no_is_the_plans_end_in_words(host: Host) -> None:
    host.ask(control.Run("overview", {"shape": [500, 500], "dwell_time": 1e-4}, 1))
    end = host.ended()
    assert end.state == "failed"
    assert end.reason.startswith("refused: ")


def test_a_run_cut_off_is_taken_up_at_the_start(rig_id: str, tmp_path: Any) -> None:
    """The first process records three steps and is gone; the second goes on with the fourth."""
    import msgspec

    first = Host(rig_id)
    first.ask(control.Run("explore", SMALL, 1))
    first.ended()
    first.close()
    kept: list[control.Event] = []
    for event in first.events:
        kept.append(event)
        if isinstance(event, Observed) and event.step == 6:
            break
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in kept))
    second = Host(rig_id + "b", ExperimentConfig(resume=str(path), repeat=True))
    end = second.ended()
    second.close()

    def commands(events: list[control.Event]) -> list[Any]:
        return [e.command for e in events if isinstance(e, Verdict) and isinstance(e.command, c.AcquireSpectrum)]

    assert end.data["spectra_measured"] == 4
    assert commands(second.events) == commands(first.events)[-len(commands(second.events)) :]
    assert 1 <= len(commands(second.events)) < 4
    assert sum(isinstance(event, Done) for event in second.events) >= 2


SLOW = '''
import time

import numpy as np

from probeloop.api import Policy, Scalarizer


class Slow(Policy):
    """Thinks for longer than a lease lasts without a sign of life, in plain Python."""

    def context_images(self, candidates, shape, images):
        self.candidates, self.shape, self.number = candidates, shape, 0

    def suggest(self, n):
        until = time.monotonic() + (3.4 if self.number == 2 else 0.0)
        while time.monotonic() < until:
            sum(range(1000))
        self.number += 1
        inside = True if self.pinned is None else self.pinned.holds(self.candidates)
        free = np.flatnonzero(np.ones(len(self.candidates), bool) & inside)
        return [tuple(self.candidates[free[self.number % len(free)]].tolist())]

    def maps(self):
        return {"prediction": np.full(self.shape, float(self.number)), "uncertainty": np.zeros(3)}


class Sum(Scalarizer):
    """The sum of a spectrum."""

    units = "counts"

    def scalarize(self, spectrum, spec):
        return float(spectrum.sum()), 1.0, True
'''


@pytest.fixture
def slow_host(rig_id: str, tmp_path: Any) -> Iterator[Host]:
    (tmp_path / "slow_policy.py").write_text(SLOW, encoding="utf-8")
    made = Host(rig_id, ExperimentConfig(scalarizers={"sum": Entry("sum")}, folders=(str(tmp_path),)))
    yield made
    made.close()


def test_a_policy_that_thinks_for_long_keeps_control_and_its_maps_are_a_topic(slow_host: Host) -> None:
    host = slow_host
    person = host.buses["person"]
    reader = Subscriber(person, "inverse.prediction", "lossless")
    values = {"order": "slow", "count": 6, "shape": [8, 8], "dwell_time": 1e-4, "pending": 0}
    assert isinstance(host.ask(control.Run("inverse", values, 1)), Accepted)
    host.until(lambda e: isinstance(e, Observed) and e.kind == "observe")
    asked = time.monotonic()
    assert host.state()["state"] == "running"  # while it thinks, requests are answered
    assert time.monotonic() - asked < 1.0
    end = host.ended()
    assert (end.state, end.data["spectra_measured"]) == ("finished", 6), end.reason
    shown: list[float] = []
    for _ in range(100):
        for block in reader.drain():
            assert (block.spec.kind, block.spec.units, block.data.shape) == ("image", "counts", (1, 8, 8))
            assert block.generation == end.data["overview_generation"]
            shown.append(float(block.data[0, 0, 0]))
        if len(shown) >= 6:
            break
        host.stop.wait(0.05)
    assert shown == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    reader.close()
    told = [e.text for e in host.events if isinstance(e, control.Remark) and e.level == "warning"]
    assert told == [
        "inverse: the policy's map 'uncertainty' has the shape (3,), the overview (8, 8); it is not shown, "
        "the run goes on"
    ]
    assert "inverse.prediction" in {row.name for row in person.ledger.rows(TOPIC)}


def test_a_region_is_pinned_through_a_request(slow_host: Host) -> None:
    host = slow_host
    region = {"centre_x": 0.0, "centre_y": 0.0, "width": 1e-9, "height": 1e-9, "rotation": 0.0}
    host.ask(control.Run("inverse", {"order": "slow", "count": 2, "shape": [8, 8], "dwell_time": 1e-4}, 1))
    refused = host.ask(control.SetParameters("plan", {"pinned": region | {"width": -1.0}}))
    assert isinstance(refused, Refused)
    assert "width" in refused.reason
    assert isinstance(host.ask(control.SetParameters("plan", {"pinned": region})), Accepted)
    host.until(lambda e: isinstance(e, Observed) and e.kind == "change")
    assert host.state()["settings"]["plan"]["pinned"] == region
    host.ended()

"""Who may do what from another host, under which name, until when; and what is rewritten on the way."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from probeloop.bus.relay.admit import admit, holder_of, is_stop, stop_of
from probeloop.bus.relay.clock import Offset
from probeloop.bus.relay.translate import Translator
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.control import Accepted, Refused, Request, Submit, Trace
from probeloop.instrument.requests import is_operator

CLOCK = Offset(1_000_000_000, 2_000_000)  # the reader's clock is 1 s ahead, ± 2 ms
NOW = 50_000_000_000
SOON = NOW + 1_000_000_000 + 500_000_000  # on the reader's clock
MOVE = c.MoveProbe((1e-9, 0.0))
EXAMPLES: dict[str, Any] = {
    "SetParameters": control.SetParameters("haadf", {}),
    "Enable": control.Enable("a"),
    "Disable": control.Disable("a"),
    "Reload": control.Reload("a"),
    "Run": control.Run("overview"),
    "SetReward": control.SetReward({}),
    "Approve": control.Approve((1,)),
    "Veto": control.Veto((1,)),
    "AddPoint": control.AddPoint((0.0, 0.0)),
    "Note": control.Note("x"),
    "TakeControl": control.TakeControl("operator-7", True),
    "ReleaseControl": control.ReleaseControl("operator-7"),
    "Heartbeat": control.Heartbeat("operator-7", 3),
    "Rearm": control.Rearm("operator-7"),
    "Submit": Submit(MOVE, "operator-7", 3),
}
KINDS = {kind.__name__: kind for kind in get_args(Request)}


def example(name: str) -> Any:
    return EXAMPLES.get(name) or KINDS[name]()


def ask(request: Any, role: Any = "operator", **fields: Any) -> Any:
    given = {"clock": CLOCK, "not_after": SOON, "now_ns": NOW, **fields}
    return admit(request, role, holder_of(role, "anna", 1), **given)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"Stop"}))
def test_a_viewer_may_describe_and_nothing_else(name: str) -> None:
    got = ask(example(name), "viewer")
    if name == "Describe":
        assert got == control.Describe()
    else:
        assert isinstance(got, Refused)
        assert got.limit == "role"
        assert "'viewer:anna'" in got.reason


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"Stop"}))
def test_an_operator_may_do_all_but_end_the_rig(name: str) -> None:
    got = ask(example(name))
    assert isinstance(got, Refused) == (name == "Shutdown")


@pytest.mark.parametrize("claimed", ["operator", "gui-1", "experiment", "viewer:anna", "", "operator:boss", "cli"])
@pytest.mark.parametrize("name", ["Submit", "TakeControl", "ReleaseControl", "Heartbeat", "Rearm"])
def test_the_name_comes_from_the_key_whatever_the_message_says(name: str, claimed: str) -> None:
    request = msgspec.structs.replace(example(name), holder=claimed)
    assert ask(request).holder == "operator:anna"


def test_every_request_that_names_somebody_is_rewritten() -> None:
    named = {name for name, kind in KINDS.items() if "holder" in kind.__struct_fields__}
    assert named == {"Submit", "TakeControl", "ReleaseControl", "Heartbeat", "Rearm"}


def test_the_gate_knows_operators_by_the_name_that_the_role_gives() -> None:
    for number in (1, 2):
        assert is_operator(holder_of("operator", "anna", number))
        for name in ("anna", "operator", "gui", "cli-1", "operator-1"):
            assert not is_operator(holder_of("viewer", name, number))
    assert holder_of("operator", "anna", 1) != holder_of("operator", "anna", 2)


def test_stop_is_stop_in_either_form() -> None:
    for request in (c.Stop("now"), Submit(c.Stop("now"), "x", 0)):
        assert is_stop(request)
        assert stop_of(request, "viewer:hall") == c.Stop("now (viewer:hall)")
    assert not is_stop(Submit(MOVE, "x", 0))


@pytest.mark.parametrize("late_ns", [-(10**9), -1, 0, 1, 10**9])
def test_a_command_is_late_beyond_the_error_and_not_before(late_ns: int) -> None:
    limit = CLOCK.to_remote(NOW) - CLOCK.error_ns  # the last moment that may still not be over
    got = ask(Submit(MOVE, "x", 3), not_after=limit - late_ns)
    if late_ns > 0:
        assert isinstance(got, Refused)
        assert got.limit == "not_after"
    else:
        assert isinstance(got, Submit)


def test_before_the_clocks_are_compared_nothing_is_commanded() -> None:
    assert isinstance(ask(Submit(MOVE, "x", 3), clock=None), Refused)
    assert isinstance(ask(control.TakeControl("x"), clock=None), Refused)
    assert ask(control.Describe(), clock=None) == control.Describe()


def test_a_deadline_is_turned_to_this_hosts_clock() -> None:
    bare = ask(Submit(MOVE, "x", 3))
    assert bare.not_after == SOON - 1_000_000_000 + 2_000_000  # never without one
    sooner = ask(Submit(MOVE, "x", 3, not_after=SOON - 400_000_000))
    assert sooner.not_after == bare.not_after - 400_000_000
    later = ask(Submit(MOVE, "x", 3, not_after=SOON + 10**12))
    assert later.not_after == bare.not_after
    past = ask(Submit(MOVE, "x", 3, not_after=1))
    assert past.not_after == 1  # still a deadline, and long over: the gate refuses


def test_stamps_are_turned_to_this_hosts_clock() -> None:
    got = ask(Submit(MOVE, "x", 3, trace=Trace(exposed=NOW + 1_000_000_000, decided=0)))
    assert got.trace == Trace(exposed=NOW)


@pytest.mark.parametrize("stamp", [2**63 - 1, -(2**63), 2**62 + 1])
def test_stamps_beyond_any_clock_are_refused(stamp: int) -> None:
    for submit in (Submit(MOVE, "x", 3, trace=Trace(exposed=stamp)), Submit(MOVE, "x", 3, not_after=stamp)):
        assert isinstance(ask(submit), Refused)


# the other end


@pytest.fixture
def there() -> Translator:
    made = Translator()
    made.remote_holder = "operator:anna"
    made.bases = {"camera": 100}
    return made


def test_one_process_of_this_host_holds_control_at_a_time(there: Translator) -> None:
    take = control.TakeControl("operator-7")
    assert there.request(take) == take
    assert isinstance(there.request(Submit(MOVE, "operator-7", 3)), Refused)  # not yet
    there.reply(take, Accepted(epoch=4))
    assert there.request(control.Heartbeat("operator-7", 4)) == control.Heartbeat("operator-7", 4)
    for request in (control.Heartbeat("other", 4), control.ReleaseControl("other"), Submit(MOVE, "other", 4)):
        assert isinstance(there.request(request), Refused)
    assert isinstance(there.request(control.TakeControl("other")), Refused)
    forced = control.TakeControl("other", force=True)
    assert there.request(forced) == forced
    there.reply(forced, Accepted(epoch=4))
    assert isinstance(there.request(Submit(MOVE, "operator-7", 4)), Refused)
    there.reply(control.ReleaseControl("other"), Accepted(epoch=5))
    assert isinstance(there.request(Submit(MOVE, "other", 5)), Refused)


@pytest.mark.parametrize("command", [c.Stop(), c.Read(("beam_current",)), c.Annotate("x")])
def test_what_anybody_may_do_needs_no_control(there: Translator, command: c.Command) -> None:
    assert isinstance(there.request(Submit(command, "whoever", 0)), Submit)


def test_control_that_is_lost_there_is_lost_here(there: Translator) -> None:
    there.reply(control.TakeControl("operator-7"), Accepted(epoch=4))
    old = control.StateChange(target="lease", state="free", data={"holder": "", "epoch": 3})
    there.event(old, None)  # of before it was taken, and late
    assert there.local_holder == "operator-7"
    there.event(control.StateChange(target="gate", state="tripped", data={"holder": "", "epoch": 5}), None)
    assert there.local_holder == ""


def test_the_holder_has_its_name_of_this_host(there: Translator) -> None:
    there.reply(control.TakeControl("operator-7"), Accepted(epoch=4))
    lease = control.StateChange(target="lease", state="held", data={"holder": "operator:anna", "epoch": 4})
    assert there.event(lease, None).data["holder"] == "operator-7"  # type: ignore[union-attr]
    said = control.Description("instrument", "instrument", {"holder": "operator:anna"})
    assert there.reply(control.Describe(), said).state["holder"] == "operator-7"  # type: ignore[union-attr]
    other = control.Description("instrument", "instrument", {"holder": "experiment"})
    assert there.reply(control.Describe(), other) == other


def test_indices_and_stamps_are_those_of_this_host(there: Translator) -> None:
    assert there.request(Submit(c.Annotate("x"), "a", 1, cause=(("camera", 105), ("other", 5)))).cause == (  # type: ignore[union-attr]
        ("camera", 5), ("other", 5),
    )  # fmt: skip
    result = control.Result(
        topic="camera", first_index=5, first_valid_index=-1, trace=Trace(exposed=CLOCK.offset_ns + 9)
    )
    done: Any = there.event(control.Done(id=1, result=result, time_ns=CLOCK.offset_ns + 20), CLOCK)
    assert (done.time_ns, done.result.first_index, done.result.first_valid_index) == (20, 105, -1)
    assert done.result.trace == Trace(exposed=9)
    gap: Any = there.event(control.Gap(topic="camera", first=7, count=1, reason=""), None)
    assert gap.first == 107
    revision: Any = there.event(
        control.Revision(target="a", topic="camera", revision=1, first_index=3, values={}), None
    )
    assert revision.first_index == 103

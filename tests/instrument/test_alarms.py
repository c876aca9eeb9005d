"""The core of the alarms: a table of what trips and what does not, and properties over any order and delay.

With any one cause taken away the state machine at the end finds a sensor that was bad for too long.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from probeloop.data import commands as c
from probeloop.data.driver import VERBS
from probeloop.data.limits import Alarm, Limits
from probeloop.instrument.alarms import CAUSES, Alarms, Reading, Watch, conditions, look
from probeloop.instrument.gate import FEEDBACK, GateState
from probeloop.testing.fake_driver import FAKE_LIMITS, FakeDriver
from probeloop.testing.fake_sensors import FAKE_ALARMS
from probeloop.testing.local_instrument import LocalInstrument

MS = 1_000_000
TICK = 50 * MS
TIP = Alarm(low=-1e-8, high=1e-8, units="A", hold=0.2, stuck_after=0.5, missing_after=0.3)
ABSENT = "absent"


def replay(alarm: Alarm, values: list[Any], judged: list[bool] | None = None) -> str:
    """Read one value every 50 ms and look at it; None = no new reading. Return the first reason, with its tick."""
    watch, reading, reasons = Watch(0, 0, 0), None, []
    for tick, value in enumerate(values):
        now = tick * TICK
        if value is not None:
            reading = Reading({} if value == ABSENT else {"tip": value}, now)
        watch, reason = look("tip", alarm, watch, reading, judged[tick] if judged else True, now)
        reasons += [f"{tick}: {reason}"] if reason else []
    return reasons[0] if reasons else ""


def living(count: int) -> list[Any]:
    return [1e-9 + 1e-12 * i for i in range(count)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (living(40), ""),
        ([*living(5), *[2.1e-8 + 1e-12 * i for i in range(4)], *living(5)], ""),  # shorter than hold
        ([*living(5), *[2.1e-8] * 5], "9: alarm tip: 21 nA is above 10 nA"),
        ([*living(5), *[-2.1e-8] * 5], "9: alarm tip: -21 nA is below -10 nA"),
        ([*living(5), 2e-8, -2e-8, 2e-8, -2e-8, 2e-8], "9: alarm tip: 20 nA is above 10 nA"),
        ([*living(5), math.inf, math.inf, math.inf, math.inf, math.inf], "9: alarm tip: inf A is above 10 nA"),
        ([*living(5), 2e-8, *[ABSENT] * 4], "9: alarm tip: 20 nA is above 10 nA"),  # the last word was bad
        ([*living(5), *[ABSENT] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),
        ([*living(5), *[math.nan] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),
        ([*living(5), *["high"] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),
        ([*living(5), *[10**400] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),
        ([*living(5), *[True] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),
        ([*living(5), *[None] * 7], "11: alarm tip: no value for 0.35 s, allowed are 0.3 s"),  # the driver hangs
        ([*living(5), *[math.nan] * 5, *living(5)], ""),
        ([None], "0: alarm tip: no value yet"),
        ([*living(5), *[3e-9] * 11], "15: alarm tip: stuck at 3 nA for 0.5 s"),
        ([*living(5), *[3e-9] * 10, *living(5)], ""),
    ],
)  # fmt: skip
def test_what_trips_and_after_how_long(values: list[Any], reason: str) -> None:
    assert replay(TIP, values) == reason


def test_nothing_is_judged_in_another_state() -> None:
    values = [2e-8] * 20
    assert replay(TIP, values, [False] * 20) == ""
    # time out of bounds, and time stood still, count from when it is judged; a dead sensor is known to be dead
    assert replay(TIP, values, [*[False] * 10, *[True] * 10]).startswith("14: alarm tip: 20 nA is above")
    assert replay(TIP, values, [*[True] * 3, False, *[True] * 4, *[False] * 12]) == ""  # each time anew
    still = Alarm(low=TIP.low, high=TIP.high, units="A", stuck_after=0.4)
    assert replay(still, [3e-9] * 20, [*[False] * 10, *[True] * 10]).startswith("18: alarm tip: stuck")
    assert replay(TIP, [1e-9, *[ABSENT] * 19], [*[False] * 10, *[True] * 10]).startswith("10: alarm tip: no value")


def test_what_a_sensor_read_in_another_state_is_not_held_against_it() -> None:
    """A tip that is withdrawn has its z at the rail; engaged, the next reading counts."""
    alarm = Alarm(low=-1.0, high=1.0)
    watch, _ = look("z", alarm, Watch(0, 0, 0), Reading({"z": 5.0}, 0), False, 0)
    watch, reason = look("z", alarm, watch, Reading({"z": 5.0}, 0), True, 20 * MS)
    assert reason == ""
    assert look("z", alarm, watch, Reading({"z": 0.5}, 40 * MS), True, 50 * MS)[1] == ""
    assert look("z", alarm, watch, Reading({"z": 5.0}, 40 * MS), True, 50 * MS)[1]


def test_an_older_reading_that_comes_late_says_nothing() -> None:
    watch, _ = look("tip", TIP, Watch(0, 0, 0), Reading({"tip": 2e-8}, 100 * MS), True, 100 * MS)
    watch, _ = look("tip", TIP, watch, Reading({"tip": 1e-9}, 50 * MS), True, 150 * MS)
    assert look("tip", TIP, watch, None, True, 300 * MS)[1]
    ahead, _ = look("tip", TIP, watch, Reading({"tip": 1e-9}, 10**15), True, 150 * MS)
    assert ahead.valid_ns == 150 * MS  # nobody reads the future


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


@given(st.lists(anything, min_size=1, max_size=8))
def test_whatever_a_driver_gives_is_judged_and_never_raises(values: list[Any]) -> None:
    watch = Watch(0, 0, 0)
    for tick, value in enumerate(values):
        watch, _ = look("tip", TIP, watch, Reading({"tip": value}, tick * TICK), True, tick * TICK)
    assert look("tip", TIP, watch, None, True, 10**12)[1]


def test_bounds_that_are_no_numbers_trip() -> None:
    for broken in (Alarm(high=math.nan), Alarm(low=math.nan)):
        assert replay(broken, living(3))
        assert broken.problems()


def test_an_open_side_is_no_bound() -> None:
    assert replay(Alarm(high=1e-8, units="A"), [-1e9, -1e20]) == ""
    assert replay(Alarm(), [-1e29, 1e29]) == ""


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_the_states_that_an_alarm_may_name(feedback: Any) -> None:
    assert conditions(GateState(feedback=feedback), False) == {feedback}
    assert conditions(GateState(feedback=feedback, blanked=False), True) == {feedback, "beam_on", "scanning"}


def test_a_board_names_what_stands_and_says_it_as_plain_data() -> None:
    board = Alarms({"tip": TIP, "z": Alarm(low=0.0, units="m", when=("engaged",))}, 0)
    board.sensed = Reading({"tip": 2e-8, "z": -1.0}, 0)
    own = Reading({}, 0)
    assert board.look(own, frozenset(), 0) == ""
    assert board.standing(0) == {"tip": "20 nA is above 10 nA"}  # hold is for what is not yet known to be a fault
    assert board.look(own, frozenset({"engaged"}), 0) == "alarm z: -1 m is below 0 m"
    told = board.described(0)
    assert (told["z"]["value"], told["z"]["units"], told["z"]["low"], told["z"]["high"]) == (-1.0, "m", 0.0, None)
    assert (told["z"]["judged"], told["z"]["stands"]) == (True, "-1 m is below 0 m")
    assert board.look(own, frozenset({"engaged"}), 200 * MS).startswith("alarm tip: 20 nA is above 10 nA; alarm z")


# --- any order, any delay ---------------------------------------------------------------------------------------

PERIOD, DELAY, EVERY = 80, 120, 60  # [ms] at most between two readings, until one arrives, between two looks
BAD: dict[str, tuple[Any, float]] = {  # what a broken sensor reads, and how long that may last [ms]
    "above": (2e-8, 1e3 * TIP.hold),
    "below": (-2e-8, 1e3 * TIP.hold),
    "absent": (ABSENT, 1e3 * TIP.missing_after),
    "nan": (math.nan, 1e3 * TIP.missing_after),
    "silent": (None, 1e3 * TIP.missing_after),
    "stuck": (5e-9, 1e3 * TIP.stuck_after),
}
waits = st.lists(st.integers(5, PERIOD), min_size=60, max_size=60)
delays = st.lists(st.integers(0, DELAY), min_size=60, max_size=60)
looks = st.lists(st.tuples(st.integers(5, EVERY), st.booleans()), min_size=90, max_size=90)


def trip_time(
    bad: Any, since: int, waits: list[int], delays: list[int], looks: list[tuple[int, bool]], judged_from: int
) -> int | None:
    """Return when it trips [ms]; readings come late and pass each other. bad: what it reads from `since` on."""
    arrivals, at = [], 0
    for i, (wait, delay) in enumerate(zip(waits, delays, strict=True)):
        value = bad if at >= since else 1e-9 + 1e-12 * i
        if value is not None:
            arrivals.append((at + delay, Reading({} if value == ABSENT else {"tip": value}, at * MS)))
        at += wait
    end, now = at, 0
    watch, here = Watch(0, 0, 0), 0
    arrivals.sort(key=lambda each: each[0])
    reading = Reading({"tip": 0.0}, 0)
    for wait, judged in looks:
        now += wait
        if now > end:
            return None
        while here < len(arrivals) and arrivals[here][0] <= now:
            reading, here = arrivals[here][1], here + 1
        watch, reason = look("tip", TIP, watch, reading, judged or now >= judged_from, now * MS)
        if reason:
            return now
    return None


@pytest.mark.parametrize("cause", list(BAD))
@given(waits=waits, delays=delays, looks=looks, since=st.integers(0, 400), judged_from=st.integers(0, 400))
def test_a_sensor_that_stays_bad_trips_within_its_time_and_one_period(
    cause: str, waits: list[int], delays: list[int], looks: list[tuple[int, bool]], since: int, judged_from: int
) -> None:
    bad, allowed = BAD[cause]
    looks = [*looks, *[(EVERY, True)] * 60]
    waits, delays = [*waits, *[PERIOD] * 30], [*delays, *[DELAY] * 30]
    tripped = trip_time(bad, since, waits, delays, looks, judged_from)
    # until a reading that was made in that state is there; stuck takes two of them
    period = PERIOD + DELAY + 2 * EVERY + (PERIOD if cause == "stuck" else 0)
    assert tripped is not None
    assert tripped <= max(since, judged_from) + allowed + period
    assert tripped >= since  # and never before, however late its good readings came


@given(waits=waits, delays=delays, looks=looks)
def test_a_good_living_sensor_never_trips(waits: list[int], delays: list[int], looks: list[tuple[int, bool]]) -> None:
    assert trip_time(0.0, 10**9, waits, delays, looks, 0) is None


# --- any sequence, at the driver --------------------------------------------------------------------------------

LIMITS = Limits(
    **{name: getattr(FAKE_LIMITS, name) for name in FAKE_LIMITS.__struct_fields__} | {"alarms": FAKE_ALARMS}
)
NEVER_PARKED = tuple(name for name in VERBS if name != "Blank")
JUDGED = {
    "tip_current": lambda now: now["feedback"] in ("approaching", "engaged", "held"),
    "deflection": lambda now: True,
    "z": lambda now: now["feedback"] == "engaged",
    "beam_monitor": lambda now: not now["blanked"],
}
GO = (c.Approach(), c.SetFeedback("hold"), c.SetFeedback("on"), c.Withdraw(), c.Unblank())
DT = 0.05
SURE = 2.5 * DT  # a trip may be this much early or late


class AlarmMachine(RuleBasedStateMachine):
    """Sensors break and mend in any order while the instrument goes from state to state; the oracle counts ticks."""

    without: ClassVar[str] = ""
    ways: ClassVar[tuple[str, ...]] = ("good", "high", "low", "stuck", "missing", "nan")
    tripped: ClassVar[set[str]] = set()

    @initialize()
    def start(self) -> None:
        self.driver = FakeDriver(modality="stm", commands=NEVER_PARKED, limits=LIMITS)
        causes = {name: cause for name, cause in CAUSES.items() if name != self.without}
        self.rig = LocalInstrument(self.driver, causes=causes)
        self.rig.take()
        self.wrong: list[str] = []
        self.forget()

    def forget(self) -> None:
        self.out = dict.fromkeys(FAKE_ALARMS, 0.0)  # [s] for which each was seen bad in this way
        self.lacks = dict.fromkeys(FAKE_ALARMS, 0.0)
        self.still = dict.fromkeys(FAKE_ALARMS, 0.0)
        self.last_out = dict.fromkeys(FAKE_ALARMS, False)

    def count(self) -> None:
        for name in FAKE_ALARMS:
            way = self.driver.sensors.ways.get(name, "good") if self.rig.answers else "hang"
            silent = way in ("hang", "missing", "nan")
            self.last_out[name] = self.last_out[name] if silent else way in ("high", "low")
            judged = JUDGED[name](self.driver.values)
            self.out[name] = self.out[name] + DT if judged and self.last_out[name] else 0.0
            self.lacks[name] = self.lacks[name] + DT if silent else 0.0
            frozen = judged and way in ("stuck", "high", "low")
            self.still[name] = self.still[name] + DT if frozen or (silent and self.still[name]) else 0.0

    def excuse(self, slack: float) -> list[str]:
        """Return the sensors that were bad for their time and `slack` more."""
        found = []
        for name, alarm in FAKE_ALARMS.items():
            bad = self.out[name] > alarm.hold + slack or self.lacks[name] > alarm.missing_after + slack
            bad = bad or bool(alarm.stuck_after and self.still[name] > alarm.stuck_after + slack)
            found += [name] if bad and JUDGED[name](self.driver.values) else []
        return found

    @rule(ticks=st.integers(1, 30))
    def wait(self, ticks: int) -> None:
        for _ in range(ticks):
            if self.rig.desk.state.fault:
                return
            self.rig.beat()
            self.count()
            must, may = self.excuse(SURE), self.excuse(-SURE)
            self.rig.advance(DT)
            fault = self.rig.desk.state.fault
            self.tripped |= {name for name in FAKE_ALARMS if f"alarm {name}: " in fault}
            if must and not fault:
                self.wrong.append(f"{must} bad for too long, and no trip")
            if fault and not any(f"alarm {name}: " in fault for name in may):
                self.wrong.append(f"tripped for {fault}; bad were {may or 'none'}")

    @rule(name=st.sampled_from(list(FAKE_ALARMS)), number=st.integers(0, 100), ticks=st.integers(0, 25))
    def breaks(self, name: str, number: int, ticks: int) -> None:
        self.rearm()
        self.driver.sensors.ways[name] = self.ways[number % len(self.ways)]  # type: ignore[assignment]
        self.wait(ticks)

    @rule(ticks=st.integers(0, 15), mended=st.booleans())
    def hangs(self, ticks: int, mended: bool) -> None:
        self.rig.answers = "missing" not in self.ways
        self.wait(ticks)
        self.rig.answers = mended

    @rule()
    def mend(self) -> None:
        self.driver.sensors.ways.clear()
        self.rig.answers = True

    @rule(what=st.lists(st.sampled_from(GO), min_size=1, max_size=4), ticks=st.integers(0, 5))
    def go(self, what: list[Any], ticks: int) -> None:
        self.rearm()
        for each in what:
            self.rig.do(each)
        self.wait(ticks)

    def rearm(self) -> None:
        if self.rig.desk.state.fault:
            self.mend()
            self.rig.clock.advance(DT)
            self.rig.sense()
            self.rig.rearm()
            self.rig.take()
            self.forget()

    @invariant()
    def nothing_wrong_and_safe_when_tripped(self) -> None:
        if hasattr(self, "wrong"):
            assert not self.wrong, self.wrong
            if self.rig.desk.state.fault:
                assert self.driver.values["blanked"]
                assert self.driver.values["feedback"] == "withdrawn"


def budget(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck), print_blob=False,
    )  # fmt: skip


def test_no_sequence_lets_a_bad_sensor_go_on_or_trips_for_a_good_one() -> None:
    run_state_machine_as_test(AlarmMachine, settings=budget(60, 30))
    assert AlarmMachine.tripped == set(FAKE_ALARMS)  # each was put to the test


MUTATIONS = {"above": ("high",), "below": ("low",), "missing": ("missing", "nan"), "stuck": ("stuck",)}


def test_every_cause_has_its_mutation() -> None:
    assert set(MUTATIONS) == set(CAUSES)


@pytest.mark.parametrize("cause", list(MUTATIONS))
def test_without_a_cause_the_property_fails(cause: str) -> None:
    mutant = type("Mutant", (AlarmMachine,), {"without": cause, "ways": MUTATIONS[cause]})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(mutant, settings=budget(100, 30))

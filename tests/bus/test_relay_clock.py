"""The clocks of two hosts, and how much may be under way, with made-up time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.bus.relay.clock import DRIFT, WINDOW_NS, ClockOffset, Offset
from probeloop.bus.relay.pace import MOST, Pace
from probeloop.data.clock import ManualClock
from probeloop.data.errors import WireError

MS = 1_000_000
delays = st.integers(1, 200 * MS)


def trip(clocks: ClockOffset, here: ManualClock, ahead: int, out: int, stay: int, back: int) -> bool:
    """One round trip over a link with these one-way delays; the other clock is `ahead`."""
    sent = here.now_ns()
    here.advance(out / 1e9)
    received = here.now_ns() + ahead
    here.advance(stay / 1e9)
    replied = here.now_ns() + ahead
    here.advance(back / 1e9)
    return clocks.add(sent, received, replied, here.now_ns())


@given(ahead=st.integers(-(2**55), 2**55), trips=st.lists(st.tuples(delays, delays, delays), min_size=1, max_size=20))
def test_the_truth_is_always_within_the_error(ahead: int, trips: list[tuple[int, int, int]]) -> None:
    clocks, here = ClockOffset(), ManualClock(10**15)
    for out, stay, back in trips:
        assert trip(clocks, here, ahead, out, stay, back)
    found = clocks.estimate(here.now_ns())
    assert found is not None
    assert abs(found.offset_ns - ahead) <= found.error_ns
    least = min(out + back for out, _, back in trips)
    assert found.error_ns <= least // 2 + 2 + WINDOW_NS * DRIFT


def test_the_shortest_recent_trip_counts() -> None:
    clocks, here = ClockOffset(), ManualClock(10**12)
    assert clocks.estimate(here.now_ns()) is None
    trip(clocks, here, 7_000, 40 * MS, 0, 10 * MS)
    assert clocks.estimate(here.now_ns()) == Offset(7_000 + 15 * MS, 25 * MS + 1)
    trip(clocks, here, 7_000, MS, 5 * MS, MS)
    assert clocks.estimate(here.now_ns()) == Offset(7_000, MS + 1)
    here.advance(10)
    worse = clocks.estimate(here.now_ns())
    assert worse is not None
    assert worse.error_ns == MS + 1 + 500_000  # 10 s at 50 ppm
    here.advance(60)
    assert clocks.estimate(here.now_ns()) is None


def test_a_clock_that_jumped_is_believed_at_once() -> None:
    clocks, here = ClockOffset(), ManualClock(10**12)
    for _ in range(5):
        trip(clocks, here, 0, MS, 0, MS)
    trip(clocks, here, 3_600_000 * MS, 5 * MS, 0, 5 * MS)  # that host slept for an hour
    found = clocks.estimate(here.now_ns())
    assert found is not None
    assert abs(found.offset_ns - 3_600_000 * MS) <= found.error_ns == 5 * MS + 1


def test_stamps_that_can_not_be_are_no_trip() -> None:
    clocks = ClockOffset()
    assert not clocks.add(100, 50, 40, 200)  # replied before it was received
    assert not clocks.add(100, 0, 500, 200)  # stayed longer than it was away
    assert clocks.estimate(200) is None


def test_no_stamp_stays_no_stamp() -> None:
    offset = Offset(1000, 5)
    assert (offset.to_local(0), offset.to_remote(0)) == (0, 0)
    assert offset.to_local(offset.to_remote(123_456)) == 123_456


class Wire:
    """A link of `rate` bytes a second with one queue, and a base delay."""

    def __init__(self, rate: float, delay_s: float) -> None:
        self.rate, self.delay = rate, delay_s
        self.free = 0.0
        self.arrivals: list[tuple[float, int]] = []

    def send(self, now: float, total: int, size: int) -> None:
        self.free = max(now, self.free) + size / self.rate
        self.arrivals.append((self.free + self.delay, total))


def played(
    rate: float, delay_s: float, size: int, seconds: float, first_s: float | None = None
) -> tuple[float, float, int]:
    """Send as fast as the pace lets; return (bytes/s in the second half, worst wait there [s], most under way).

    first_s: the delay until a quarter of the time is over.
    """
    pace, wire, now, total, got = Pace(), Wire(rate, delay_s), 0.0, 0, 0
    waits, bytes_late, most = [], 0, 0
    while now < seconds:
        wire.delay = delay_s if first_s is None or now > seconds / 4 else first_s
        while wire.arrivals and wire.arrivals[0][0] <= now:
            _, got = wire.arrivals.pop(0)
            pace.got(got, round(now * 1e9) + 1)
            if now > seconds / 2:
                bytes_late += size
        while pace.room:
            total += size
            pace.sent(size, round(now * 1e9) + 1)
            wire.send(now, total, size)
            if now > seconds / 2:
                waits.append(wire.arrivals[-1][0] - now)
                most = max(most, pace.under_way)
        now = min(wire.arrivals[0][0] if wire.arrivals else now + 0.001, now + 0.005)
    return bytes_late / (seconds / 2), max(waits), most


@pytest.mark.parametrize(
    ("rate", "delay_s"), [(1e6, 0.04), (20e6, 0.02), (100e6, 0.001), (3e6, 0.2)], ids=["slow", "dsl", "lan", "far"]
)
def test_a_link_is_filled_and_its_queue_stays_short(rate: float, delay_s: float) -> None:
    size = 16 << 10
    speed, wait, most = played(rate, delay_s, size, 20.0)
    assert speed > 0.8 * rate
    assert wait < 2.2 * delay_s + 0.1 + 2 * size / rate
    assert most <= MOST


@pytest.mark.parametrize("size", [500, 16 << 10])
def test_a_link_that_became_longer_is_filled_again_soon(size: int) -> None:
    speed, wait, _ = played(2e6, 0.06, size, 12.0, first_s=0.0005)
    assert speed > 0.8 * 2e6
    assert wait < 2.2 * 0.06 + 0.1 + 2 * size / 2e6


def test_two_messages_may_always_be_under_way() -> None:
    pace, now, late = Pace(), 1, 10**7
    for number in range(1, 60):  # each a hundredth of a second later than the one before
        pace.sent(8 << 20, now)
        now, late = now + late, late + 10**7
        pace.got(number * (8 << 20), now)
    assert pace.window < 8 << 20
    assert pace.room
    pace.sent(8 << 20, 10**12)
    assert pace.room
    pace.sent(8 << 20, 10**12)
    assert not pace.room


def test_a_receipt_that_can_not_be_true_is_refused() -> None:
    pace = Pace()
    pace.sent(100, 1)
    pace.got(60, 2)
    for lie in (59, 101, 2**60):
        with pytest.raises(WireError, match="a receipt for"):
            pace.got(lie, 3)
    assert pace.under_way == 40


def test_the_window_is_bounded_whatever_happens() -> None:
    pace, chance, now = Pace(), random.Random(1), 1
    sent = got = 0
    for _ in range(5000):
        now += chance.randrange(1, 50 * MS)
        if pace.room:
            assert pace.under_way < max(pace.window, 2 << 20)
            size = chance.randrange(1, 1 << 20)
            sent += size
            pace.sent(size, now)
        else:
            got = chance.randint(got, sent)
            pace.got(got, now)
        assert 1 <= pace.window <= MOST
        assert pace.under_way <= MOST + (1 << 20)

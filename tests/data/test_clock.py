"""Clocks: time that stands still, time at a pace, time that is the host's."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from probeloop.data.clock import Clock, ManualClock, MonotonicClock, VirtualClock

SECOND = 1_000_000_000


class StepClock:
    """A host whose wait returns at once, at the time that was asked for; remembers what it was asked."""

    def __init__(self) -> None:
        self.now, self.asked = 1000, list[int]()

    def now_ns(self) -> int:
        return self.now

    def wait_until(self, time_ns: int, cancelled: threading.Event | None = None) -> bool:
        self.asked.append(time_ns)
        self.now = max(self.now, time_ns)
        return cancelled is None or not cancelled.is_set()


def in_thread(call: Callable[[], bool]) -> tuple[threading.Thread, list[bool]]:
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    return thread, answers


def test_manual_time_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(5)
    assert clock.now_ns() == 5
    clock.advance(2.5)
    assert clock.now_ns() == 5 + 2_500_000_000
    assert clock.wait_until(clock.now_ns())


def test_a_waiter_wakes_when_its_time_has_come() -> None:
    clock = ManualClock()
    thread, answers = in_thread(lambda: clock.wait_until(SECOND))
    clock.advance(0.5)
    thread.join(0.1)
    assert thread.is_alive()
    clock.advance(0.5)
    thread.join(5)
    assert answers == [True]


@pytest.mark.parametrize("clock", [ManualClock(), MonotonicClock(), VirtualClock(1.0, ManualClock())], ids=type)
def test_every_wait_can_be_cancelled(clock: Clock) -> None:
    cancelled = threading.Event()
    thread, answers = in_thread(lambda: clock.wait_until(clock.now_ns() + 3600 * SECOND, cancelled))
    cancelled.set()
    thread.join(5)
    assert answers == [False]


def test_the_hosts_clock_does_not_wait_for_the_past() -> None:
    clock = MonotonicClock()
    before = clock.now_ns()
    assert clock.wait_until(before - SECOND)
    assert clock.now_ns() >= before


@pytest.mark.parametrize(("pace", "host_seconds"), [(1.0, 3.0), (2.0, 1.5), (0.5, 6.0)])
def test_virtual_time_keeps_its_pace(pace: float, host_seconds: float) -> None:
    host = StepClock()
    clock = VirtualClock(pace, host)
    for _ in range(3):
        assert clock.spend(1.0)
    assert clock.now_ns() == 3 * SECOND
    assert host.now - 1000 == pytest.approx(host_seconds * SECOND)


def test_without_a_pace_nothing_waits() -> None:
    host = StepClock()
    clock = VirtualClock(None, host)
    clock.spend(3600.0)
    assert clock.now_ns() == 3600 * SECOND
    assert host.asked == []


def test_a_slow_host_is_caught_up_with_and_errors_do_not_add_up() -> None:
    host = StepClock()
    clock = VirtualClock(1.0, host)
    clock.spend(1.0)
    host.now += 2 * SECOND  # the host was busy
    clock.spend(1.0)
    assert host.now == 1000 + 3 * SECOND  # no wait
    clock.spend(2.0)
    assert host.now == 1000 + 4 * SECOND  # in step again
    for _ in range(3000):
        clock.spend(1e-3 / 3)
    assert abs(clock.now_ns() - 5 * SECOND) <= 3000
    assert abs(host.now - 1000 - clock.now_ns()) <= 1


def test_a_restart_forgets_the_debt() -> None:
    host = StepClock()
    clock = VirtualClock(1.0, host)
    clock.spend(1.0)
    host.now += 100 * SECOND
    clock.restart_pace()
    start = host.now
    clock.spend(1.0)
    assert host.now == start + SECOND


def test_virtual_time_waits_for_a_manual_host() -> None:
    host = ManualClock()
    clock = VirtualClock(10.0, host)
    thread, answers = in_thread(lambda: clock.spend(20.0))
    host.advance(1.9)
    thread.join(0.1)
    assert thread.is_alive()
    host.advance(0.1)
    thread.join(5)
    assert answers == [True]


def test_waiting_for_the_past_moves_nothing() -> None:
    clock = VirtualClock(1.0, StepClock())
    clock.spend(1.0)
    assert clock.wait_until(10)
    assert clock.now_ns() == SECOND
    assert clock.wait_until(2 * SECOND)
    assert clock.now_ns() == 2 * SECOND

"""Histograms of the loop's stages: percentiles within their error, sums, differences, and what travels."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data.control import Done, Result, Trace
from probeloop.data.latency import (
    BINS,
    EDGES_NS,
    LOOP_STAGES,
    LOOP_TOTALS,
    RELATIVE_ERROR,
    Histogram,
    LoopTimings,
    Timings,
    read_histograms,
    spans,
)

IN_RANGE = st.integers(EDGES_NS[0], EDGES_NS[-1] - 1)
ANY = st.one_of(IN_RANGE, st.integers(-(2**40), 2**45))


def counted(durations: list[int]) -> Histogram:
    timings = Timings()
    for each in durations:
        timings.add(each)
    return timings.counted


@given(st.lists(IN_RANGE, min_size=1, max_size=200), st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_within_its_error_of_numpy_s(durations: list[int], share: float) -> None:
    exact = float(np.quantile(durations, share, method="inverted_cdf"))
    found = counted(durations).quantile(share)
    assert found is not None
    assert found.low <= exact <= found.high
    assert abs(found.value - exact) <= (RELATIVE_ERROR + 1e-3) * exact  # edges are whole nanoseconds


@given(st.lists(ANY, max_size=100), st.lists(ANY, max_size=100))
def test_a_sum_is_what_was_counted_together_and_a_difference_what_came_since(a: list[int], b: list[int]) -> None:
    both = counted(a) + counted(b)
    assert both == counted(a + b)
    assert both.n == len(a) + len(b)
    since = both.since(counted(a))
    assert (since.bins, since.n) == (counted(b).bins, len(b))
    for share in (0.5, 1.0):
        one, other = since.quantile(share), counted(b).quantile(share)
        assert (one is None) == (other is None)
        if one and other:
            assert one.low == other.low
            assert one.high >= other.high


@given(st.lists(ANY, max_size=100))
def test_it_travels_as_plain_data_of_bounded_size(durations: list[int]) -> None:
    made = counted(durations)
    assert read_histograms({"x": msgspec.to_builtins(made)}) == {"x": made}
    assert len(made.bins) == BINS
    assert len(msgspec.msgpack.encode(made)) < 9 * BINS + 40


def test_what_is_outside_the_range_is_counted_and_said() -> None:
    made = counted([-5, 10, 999, 20_000_000_000])
    assert (made.bins[0], made.bins[-1], made.longest) == (3, 1, 20_000_000_000)
    short, long = made.quantile(0.5), made.quantile(1.0)
    assert short is not None
    assert long is not None
    assert (short.low, short.high) == (0, EDGES_NS[0])
    assert (long.low, long.high) == (EDGES_NS[-1], 20_000_000_000)
    assert Histogram().quantile(0.5) is None


def test_a_process_that_began_anew_is_counted_as_it_is() -> None:
    assert counted([5_000]).since(counted([5_000, 70_000])) == counted([5_000])


@pytest.mark.parametrize("told", [None, [], {"a": 3}, {"a": {"first": BINS}}, {"a": {"counts": [-1]}}])
def test_what_is_no_histogram_is_left_out(told: object) -> None:
    assert read_histograms(told) == {}


WHOLE = Trace(
    exposed=1_000, published=3_000, taken=7_000, derived=15_000, received=31_000, decided=63_000, submitted=127_000,
    verdict=255_000, applied=511_000,
)  # fmt: skip


def test_the_stages_of_a_loop_are_in_order_and_add_up() -> None:
    found = spans(WHOLE)
    assert list(found) == [*(each.name for each in LOOP_STAGES), "software"]
    assert list(found.values()) == [1000 * 2**k for k in range(1, 9)] + [510_000]


def test_a_loop_without_a_plug_in_has_no_stage_for_it() -> None:
    found = spans(msgspec.structs.replace(WHOLE, taken=0, derived=0))
    assert "plugin" not in found
    assert found["to_policy"] == 28_000
    assert sum(found.values()) == 2 * found["software"]


def test_a_command_without_a_cause_is_no_loop() -> None:
    assert spans(msgspec.structs.replace(WHOLE, exposed=0)) == {}
    timings = LoopTimings()
    timings.take(Result(trace=Trace(submitted=5, verdict=6, applied=7)))
    assert timings.counted == {}


def test_loops_are_counted_by_stage_and_physical_apart() -> None:
    timings = LoopTimings()
    timings.take(Result(trace=WHOLE))
    timings.take(Result(trace=msgspec.structs.replace(WHOLE, taken=0, derived=0), physical_ns=2_000_000))
    found = timings.counted
    assert list(found) == [each.name for each in (*LOOP_STAGES, *LOOP_TOTALS)]
    assert [found[name].n for name in ("camera", "plugin", "software", "physical")] == [2, 1, 2, 1]
    assert found["physical"].longest == 2_000_000


def test_a_trace_recorded_before_plug_ins_were_stamped_is_read() -> None:
    old = (
        b'{"type":"Done","id":4,"result":{"trace":{"exposed":5,"published":6,"received":7,"decided":8,"applied":9}}}'
    )
    event = msgspec.json.decode(old, type=Done)
    assert spans(event.result.trace) == {"camera": 1, "to_policy": 1, "decision": 1, "instrument": 1, "software": 4}

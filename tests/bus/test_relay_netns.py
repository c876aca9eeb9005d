"""The relay over a line with delay, loss and a cut: `pytest -m netns`, as root. The figures: netns_measure.py."""

from __future__ import annotations

from typing import Any

import pytest
from netns_link import missing
from netns_measure import measure

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    lacks = missing()
    if lacks:
        pytest.skip(lacks)
    return measure(rounds=1, seconds=1.5, say=print)


LINES = ("delay 20±5 ms", "delay 20±5 ms, loss 2 %")


@pytest.mark.parametrize("line", LINES)
def test_a_source_that_can_wait_loses_nothing(figures: dict[str, Any], line: str) -> None:
    assert figures[line]["lost"] == 0
    assert figures[line]["values"]["lost"] == 0


@pytest.mark.parametrize("line", LINES)
def test_it_is_as_fast_as_plain_zeromq_there(figures: dict[str, Any], line: str) -> None:
    assert figures[line]["relay_mb_s"] > 0.3 * figures[line]["plain_mb_s"]
    assert figures[line]["relay_lz4_mb_s"] > 2 * figures[line]["plain_mb_s"]


@pytest.mark.parametrize("line", LINES)
def test_the_clocks_offset_is_known_within_its_error(figures: dict[str, Any], line: str) -> None:
    made = figures[line]
    assert abs(made["clock_offset_ms"]) <= made["clock_error_ms"] < 60  # the truth is 0
    assert made["values"]["stamp_error_ms"] < 60
    assert made["values"]["p50_ms"] >= 14


def test_after_a_cut_of_5_s_all_is_there_or_named(figures: dict[str, Any]) -> None:
    made = figures[LINES[1]]["cut of 5 s"]
    assert made["reconnect_s"] < 10
    for topic in ("values", "camera"):
        assert made[topic]["lost"] == made[topic]["named"]
        assert made[topic]["in_order"]
    assert made["values"]["lost"] == 0

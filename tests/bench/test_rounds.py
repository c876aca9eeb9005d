"""Rounds take turns at the start, leave the warm-up out, and take ratios within a round."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from probeloop.bench.rounds import Figures, interleaved, rounds_in


def test_every_round_runs_all_and_starts_with_another() -> None:
    ran: list[str] = []
    told: list[tuple[int, int]] = []

    def contestant(name: str, figure: float) -> Callable[[], float]:
        def run() -> float:
            ran.append(name)
            return figure * len(ran)

        return run

    made = interleaved(
        {"a": contestant("a", 1.0), "b": contestant("b", 10.0)}, 3, 1, lambda done, of: told.append((done, of))
    )
    assert "".join(ran) == "abbaabba"
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert made.values == {"a": (4.0, 5.0, 8.0), "b": (30.0, 60.0, 70.0)}


def test_a_ratio_is_taken_within_its_round() -> None:
    """The machine slows tenfold in the middle: a ratio across rounds would be anything from 0.2 to 33."""
    figures = Figures({"ours": (30.0, 2.0, 33.0), "theirs": (10.0, 1.0, 11.0)})
    assert figures.ratios("ours", "theirs") == (3.0, 2.0, 3.0)
    assert figures.ratio("ours", "theirs") == 3.0
    assert figures.median("ours") == 30.0
    assert figures.spread("theirs") == (1.0, 11.0)


def test_what_a_contestant_raises_ends_the_measurement() -> None:
    def wrong() -> float:
        raise ArithmeticError("frame 3 is wrong")

    with pytest.raises(ArithmeticError, match="frame 3"):
        interleaved({"right": lambda: 1.0, "wrong": wrong}, 2)


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_are_refused(rounds: int) -> None:
    with pytest.raises(ValueError, match="at least one round"):
        interleaved({"a": lambda: 1.0}, rounds)
    with pytest.raises(ValueError, match="at least one round"):
        interleaved({}, 1)


def test_the_second_round_says_how_many_fit() -> None:
    ran = []
    contestants = {"a": lambda: float(ran.append(1) is None)}
    assert rounds_in(0.0, contestants) == 5
    assert len(ran) == 2
    assert rounds_in(1e9, contestants, most=7) == 7

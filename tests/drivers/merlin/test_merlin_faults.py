"""What the server does wrong is counted, exactly, and every other frame stays at its pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from merlin_site import Taken, scan, site, take
from probeloop.drivers.merlin import Merlin
from probeloop.drivers.merlin.decode import GOOD, place, views_of
from probeloop.simulators.servers.merlin import Faults, PoolSource

from probeloop.data.errors import SettingsError

N, WIDTH = 24, 6
NUMBERS = st.integers(1, N)
MIXES = st.builds(
    Faults,
    drop=st.frozensets(NUMBERS, max_size=6),
    duplicate=st.frozensets(NUMBERS, max_size=6),
    corrupt=st.dictionaries(NUMBERS, st.sampled_from(["header", "length", "payload"]), max_size=6),
    garbage=st.dictionaries(st.integers(0, N), st.integers(1, 3000), max_size=4),
    stall=st.dictionaries(NUMBERS, st.just(0.002), max_size=2),
)


@dataclass
class Wanted:
    """What a reader must say of a run with faults."""

    good: set[int]
    repeated: int
    refused: int
    skipped: int
    last: int  # number of the last frame whose header is whole

    @classmethod
    def of(cls, faults: Faults) -> Wanted:
        good: set[int] = set()
        repeated = refused = last = 0
        skipped = faults.garbage.get(0, 0)
        lying = False  # the message before told a length that it had not: where it ends nobody can tell
        for number in range(1, N + 1):
            if not lying:
                skipped += faults.garbage.get(number, 0)
            if number in faults.drop:
                continue
            kind = faults.corrupt.get(number)
            twice = number in faults.duplicate
            refused += kind is not None
            repeated += twice and kind is None
            if kind is None or twice:
                good.add(number - 1)
            if twice or kind in (None, "payload"):
                last = number
            lying = kind == "length" and not twice
        return cls(good, repeated, refused, skipped, last)


def check(taken: Taken, driver: Merlin, source: PoolSource, wanted: Wanted, depth: int = 12) -> None:
    told = driver.read_back()
    assert set(taken.pixels.tolist()) == wanted.good
    assert len(taken.pixels) == len(wanted.good)
    assert taken.is_of(source, depth)
    assert taken.repeats == wanted.repeated
    assert told["frames_taken"] == len(wanted.good)
    assert told["frames_missing"] == N - len(wanted.good)
    assert told["frames_repeated"] == wanted.repeated
    assert told["frames_refused"] == wanted.refused
    assert told["bytes_skipped"] == wanted.skipped
    assert not told["acquiring"]


def test_any_mix_is_counted_exactly() -> None:
    with site((16, 64)) as (driver, server, source):

        @settings(max_examples=25)
        @given(faults=MIXES)
        @example(faults=Faults(corrupt={1: "header"}, garbage={2: 1}))
        @example(faults=Faults(corrupt={15: "length", 24: "length"}, garbage={16: 1}))
        @example(faults=Faults(drop=frozenset(range(1, N + 1)), garbage={0: 5, 7: 100}))
        def run(faults: Faults) -> None:
            wanted, server.faults = Wanted.of(faults), faults
            taken = take(driver.scan(scan((N // WIDTH, WIDTH))))
            check(taken, driver, source, wanted)
            assert (taken.error is not None) == (N - wanted.last > WIDTH or not wanted.good)
            server.faults = Faults()
            again = take(driver.scan(scan((N // WIDTH, WIDTH))))
            assert again.error is None
            check(again, driver, source, Wanted.of(Faults()))

        run()


@pytest.mark.parametrize("depth", [1, 6, 24])
@pytest.mark.parametrize("form", ["processed", "raw"])
def test_the_same_at_every_counter_depth(form: str, depth: int) -> None:
    kinds = {3: "header", 5: "length", 9: "payload"} if (form, depth) != ("raw", 1) else {3: "header", 5: "length"}
    faults = Faults(frozenset({7}), frozenset({2, 24}), kinds, {0: 999, 12: 77}, {}, 0, 0)
    with site((16, 64), faults, file_format=form) as (driver, server, source):
        driver._depth = depth
        taken = take(driver.scan(scan((N // WIDTH, WIDTH))))
        assert taken.error is None
        check(taken, driver, source, Wanted.of(faults), depth)
        assert server.sent.corrupted == len(kinds)


def test_the_numbers_begin_again_after_a_million() -> None:
    memory = np.zeros(64, np.uint8)
    numbers = np.array([999_999, 0, 1, 0], np.int64)
    seen = np.zeros(1_000_005, np.bool_)
    kinds, index, rows = np.zeros((3, 4), np.int64)
    out = np.zeros((4, 1, 1), "<u2")
    views = views_of(memory, "<u2")
    row, highest = place(
        memory, views, 0, 2, 4, numbers, 1, 999_990, seen, kinds, index, rows, out, 0, False, 12, False, 4095
    )
    assert index.tolist() == [999_998, 999_999, 1_000_000, 999_999]
    assert kinds[:3].tolist() == [GOOD] * 3
    assert (row, highest) == (4, 1_000_000)


def test_the_options_say_what_is_wrong_with_them() -> None:
    made = Faults.parse("3, 17", "5", "header:9,payload:12", "0:4096", "20:0.5")
    assert (made.drop, made.corrupt) == ({3, 17}, {9: "header", 12: "payload"})
    assert (made.garbage, made.stall) == ({0: 4096}, {20: 0.5})
    for option, text in (("drop", "x"), ("corrupt", "bit:3"), ("corrupt", "3"), ("garbage", "7"), ("stall", "3:inf")):
        with pytest.raises(SettingsError, match=option):
            Faults.parse(**{option: text})

"""The bench of the bus: it finds what is wrong, it measures what it says, and its parts work without rivals."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest

from probeloop.bench import bus
from probeloop.bench.limits import Limits
from probeloop.bench.loop import LoopParty
from probeloop.bench.parties import Party, rival
from probeloop.bench.rounds import Figures
from probeloop.bench.stream_role import END, FRAME_WORDS, HOT_FRAMES, Source, check
from probeloop.data.errors import ProbeloopError

OWN = [sys.executable, "-m", "probeloop.bench.bus_role"]


@pytest.fixture(scope="module")
def party() -> Iterator[Party]:
    with Party("probeloop", OWN, 2) as made:
        yield made


@pytest.mark.parametrize("n", [1, 8])
def test_every_frame_arrives_and_is_checked(party: Party, n: int) -> None:
    outcome = party.run(n, 0.1)
    assert outcome.sent == outcome.readers[0]["frames"] > n
    assert (outcome.lost, outcome.corrupt) == (0, 0)
    assert outcome.fps > 0
    assert outcome.p50_us > 0


def test_a_wrong_bit_is_found(party: Party) -> None:
    assert party.run(8, 0.1, corrupt_at=13).corrupt == 1


def test_several_readers_read_all(party: Party) -> None:
    outcome = party.run(1, 0.1, readers=2, kind="-fanout")
    assert [reader["frames"] for reader in outcome.readers] == [outcome.sent] * 2
    assert (outcome.lost, outcome.corrupt) == (0, 0)


def test_what_is_missing_or_comes_twice_is_counted() -> None:
    source = Source()
    first = source.stamped(0, 2).copy()
    assert check(first, source.sums, 0) == (int(first[0, 1]), 0, 0, 2)
    assert check(source.stamped(5, 1), source.sums, 2)[1:] == (0, 3, 6)
    assert check(source.stamped(1, 1), source.sums, 2)[1:] == (1, 0, 2)
    first[1, FRAME_WORDS // 2] ^= np.uint64(1)
    assert check(first, source.sums, 0)[1:] == (1, 0, 2)
    first[0, :2] = END, 4
    assert check(first, source.sums, 2) == (-1, 0, 2, 2)


def test_the_source_walks_through_its_frames() -> None:
    source = Source()
    seen = {source.stamped(k, 1)[0, 2:].tobytes() for k in range(2 * HOT_FRAMES)}
    assert len(seen) == HOT_FRAMES


def test_a_party_that_does_not_begin_is_one_line() -> None:
    with pytest.raises(ProbeloopError, match="the transport broken failed: its process ended"):
        Party("broken", [sys.executable, "-c", "pass"], 1)


def test_the_loop_is_closed_through_the_gate() -> None:
    with LoopParty("probeloop", [sys.executable, "-m", "probeloop.bench.loop_role"]) as party:
        told = [party.run(0.2) for _ in range(2)]
    assert all(each["loops"] > 3 and 0 < each["p50_us"] <= each["p99_us"] for each in told)


def test_a_rival_that_is_not_there_is_none() -> None:
    assert rival("nobody") is None


def test_the_machine_s_limits_are_plausible() -> None:
    limits = Limits()
    assert limits.memcpy(0.02) > 1e8
    assert limits.read(0.02) > 1e8
    assert limits.cross_core(0.02) > 1e8


def test_the_table_holds_every_figure() -> None:
    figures = {
        **dict.fromkeys(
            [
                "throughput_x_pyzmq", "throughput_x_memcpy", "throughput_x_iceoryx2", "latency_p50_x_pyzmq",
                "latency_p50_x_iceoryx2", "loop_p50_x_pyzmq",
            ],
            1.234,
        ),
        "fanout3_x_pyzmq": None, "frames_lost": 0, "frames_corrupt": 3, "limits": {"memcpy_gb_s": 40.0},
        "medians": {"loop_p50_us": {"probeloop": 400.0}}, "missing": ["iceoryx2"],
    }  # fmt: skip
    shown = bus.table(figures)
    assert "throughput_x_pyzmq" in shown
    assert "1.23" in shown
    assert "frames_corrupt                   3" in shown
    assert "missing: iceoryx2" in shown


def test_a_ratio_is_taken_within_a_round() -> None:
    figures = Figures({"probeloop": (2.0, 30.0, 4.0), "pyzmq": (1.0, 10.0, 1.0)})
    assert figures.ratio("probeloop", "pyzmq") == 3.0


@pytest.mark.bench
def test_the_whole_bench_loses_nothing() -> None:
    found = bus.bench(20.0)
    assert (found["frames_lost"], found["frames_corrupt"], found["missing"]) == (0, 0, [])

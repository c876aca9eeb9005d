"""Rows of several topics meet: in any interleaving, with losses, visits and scans that end early."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.frame import BlockFlag, FrameBlock, FrameFlag
from probeloop.plugin.join import MOST_SCANS, Join, refusal
from probeloop.testing.streams import block_of

CELLS = 6
NAV = (Axis("y", 2), Axis("x", 3))
NONE = BlockFlag(0)
BEGIN, END, ABORTED = BlockFlag.SCAN_BEGIN, BlockFlag.SCAN_END, BlockFlag.ABORTED
Key = tuple[int, int, int]  # generation, pixel, time


def spec_of(which: int) -> StreamSpec:
    """Topics of different frames: numbers, pairs, small patterns."""
    sig = ((), (Axis("k", 2),), (Axis("ky", 2), Axis("kx", 3)))[which % 3]
    return StreamSpec(f"t{which}", "frames" if sig else "values", "<i8", NAV, sig)


def block(
    which: int, rows: list[tuple[int, int]], index: int = 0, generation: int = 1, flags: BlockFlag = NONE
) -> FrameBlock:
    """A block of (pixel, time) rows; -2 is a pixel that settles. Every element says time and topic."""
    spec = spec_of(which)
    pixels = np.array([p for p, _ in rows], np.int64)
    times = np.array([t for _, t in rows], np.int64)
    data = np.broadcast_to((10 * times + which).reshape((-1,) + (1,) * len(spec.sig)), (len(rows), *spec.frame_shape))
    made = block_of(spec, data, scan_index=np.abs(pixels) - (pixels == -1) * 2, index=index, generation=generation,
                    flags=flags)  # fmt: skip
    settling = np.where(pixels == -2, int(FrameFlag.SETTLING), 0).astype(np.uint16)
    return msgspec.structs.replace(made, time_ns=times, frame_flags=settling)


class Meeting:
    """A join, what came out of it, and what was given up."""

    def __init__(self, topics: int, **options: Any) -> None:
        self.join = Join(tuple(f"t{i}" for i in range(topics)), **options)
        self.joined: list[Key] = []
        self.given_up: Counter[tuple[str, Key]] = Counter()
        self.lost: list[Any] = []
        self.flags: dict[int, list[BlockFlag]] = {}

    def take(self, which: int, taken: FrameBlock) -> None:
        memory = taken.data
        for blocks in self.join.take(which, taken):
            first = blocks[0]
            for i, each in enumerate(blocks):
                assert each.spec == spec_of(i)
                assert each.count == first.count == len(each.data)
                assert np.array_equal(each.scan_index, first.scan_index)
                assert np.array_equal(each.time_ns, first.time_ns)
                assert each.flags == first.flags
                assert each.generation == first.generation
                wanted = (10 * each.time_ns + i).reshape((-1,) + (1,) * (each.data.ndim - 1))
                assert (each.data == wanted).all()
            self.flags.setdefault(first.generation, []).append(first.flags)
            self.joined += [
                (first.generation, int(p), int(t)) for p, t in zip(first.scan_index, first.time_ns, strict=True)
            ]
        memory.flags.writeable = True
        memory.fill(-99)  # what waits was copied
        for each in self.join.unmatched():
            self.lost.append(each)


@st.composite
def acquisitions(draw: st.DrawFn) -> tuple[int, list[tuple[int, FrameBlock]], dict[int, Any]]:
    """Blocks of 2 or 3 topics that lost different frames of the same scans, in any interleaving."""
    topics = draw(st.integers(2, 3))
    queues: list[list[FrameBlock]] = [[] for _ in range(topics)]
    index = [0] * topics
    facts: dict[int, Any] = {}
    time = 0
    for generation in sorted(draw(st.sets(st.integers(1, 5), min_size=1, max_size=3))):
        visits = draw(st.integers(1, 2)) * [*range(CELLS)]
        visits = visits[: draw(st.integers(0, len(visits)))]
        frames = []
        for pixel in visits:
            time += draw(st.integers(0, 2)) if pixel else 1  # a line may have one stamp, two visits may not
            if draw(st.integers(0, 9)) == 0:
                frames.append((draw(st.sampled_from([-1, -2])), time))
            frames.append((pixel, time))
        time += 1
        aborted = draw(st.booleans())
        facts[generation] = {"aborted": aborted, "kept": [], "ends": []}
        for which in range(topics):
            kept = [f for f in frames if draw(st.integers(0, 4))]
            facts[generation]["kept"].append({(generation, p, t) for p, t in kept if p >= 0})
            cuts = sorted(draw(st.sets(st.integers(1, max(1, len(kept))), max_size=4)))
            parts = [kept[a:b] for a, b in zip([0, *cuts], [*cuts, len(kept)], strict=True)]
            parts = [part for part in parts if part] or [[]]
            ends = draw(st.integers(0, 5)) > 0  # the block that says so may be lost too
            alone = draw(st.booleans())
            facts[generation]["ends"].append(ends)
            last = END | ABORTED if aborted else END
            for i, part in enumerate(parts):
                flags = BEGIN if i == 0 else BlockFlag(0)
                if i == len(parts) - 1 and ends and not alone:
                    flags |= last
                queues[which].append(block(which, part, index[which], generation, flags))
                index[which] += len(part)
            if ends and alone:
                queues[which].append(block(which, [], index[which], generation, last))
    order = draw(st.permutations([which for which, queue in enumerate(queues) for _ in queue]))
    return topics, [(which, queues[which].pop(0)) for which in order], facts


def played(topics: int, blocks: list[tuple[int, FrameBlock]], **options: Any) -> Meeting:
    meeting = Meeting(topics, **options)
    for which, each in blocks:
        meeting.take(which, msgspec.structs.replace(each, data=each.data.copy()))
    for which in range(topics):
        meeting.take(which, block(which, [], 10_000, 99, BEGIN | END))
    return meeting


def given_up(meeting: Meeting) -> Counter[tuple[str, int, int]]:
    return Counter((each.topic, each.generation, int(p)) for each in meeting.lost for p in each.pixels)


@given(acquisitions())
@settings(max_examples=300, deadline=None)
def test_every_common_row_is_joined_once_and_every_other_one_is_named(
    drawn: tuple[int, list[tuple[int, FrameBlock]], dict[int, Any]],
) -> None:
    topics, blocks, facts = drawn
    meeting = played(topics, blocks)
    common = {key for fact in facts.values() for key in set.intersection(*fact["kept"])}
    assert Counter(meeting.joined) == Counter(common), "each once"
    assert meeting.joined == sorted(meeting.joined, key=lambda k: (k[0], k[2])) or topics > 2
    alone = Counter(
        (f"t{which}", generation, pixel)
        for fact in facts.values()
        for which, kept in enumerate(fact["kept"])
        for generation, pixel, _ in kept - set.intersection(*fact["kept"])
    )
    assert given_up(meeting) == alone
    for each in meeting.lost:
        assert each.why == "never came"
        lacking = facts[each.generation]["kept"][int(each.missing[1:])]
        assert any((each.generation, int(each.pixels[0]), t) not in lacking for t in range(100))
    for generation, fact in facts.items():
        told = meeting.flags.get(generation, [])
        assert sum(bool(f & BEGIN) for f in told) == bool(told)
        assert sum(bool(f & END) for f in told) == any(fact["ends"])
        if any(fact["ends"]):
            assert told[-1] & END
            assert bool(told[-1] & ABORTED) == fact["aborted"]
    assert all(meeting.join.waiting(which) == 0 for which in range(topics))
    assert meeting.join.bytes == 0


@given(acquisitions(), st.integers(0, 6000))
@settings(max_examples=150, deadline=None)
def test_within_any_bound_every_row_is_joined_or_named_exactly_once(
    drawn: tuple[int, list[tuple[int, FrameBlock]], dict[int, Any]], most_bytes: int
) -> None:
    topics, blocks, facts = drawn
    meeting = played(topics, blocks, most_bytes=most_bytes)
    common = {key for fact in facts.values() for key in set.intersection(*fact["kept"])}
    joined = Counter(meeting.joined)
    assert set(joined) <= common
    assert max(joined.values(), default=1) == 1
    rest = Counter(
        (f"t{which}", generation, pixel)
        for fact in facts.values()
        for which, kept in enumerate(fact["kept"])
        for generation, pixel, time in kept
        if (generation, pixel, time) not in joined
    )
    assert given_up(meeting) == rest
    assert meeting.join.bytes == 0


def test_a_row_is_named_as_soon_as_another_topic_has_passed_it() -> None:
    meeting = Meeting(2)
    meeting.take(0, block(0, [(0, 1), (1, 2), (2, 3)], flags=BEGIN))
    assert meeting.join.waiting(0) == 3
    meeting.take(1, block(1, [(0, 1)], flags=BEGIN))
    assert (meeting.joined, meeting.lost) == ([(1, 0, 1)], [])
    meeting.take(1, block(1, [(2, 3)], index=1))
    assert meeting.joined == [(1, 0, 1), (1, 2, 3)]
    (lost,) = meeting.lost
    assert (lost.topic, lost.missing, lost.why, lost.pixels.tolist()) == ("t0", "t1", "never came", [1])


def test_a_visit_that_was_lost_does_not_shift_the_next_one() -> None:
    meeting = Meeting(2)
    meeting.take(0, block(0, [(0, 1), (1, 2), (0, 3), (1, 4)], flags=BEGIN))
    meeting.take(1, block(1, [(1, 2), (0, 3), (1, 4)], flags=BEGIN | END))
    assert meeting.joined == [(1, 1, 2), (1, 0, 3), (1, 1, 4)]
    assert [each.pixels.tolist() for each in meeting.lost] == [[0]]


def test_scans_do_not_pile_up_where_a_topic_gives_nothing() -> None:
    join = Join(("t0", "t1"))
    for generation in range(MOST_SCANS + 10):
        join.take(0, block(0, [(0, generation)], index=generation, generation=generation, flags=BEGIN | END))
    lost = join.unmatched()
    assert [(each.why, each.generation) for each in lost] == [("no room", generation) for generation in range(10)]
    assert join.waiting(0) == MOST_SCANS
    ((first, _),) = join.take(1, block(1, [(0, 500)], generation=500, flags=BEGIN | END))
    assert first.generation == 500


def test_what_completes_a_block_whole_is_not_copied() -> None:
    join = Join(("t0", "t1"))
    rows = [(0, 1), (1, 2)]
    assert join.take(1, block(1, rows, flags=BEGIN)) == []
    given = block(0, rows, flags=BEGIN)
    ((first, second),) = join.take(0, given)
    assert np.shares_memory(first.data, given.data)
    assert second.count == 2


def test_a_cell_that_is_done_again_is_told_and_joined_with_nothing() -> None:
    meeting = Meeting(2)
    for which in (0, 1):
        meeting.take(which, block(which, [(0, 1), (1, 2), (2, 3)], flags=BEGIN))
    meeting.take(1, block(1, [(1, 2), (0, 1)], index=3))
    assert meeting.join.late(1).tolist() == [0, 1]
    assert meeting.join.late(1).size == 0
    assert meeting.join.newest(1)[1].tolist() == [4, 3, 2, -1, -1, -1]
    assert (len(meeting.joined), meeting.lost) == (3, [])
    for which in (0, 1):
        meeting.take(which, block(which, [], index=5, flags=END))
    meeting.take(1, block(1, [(2, 3)], index=5))  # after the end too
    assert meeting.join.late(1).tolist() == [2]
    assert [int(f) for f in meeting.flags[1]] == [1, 2]


def test_a_row_that_is_done_again_while_it_waits_is_joined_as_it_is_now() -> None:
    join = Join(("t0", "t1"))
    for rows in ([(0, 1), (1, 2)], [(2, 3)]):
        join.take(0, block(0, rows, flags=BEGIN))
    newer = block(0, [(2, 3), (0, 1)], index=3)
    join.take(0, msgspec.structs.replace(newer, data=np.array([-3, -1])))
    assert join.late(1).size == 0
    found = [blocks for rows in ([(0, 1), (1, 2)], [(2, 3)]) for blocks in join.take(1, block(1, rows, flags=BEGIN))]
    assert np.concatenate([first.data for first, _ in found]).tolist() == [-1, 20, -3]
    assert join.unmatched() == []


def test_a_topic_that_is_read_from_the_middle_of_a_scan_on_says_so() -> None:
    meeting = Meeting(2)
    meeting.take(0, block(0, [(2, 3), (3, 4)]))
    meeting.take(1, block(1, [(3, 4), (4, 5)]))
    assert meeting.joined == [(1, 3, 4)]
    assert [(each.why, each.pixels.tolist()) for each in meeting.lost] == [("not read yet", [2])]
    assert meeting.flags == {1: [BlockFlag(0)]}


def test_frames_described_anew_are_not_put_together_with_those_before() -> None:
    join = Join(("t0", "t1"))
    join.take(0, block(0, [(0, 1), (1, 2)], flags=BEGIN))
    wider = msgspec.structs.replace(spec_of(0), kind="spectra", sig=(Axis("e", 4),))
    join.take(0, block_of(wider, np.zeros((1, 4), np.int64), scan_index=np.array([2]), index=2))
    assert [(each.why, each.pixels.tolist()) for each in join.unmatched()] == [("other frames", [0, 1])]


def test_scans_of_other_shapes_are_refused_in_words() -> None:
    join = Join(("camera", "binned"))
    join.take(0, block(0, [(0, 1), (1, 2)], flags=BEGIN))
    small = msgspec.structs.replace(spec_of(1), nav=(Axis("y", 1), Axis("x", 3)))
    data = np.zeros((1, *small.frame_shape), np.int64)
    assert join.take(1, block_of(small, data, flags=BEGIN | END)) == []
    assert join.take(0, block(0, [], index=2, flags=END)) == []
    ((generation, words),) = join.refused()
    assert generation == 1
    assert words == "camera is a scan of 2 x 3, binned one of 1 x 3: they can't be joined"
    assert (join.refused(), join.unmatched(), join.bytes) == ([], [], 0)
    for which in (0, 1):
        join.take(which, block(which, [(0, 5)], index=9, generation=2, flags=BEGIN))
    assert join.refused() == [], "the next scan is another one"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "image"}, "b is an image"),
        ({"kind": "ragged"}, "b is ragged"),
        ({"sync": "none"}, "which frame is which pixel"),
        ({"nav": ()}, "b one of one pixel"),
        ({}, ""),
    ],
)
def test_what_has_no_pixels_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    said = refusal(("a", "b"), (spec_of(0), msgspec.structs.replace(spec_of(1), **changes)))
    assert words in said
    assert bool(said) == bool(words)
    assert refusal(("a", "b"), (spec_of(0), None)) == ""

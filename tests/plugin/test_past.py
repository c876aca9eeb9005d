"""Owed cells are read as they were last seen, all topics alike; what is not on record is waited for, then let go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.errors import RecordError
from probeloop.data.frame import FrameBlock
from probeloop.plugin import past as module
from probeloop.plugin.past import EVERY, Past
from probeloop.testing.streams import block_of, nav_axes

CELLS = 12
NAV = nav_axes((3, 4))
SPECS = (
    StreamSpec("small", "values", "<f8", NAV),
    StreamSpec("large", "spectra", "<f8", NAV, (Axis("e", 4),)),
    StreamSpec("middle", "spectra", "<f8", NAV, (Axis("e", 2),)),
)
UNSEEN = [None, None, None]


class Disk:
    """What a recorder keeps of three topics: one frame a pixel, in pieces of its own size."""

    def __init__(self) -> None:
        self.index = {spec.name: np.arange(CELLS) for spec in SPECS}
        self.time = {spec.name: 1_000_000 * np.arange(CELLS) for spec in SPECS}
        self.pieces = {"small": 12, "large": 2, "middle": 5}
        self.read: dict[str, set[int]] = {spec.name: set() for spec in SPECS}
        self.damaged = False

    def blocks(self, topic: str, generation: int, wanted: np.ndarray) -> Iterator[FrameBlock]:
        spec = next(spec for spec in SPECS if spec.name == topic)
        for first in range(0, CELLS, self.pieces[topic]):
            if self.damaged:
                raise RecordError("a chunk is damaged")
            cells = np.flatnonzero(wanted[first : first + self.pieces[topic]]) + first
            cells = cells[self.index[topic][cells] >= 0]
            self.read[topic] |= set(cells.tolist())
            if cells.size:
                values = self.index[topic][cells].reshape((-1,) + (1,) * len(spec.sig))
                data = np.broadcast_to(values.astype("f8"), (len(cells), *spec.frame_shape))
                made = block_of(spec, data, scan_index=cells, generation=generation)
                made.time_ns.flags.writeable = True
                made.time_ns[:] = self.time[topic][cells]
                yield made

    def kept(self, topic: str, generation: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
        return self.index[topic].copy(), self.time[topic].copy()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def past(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Past:
    monkeypatch.setattr(module, "_AGAIN_NS", 0)
    made = Past(disk, tuple(spec.name for spec in SPECS))
    made.begin(7, SPECS, CELLS)
    return made


def rest(past: Past, newest: list[np.ndarray | None] = UNSEEN) -> list[tuple[FrameBlock, ...]]:
    """Look until nothing is owed any more, or given up."""
    found = []
    while past.busy:
        blocks = past.next(newest)
        if blocks is not None:
            found.append(blocks)
    return found


def pixels(found: list[tuple[FrameBlock, ...]]) -> list[int]:
    for blocks in found:
        assert [each.spec.name for each in blocks] == ["small", "large", "middle"]
        assert len({each.scan_index.tobytes() for each in blocks}) == 1
        assert len({each.time_ns.tobytes() for each in blocks}) == 1
        assert {each.generation for each in blocks} == {7}
    return [int(p) for blocks in found for p in blocks[0].scan_index]


def test_owed_cells_of_every_topic_come_together_in_pieces_of_the_largest(past: Past) -> None:
    past.ask(np.array([0, 1, 3, 7, 8, 11]))
    found = rest(past)
    assert pixels(found) == [0, 1, 3, 7, 8, 11]
    assert [blocks[0].count for blocks in found] == [2, 1, 1, 1, 1]
    assert all((each.scan_index == each.data.reshape(each.count, -1).T).all() for blocks in found for each in blocks)
    assert not past.owed.any()


def test_a_cell_waits_until_the_record_holds_what_was_seen_of_it(past: Past, disk: Disk) -> None:
    newest: list[np.ndarray | None] = [None, np.arange(CELLS), np.full(CELLS, -1)]
    seen = newest[1]
    assert seen is not None
    seen[4] = 100
    past.ask(EVERY)
    found = [blocks for _ in range(12) if (blocks := past.next(newest)) is not None]
    assert 4 not in pixels(found)
    assert past.owed.tolist() == [cell == 4 for cell in range(CELLS)]
    disk.index["large"][4] = 100
    (last,) = rest(past, newest)
    assert pixels([last]) == [4]
    assert last[1].data[0].tolist() == [100.0] * 4


def test_frames_of_other_exposures_are_neither_joined_nor_read(past: Past, disk: Disk) -> None:
    disk.time["middle"][5] += 1
    disk.index["small"][6] = -1
    past.ask(np.array([5, 6]))
    assert rest(past) == []
    assert disk.read["large"] == set()
    assert np.flatnonzero(past.owed).tolist() == [5, 6], "given up, and known"


def test_what_is_owed_anew_while_it_is_read_is_read_anew(past: Past, disk: Disk) -> None:
    disk.pieces["large"] = 4
    past.ask(EVERY)
    first = past.next(UNSEEN)
    assert first is not None
    past.ask(np.array([0, 9]))
    for topic in disk.index:
        disk.index[topic][[0, 9]] = 50
    found = rest(past)
    assert pixels([first]) == [0, 1, 2, 3]
    assert pixels(found) == [4, 5, 6, 7, 8, 10, 11, 0, 9], "in the next look, not in this one"


def test_what_was_done_meanwhile_is_not_done_again(past: Past) -> None:
    past.ask(EVERY)
    past.done(np.arange(6))
    assert pixels(rest(past)) == [*range(6, 12)]


def test_hope_ends(past: Past, disk: Disk) -> None:
    disk.index["small"][3] = -1
    past.ask(np.array([3]), 2)
    looks = 0
    while past.busy:
        assert past.next(UNSEEN) is None
        looks += 1
    assert looks == 2
    past.forget()
    assert not past.owed.any()


def test_a_damaged_record_is_told_once(past: Past, disk: Disk) -> None:
    disk.damaged = True
    past.ask(EVERY)
    with pytest.raises(RecordError, match="damaged"):
        past.next(UNSEEN)
    assert not past.busy


def test_without_a_record_nothing_is_owed() -> None:
    past = Past(None, ("small",))
    past.begin(1, SPECS[:1], CELLS)
    past.ask(EVERY)
    assert not past.busy

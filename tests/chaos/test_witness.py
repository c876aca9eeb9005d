"""What the bench judges by: each judgement is shown to fail where it must."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.bench.chaos import leftovers, shutter
from probeloop.bench.chaos.figures import Row, table
from probeloop.bench.chaos.outcome import Outcome
from probeloop.bench.chaos.record import wrong_cells
from probeloop.bench.chaos.wire import mutated
from probeloop.bench.chaos.witness import Witness
from probeloop.bus.checksum import sum_of_block
from probeloop.bus.node import Bus, rig_prefix, shared_memory_folder
from probeloop.bus.publish import Publisher
from probeloop.bus.subscribe import Subscriber
from probeloop.data.axes import Axis, StreamSpec
from probeloop.record.session import SessionWriter
from probeloop.testing.hardware import HardwareLink

SPEC = StreamSpec("camera", "frames", "<u2", (Axis("y", 4), Axis("x", 8)), (Axis("ky", 4), Axis("kx", 4)))


@pytest.fixture
def bus(rig_id: str) -> Iterator[Bus]:
    with Bus(rig_id, "test", local=True) as made:
        yield made


@pytest.fixture
def sealed(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Publisher, Witness]]:
    """A publisher that writes check sums, and a witness without a thread."""
    monkeypatch.setenv("PROBELOOP_CHECKSUMS", "1")
    publisher = Publisher(bus, "camera", 1 << 14)
    witness = Witness(bus, ("camera",), credit=False)
    publisher.announce(SPEC, 1)
    yield publisher, witness
    witness.close()
    publisher.close()


def send(publisher: Publisher, first: int, count: int = 4, **header: Any) -> Any:
    """Send frames whose pixels are their scan index; return the buffer, which is still mapped."""
    buffer = publisher.loan(count)
    buffer.scan_index[:] = np.arange(first, first + count)
    buffer.data[:] = buffer.scan_index[:, None, None]
    buffer.time_ns[:], buffer.position[:], buffer.dose[:], buffer.flags[:] = 1, 0.0, 2.0, 0
    publisher.send(buffer, count, generation=1, **header)
    return buffer


def test_what_was_sent_is_counted_and_its_frames_are_remembered(sealed: tuple[Publisher, Witness]) -> None:
    publisher, witness = sealed
    for first in range(0, 32, 4):
        send(publisher, first)
    witness.look()
    tally = witness.tallies["camera"]
    assert (tally.frames, tally.blocks, tally.lost, witness.corrupt) == (32, 8, 0, 0)
    assert len(witness.sums) == 32
    assert witness.sums[1, 5] == zlib.crc32(np.full(16, 5, "<u2"))


@pytest.mark.parametrize("column", ["data", "time_ns", "scan_index", "position", "dose", "flags"])
def test_a_flipped_byte_is_one_corrupt_block(sealed: tuple[Publisher, Witness], column: str) -> None:
    publisher, witness = sealed
    send(publisher, 0)
    getattr(send(publisher, 4), column).view(np.uint8).reshape(-1)[3] ^= 0x10
    send(publisher, 8)
    witness.look()
    assert witness.corrupt == 1
    assert witness.tallies["camera"].found == ["wrong sum at index 4"]


def test_memory_that_changes_while_it_is_read_is_found(
    sealed: tuple[Publisher, Witness], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, witness = sealed
    buffer = send(publisher, 0)
    sums = iter([sum_of_block, lambda block: (buffer.data.__setitem__((2, 1, 1), 99), sum_of_block(block))[1]])
    monkeypatch.setattr("probeloop.bench.chaos.witness.sum_of_block", lambda block: next(sums)(block))
    witness.look()
    assert witness.tallies["camera"].found == ["changed while it was read, at index 0"]


def test_no_sum_and_an_index_used_again_are_corrupt(sealed: tuple[Publisher, Witness]) -> None:
    publisher, witness = sealed
    publisher._sealed = False
    send(publisher, 0)
    publisher._sealed = True
    send(publisher, 4)
    publisher._words[0] = 2  # as a restarted publisher that does not know what was sent
    send(publisher, 8)
    witness.look()
    assert witness.tallies["camera"].found == ["no sum at index 0", "index 2 after 8: used again"]


def test_without_the_wish_nobody_pays_for_sums(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROBELOOP_CHECKSUMS", raising=False)
    publisher, reader = Publisher(bus, "camera", 1 << 14), Subscriber(bus, "camera", "lossless")
    publisher.announce(SPEC, 1)
    send(publisher, 0)
    block = reader.receive()
    assert block is not None
    assert block.checksum == 0
    reader.close()
    publisher.close()


def test_a_ragged_block_is_summed_too(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.data.frame import pack_ragged

    monkeypatch.setenv("PROBELOOP_CHECKSUMS", "1")
    publisher, reader = Publisher(bus, "bytes", 1 << 14), Subscriber(bus, "bytes", "lossless")
    publisher.announce(StreamSpec("bytes", "ragged"), 1)
    buffer, payload = publisher.loan(2), pack_ragged([b"abc", b"defg"])
    buffer.data[: len(payload)] = np.frombuffer(payload, np.uint8)
    publisher.send(buffer, 2, generation=1, payload_bytes=len(payload))
    block = reader.receive()
    assert block is not None
    assert block.checksum == sum_of_block(block) != 0
    reader.close()
    publisher.close()


def test_a_recorded_frame_that_nobody_sent_is_found(tmp_path: Path, sealed: tuple[Publisher, Witness]) -> None:
    publisher, witness = sealed
    reader = Subscriber(publisher.bus, "camera", "lossless")
    for first in range(0, 32, 4):
        send(publisher, first)
    witness.look()
    writer = SessionWriter(tmp_path)
    for block in reader.drain():
        writer.add(block)
    writer.close()
    reader.close()
    assert wrong_cells(tmp_path, witness.sums, random.Random(1)) == (32, 0, [])
    witness.sums[1, 17] ^= 1
    del witness.sums[1, 3]
    assert wrong_cells(tmp_path, witness.sums, random.Random(1)) == (31, 1, [])
    next(tmp_path.glob("camera/1.zspy/Experiments/*/data/0/0/0/0")).write_bytes(b"torn")
    compared, _, unreadable = wrong_cells(tmp_path, witness.sums, random.Random(1))
    assert (compared, len(unreadable)) == (0, 1)


def test_a_file_and_a_process_that_stay_are_counted(rig_id: str) -> None:
    assert leftovers.left_by(rig_id, 0.0) == []
    planted = shared_memory_folder() / f"{rig_prefix(rig_id)}1.data"
    planted.touch()
    line = [sys.executable, "-c", "print(input('up'))", f"/sessions/x_{rig_id}/log/com.json"]
    child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.read(2) == b"up"
        assert leftovers.left_by(rig_id, 0.0) == [f"process {child.pid} (com)", str(planted)]
        assert leftovers.processes_of(rig_id) == {child.pid: "com"}
    finally:
        planted.unlink()
        child.communicate(b"\n")
    assert leftovers.left_by(rig_id, 0.0) == []


def test_the_shutter_says_when_it_was_closed_for_good_and_whether_it_was_opened(tmp_path: Path) -> None:
    made = shutter.Shutter(tmp_path / "log")
    link = HardwareLink(made.port, "instrument")
    try:
        assert made.closed
        opened = link.ask("set", values={"blanked": False}) and made.notes()[-1]["t"]
        assert not made.closed
        assert made.closed_after(opened) is None
        assert made.opened_after(opened)
        link.ask("safe")
        closed = made.notes()[-1]["t"]
        link.ask("get")
        assert made.closed_after(opened) == pytest.approx((closed - opened) / 1e9)
        assert made.closed_after(closed + 1) == 0.0
        assert not made.opened_after(closed)
    finally:
        link.close()
        made.end()


def test_figures_and_table() -> None:
    row = Row(3, "stops", [Outcome("contained", i / 1e3, 1, {"lost": 2.0 * i}) for i in range(1, 101)], 0, 2)
    row.outcomes += [Outcome("stopped"), Outcome("failed", problems=("x",))]
    made = row.figures()
    assert (made["n"], made["contained"], made["stopped"], made["refused"], made["failed"]) == (102, 100, 1, 0, 1)
    assert made["recovery_ms"] == {"p50": 51.0, "p99": 100.0}
    assert (made["corrupt"], made["leftovers"], made["lost"]) == (0, 2, 101.0)
    figures = {"faults": {"stop-it": made}, "not_run": {"keys": "no relay"}, "kills": 7, "rigs": 1, "frames": 5,
               "frames_per_s": 1, "corrupt": 0, "frames_lost": 0, "frames_half_sent": 8, "leftovers": 2,
               "problems": ["a"]}  # fmt: skip
    text = table(figures)
    assert "stop-it" in text
    assert "not run: no relay" in text
    assert text.endswith("problem: a\n")


def test_mutations_are_many_and_repeat_with_the_seed() -> None:
    made = [mutated(b"\x82\xa1a\x01\xa1b\x02", random.Random(seed)) for seed in range(200)]
    assert len(set(made)) > 150
    assert made[7] == mutated(b"\x82\xa1a\x01\xa1b\x02", random.Random(7))

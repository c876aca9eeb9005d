"""The 4D-STEM as an instrument: triggers and pixels, settling, knobs and truth, STOP."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.exposure import delivered

from probeloop.data.assemble import assemble, empty_map
from probeloop.data.commands import AcquireReference, Blank, Scan, SetAberrations, Unblank
from probeloop.data.driver import Acquisition, Instrument, missing_verbs
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBlock, FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.data.settings import Settings, SettingsError, convert
from probeloop.testing.check_driver import check_driver

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip


def column(**parameters: Any) -> StemSimulator:
    return StemSimulator(StemSettings(**(SMALL | parameters)))


def blocks(taken: Acquisition, capacity: int = 64) -> list[FrameBlock]:
    room = np.zeros(capacity * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
    buffer = FrameBuffer.over(room, taken.spec, capacity)
    next(taken.frames)
    made: list[FrameBlock] = []
    while True:
        try:
            count = taken.frames.send(buffer)
        except StopIteration:
            return made
        buffer.seal(count, index=sum(b.count for b in made), generation=1)
        made.append(FrameBlock.parse(room, taken.spec).copy())


def mapped(taken: Acquisition) -> np.ndarray:
    out = empty_map(taken.spec)
    for block in blocks(taken):
        assemble(taken.spec, block, out)
    return out


def joined(made: list[FrameBlock], name: str) -> np.ndarray:
    return np.concatenate([getattr(block, name) for block in made])


def test_it_is_an_instrument() -> None:
    stem = column()
    assert isinstance(stem, Instrument)
    assert missing_verbs(stem) == []
    assert set(stem.describe().limits.knobs) <= set(stem.read_back())
    stem.close()


def test_settings_are_checked() -> None:
    assert issubclass(StemSettings, Settings)
    with pytest.raises(SettingsError, match="both dropped and doubled"):
        convert(StemSettings, {"drop_frames": [5], "double_frames": [5]})
    with pytest.raises(SettingsError, match="bright-field disc"):
        convert(StemSettings, {"pixels": 32, "pixel_angle": 1.0})


def test_dropped_and_doubled_frames_leave_every_other_pixel_in_place() -> None:
    scan = Scan(Region(0, 0, 1e-9, 1e-9), (96, 96), 1e-4, "serpentine")
    whole = mapped(column().scan(scan))
    stem = column(drop_frames=(5003,), double_frames=(9000,))
    taken = stem.scan(scan)
    made = blocks(taken)
    out = empty_map(taken.spec)
    for block in made:
        assemble(taken.spec, block, out)
    missing = np.flatnonzero(np.isnan(out[..., 0, 0]))
    order = [int(y * 96 + (x if y % 2 == 0 else 95 - x)) for y, x in (divmod(5003, 96),)]
    assert missing.tolist() == order
    same = np.ones(96 * 96, bool)
    same[missing] = False
    np.testing.assert_array_equal(out.reshape(-1, 32, 32)[same], whole.reshape(-1, 32, 32)[same])
    flags, index = joined(made, "frame_flags"), joined(made, "scan_index")
    second = np.flatnonzero(flags & int(FrameFlag.TRIGGER_MISSED))
    assert second.tolist() == [9000]  # one was lost before it, one more came
    assert index[second] == -1
    assert joined(made, "data").shape[0] == 96 * 96
    np.testing.assert_array_equal(joined(made, "data")[8999], joined(made, "data")[9000])


def test_delivered_rows() -> None:
    assert delivered(np.arange(10, 15), (11,), (13,)).tolist() == [0, 2, 3, 3, 4]


def test_lines_are_marked() -> None:
    made = blocks(column().scan(Scan(Region(0, 0, 1e-9, 1e-9), (3, 4), 1e-4)))
    flags = joined(made, "frame_flags")
    assert np.flatnonzero(flags & int(FrameFlag.LINE_START)).tolist() == [0, 4, 8]
    assert np.flatnonzero(flags & int(FrameFlag.LINE_END)).tolist() == [3, 7, 11]
    assert np.all(np.diff(joined(made, "time_ns")) == 100_000)


def test_frames_of_a_settling_lens_belong_to_no_pixel() -> None:
    """200 ms at 10,000 frames/s: 2,000 frames of the old and the turning lens, none of them in the map."""
    stem = column(settling=0.2)
    settled = stem.set_aberrations(SetAberrations({"C10": 20e-9}))
    assert settled == 200_000_000
    taken = stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (4, 4), 1e-4))
    made = blocks(taken)
    early = joined(made, "time_ns") < settled
    flagged = (joined(made, "frame_flags") & int(FrameFlag.SETTLING)) != 0
    assert np.count_nonzero(early) == 2000
    np.testing.assert_array_equal(early, flagged)
    assert np.all(joined(made, "scan_index")[early] == -1)
    assert joined(made, "scan_index")[~early].tolist() == list(range(16))
    assert taken.t_settled_ns == settled


def test_a_scan_goes_on_while_a_knob_is_turned_and_says_so() -> None:
    stem = column(settling=0.002)
    taken = stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (8, 8), 1e-4))
    buffer = FrameBuffer.allocate(taken.spec, 16)
    next(taken.frames)
    assert taken.frames.send(buffer) == 16
    stem.set_aberrations(SetAberrations({"C10": 20e-9}))
    assert taken.frames.send(buffer) == 16
    assert np.all(buffer.flags & int(FrameFlag.SETTLING))
    assert np.all(buffer.scan_index == -1)
    assert taken.frames.send(buffer) == 16
    assert (buffer.scan_index >= 0).tolist() == [False] * 4 + [True] * 12


def test_a_knob_is_not_a_coefficient() -> None:
    stem = column(misalignment=1.0)
    before = stem.truth()["aberrations"]
    assert 30e-9 <= abs(before.C10) <= 300e-9
    assert 5e-9 <= np.hypot(before.C12a, before.C12b) <= 50e-9
    assert stem.read_back()["C10"] == 0.0
    stem.set_aberrations(SetAberrations({"C10": 100e-9}))
    change = stem.truth()["aberrations"].minus(before)
    assert stem.read_back()["C10"] == 100e-9
    assert change.C10 != 100e-9
    assert pytest.approx(100e-9, rel=0.4) == change.C10
    assert change.C12a != 0.0
    stem.set_aberrations(SetAberrations({"C10": 0.0}, absolute=True))
    assert stem.truth()["aberrations"].minus(before).as_dict() == {}


def test_secrets_come_from_the_seed() -> None:
    first, again, other = (column(seed=s, misalignment=1.0).truth() for s in (4, 4, 5))
    assert first["aberrations"] == again["aberrations"] != other["aberrations"]
    np.testing.assert_array_equal(first["potential"], again["potential"])
    assert (first["potential"] != other["potential"]).any()


def test_an_unknown_knob_is_named() -> None:
    with pytest.raises(DriverError, match="C77"):
        column().set_aberrations(SetAberrations({"C77": 1e-9}))


def test_two_threads_give_the_same_bits() -> None:
    scan = Scan(Region(0, 0, 1e-9, 1e-9), (12, 12), 1e-4)
    one, two = column(threads=1), column(threads=2)
    np.testing.assert_array_equal(mapped(one.scan(scan)), mapped(two.scan(scan)))
    one.close()
    two.close()


def test_drift_moves_the_specimen_under_the_scan() -> None:
    """At the trigger's time the probe is at SPECIMEN = SCAN - drift: a still column pointed there sees the same."""
    moving, still = column(drift=1e-9), column(drift=0.0)
    for stem in (moving, still):
        stem.clock.wait_until(2_000_000_000)
    dx, dy = 2.0 * moving.truth()["drift"]
    assert np.hypot(dx, dy) == pytest.approx(2e-9)
    there = mapped(moving.scan(Scan(Region(0.1e-9, 0, 1e-10, 1e-10), (1, 1), 1e-3)))
    here = mapped(still.scan(Scan(Region(0.1e-9 - dx, -dy, 1e-10, 1e-10), (1, 1), 1e-3)))
    assert np.abs(there - here).sum() < 0.01 * here.sum()


def test_dose_is_what_falls_on_the_sample() -> None:
    stem = column(beam_current=50.0, drift=0.0)
    made = blocks(stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (8, 8), 1e-4)))
    dose = joined(made, "dose")
    assert dose[0] == pytest.approx(50e-12 * 1e-4 / 1.602176634e-19)
    truth = stem.truth()
    assert truth["dose_map"].sum() * truth["dose_cell"] ** 2 == pytest.approx(dose.sum())
    assert joined(made, "data").sum() == pytest.approx(dose.sum(), rel=0.1)


def test_a_blanked_beam_gives_dark_frames() -> None:
    stem = column()
    stem.blank(Blank())
    made = blocks(stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (2, 2), 1e-4)))
    assert joined(made, "data").sum() == 0
    assert joined(made, "dose").sum() == 0
    stem.unblank(Unblank())
    assert joined(blocks(stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (2, 2), 1e-4))), "data").sum() > 0


def test_a_vacuum_reference_shows_the_aperture() -> None:
    stem = column(misalignment=0.0)
    made = blocks(stem.acquire_reference(AcquireReference("vacuum_probe", 20)))
    frame = joined(made, "data").mean(axis=0)
    y, x = np.indices(frame.shape)
    centre = ((frame * y).sum() / frame.sum(), (frame * x).sum() / frame.sum())
    assert centre == pytest.approx((16.0, 16.0), abs=0.05)
    assert np.sqrt(np.count_nonzero(frame > frame.max() / 2) / np.pi) == pytest.approx(25 / 8, abs=0.3)
    with pytest.raises(DriverError, match="zero_loss"):
        stem.acquire_reference(AcquireReference("zero_loss"))


def test_make_safe_ends_a_paced_scan_at_once() -> None:
    stem = column(pace=1.0)
    taken = stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (8, 8), 0.5))
    buffer = FrameBuffer.allocate(taken.spec, 4)
    next(taken.frames)
    ended = threading.Event()

    def pump() -> None:
        try:
            while True:
                taken.frames.send(buffer)
        except StopIteration:
            ended.set()

    thread = threading.Thread(target=pump)
    thread.start()
    ended.wait(0.2)
    began = time.monotonic()
    stem.make_safe()
    assert ended.wait(0.5)
    assert time.monotonic() - began < 0.5
    assert stem.read_back()["blanked"] is True
    thread.join()
    stem.close()


@pytest.mark.parametrize(("pace", "threads"), [(None, 1), (1.0, 2)])
def test_it_keeps_the_contract_of_a_driver(pace: float | None, threads: int) -> None:
    small = {"tile": 4, "carbon": 0.1, "settling": 0.02, "pace": pace, "threads": threads}
    assert check_driver(lambda: column(**small)) == []

"""The driver to copy keeps its contract, and on a bad day says in one line what is wrong and keeps what came."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from probeloop.drivers.template import Template, TemplateSettings

from probeloop.data.commands import Scan, SetDetector
from probeloop.data.errors import DriverError, SettingsError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region
from probeloop.discover import load_instrument
from probeloop.testing.check_driver import check_driver

from .raw_camera import Faults, RawCamera

FIELD = Region(0.0, 0.0, 100e-9, 60e-9)
SCAN = Scan(FIELD, (5, 9), 1e-3)


def driver(camera: RawCamera, **more: Any) -> Template:
    return Template(TemplateSettings(field_of_view=(100e-9, 60e-9), port=camera.port, timeout=0.5, **more))


def read(template: Template, command: Scan = SCAN, capacity: int = 7) -> tuple[dict[int, Any], list[int], str]:
    """Pump a scan to its end; return frames by pixel, the pixels in order (-1 = a repeat), and the error."""
    made = template.scan(command)
    found, order, error = {}, [], ""
    next(made.frames)
    while True:
        buffer = FrameBuffer.allocate(made.spec, capacity)
        try:
            n = made.frames.send(buffer)
        except StopIteration:
            break
        except DriverError as problem:
            error = str(problem)
            break
        for row in range(n):
            pixel = int(buffer.scan_index[row])
            assert (pixel == -1) == bool(buffer.flags[row] & FrameFlag.PATTERN_REPEAT)
            order.append(pixel)
            if pixel >= 0:
                found[pixel] = buffer.data[row].copy()
    made.frames.close()
    return found, order, error


def test_it_keeps_the_contract() -> None:
    with RawCamera(pace=1e-3) as camera:
        assert check_driver(lambda: driver(camera)) == []


def test_every_frame_comes_bit_for_bit() -> None:
    with RawCamera() as camera:
        template = driver(camera)
        for _ in range(2):  # the second run finds nothing of the first
            found, order, error = read(template)
            assert (order, error) == (list(range(45)), "")
            assert all(np.array_equal(found[i], camera.frame(i)) for i in range(45))
        assert template.read_back().items() >= {"exposure_s": 1e-3, "acquiring": False, "width": 6}.items()
        template.close()


def test_a_scan_of_several_frames_goes_round_the_map_again() -> None:
    with RawCamera() as camera:
        template = driver(camera)
        _, order, _ = read(template, Scan(FIELD, (2, 3), 1e-3, frames=2))
        assert order == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
        template.close()


@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_pixels_go_by_the_cameras_number(capacity: int) -> None:
    with RawCamera(Faults(drop={3, 44}, twice={9})) as camera:
        template = driver(camera)
        found, order, error = read(template, capacity=capacity)
        assert set(range(45)) - set(found) == {3, 44}
        assert order.count(-1) == 1
        assert error == ""
        assert all(np.array_equal(frame, camera.frame(i)) for i, frame in found.items())
        template.close()


@pytest.mark.parametrize(
    ("faults", "came", "words"),
    [
        (Faults(close_after=20), 20, "it closed the connection after frame 19 of 45"),
        (Faults(half_of=20), 20, "it closed the connection within a frame after frame 19 of 45"),
        (Faults(lie_after=20), 20, "a frame of 46 bytes, not 48, after frame 19 of 45"),
        (Faults(extra=45), 45, ""),
        (Faults(close_after=0), 0, "it closed the connection after frame -1 of 45"),
    ],
)
def test_what_came_is_kept_and_the_rest_is_one_line(faults: Faults, came: int, words: str) -> None:
    with RawCamera(faults) as camera:
        template = driver(camera)
        found, _, error = read(template)
        assert len(found) == came
        assert words in error
        assert bool(error) == bool(words)
        camera.faults = Faults()
        assert len(read(template)[0]) == 45  # and it is usable again
        assert not camera.acquiring
        template.close()


def test_a_wait_for_frames_that_never_come_is_ended_by_make_safe() -> None:
    with RawCamera(Faults(stall_after=10)) as camera:
        template = driver(camera)
        ended = threading.Thread(target=read, args=(template,))
        ended.start()
        while camera.runs == 0 or not camera.acquiring:
            ended.join(0.02)
        template.make_safe()
        ended.join(2.0)
        assert not ended.is_alive()
        assert template.read_back()["acquiring"] is False
        template.close()


def test_a_run_that_nobody_reads_leaves_nothing_open() -> None:
    with RawCamera(pace=1e-3) as camera:
        template = driver(camera)
        template.scan(SCAN)
        template.make_safe()
        assert template.read_back()["acquiring"] is False
        template.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "gives no answer to state"),
        (b"\xff\xfe garbage\n", "gives no answer to state"),
        (b"[" * 4000, "gives no answer to state"),
        (b"3\n", "refuses state: 3"),
        (b'{"ok": false, "error": "busy"}\n', "refuses state"),
        (b'{"ok": true}\n', "is another one"),
        (b'{"ok": true, "width": 1000000, "height": 1000000, "dtype": "<u2"}\n', "is another one"),
        (b'{"ok": true, "width": 4, "height": 4, "dtype": "O"}\n', "is another one"),
    ],
)
def test_a_camera_that_is_another_one_is_one_line(answer: bytes, words: str) -> None:
    with RawCamera(Faults(answer=answer)) as camera, pytest.raises(DriverError, match=words) as told:
        driver(camera)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 300


def test_nobody_there_and_busy_are_one_line() -> None:
    with RawCamera() as camera:
        template = driver(camera)
        camera.acquiring = True
        with pytest.raises(DriverError, match="refuses run"):
            template.scan(SCAN)
    template.make_safe()  # it is gone: nothing to make safe, and nothing raised
    with pytest.raises(DriverError, match="does not answer"):
        template.read_back()
    template.close()


def test_what_it_lacks_is_refused() -> None:
    with RawCamera() as camera:
        template = driver(camera)
        with pytest.raises(DriverError, match="nothing else to set"):
            template.set_detector(SetDetector(binning=2))
        template.set_detector(SetDetector(exposure=0.25))
        assert template.read_back()["exposure_s"] == 0.25
        with pytest.raises(DriverError, match="order raster"):
            template.scan(Scan(FIELD, (5, 9), 1e-3, order="serpentine"))
        template.close()


def test_the_field_of_view_has_no_default() -> None:
    with pytest.raises(SettingsError, match="field_of_view: missing"):
        load_instrument("template", {}, kind="Driver")

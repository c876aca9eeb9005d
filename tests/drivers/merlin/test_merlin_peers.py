"""Against programs of other people: LiberTEM-live's Merlin simulator on real files, and its client on our server."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merlin_site import FIELD, expected, scan, take
from probeloop.drivers.merlin import Merlin, MerlinSettings
from probeloop.simulators.servers.merlin import MerlinServer, PoolSource
from probeloop.simulators.servers.merlin_frames import Format

from probeloop.bench.peers import free_ports, program, started
from probeloop.data.errors import DriverError

pytestmark = [pytest.mark.peers("libertem-live"), pytest.mark.timeout(300)]
SINGLE_QUAD, NAVIGATION, ROI = (
    "Merlin_Single_Quad.zip", "Merlin_navigation4x2_ROI.zip", "Merlin_navigation4x2_signalNx256_ROI.zip"
)  # fmt: skip
FILES = [
    (SINGLE_QUAD, "Single_9_Frame_CounterDepth_1_Rows_256", (3, 3), 1, (256, 256)),
    (SINGLE_QUAD, "Single_9_Frame_CounterDepth_6_Rows_256", (3, 3), 6, (256, 256)),
    (SINGLE_QUAD, "Single_9_Frame_CounterDepth_12_Rows_256", (3, 3), 12, (256, 256)),
    (SINGLE_QUAD, "Single_9_Frame_CounterDepth_24_Rows_256", (3, 3), 24, (256, 256)),
    (SINGLE_QUAD, "Quad_9_Frame_CounterDepth_6_Rows_256", (3, 3), 6, (512, 512)),
    (SINGLE_QUAD, "Quad_9_Frame_CounterDepth_12_Rows_256", (3, 3), 12, (512, 512)),
    (SINGLE_QUAD, "Quad_9_Frame_CounterDepth_24_Rows_256", (3, 3), 24, (512, 512)),
    (NAVIGATION, "001_4x2_6bit", (2, 4), 6, (256, 256)),
    (NAVIGATION, "002_4x2_6bit_roi128", (2, 4), 6, (128, 256)),
    (ROI, "002_merlin_test_roi_sig256x128_nav4x2_hot_pixel_52x_39y", (2, 4), 12, (128, 256)),
]
RAW = [
    (SINGLE_QUAD, "Single_9_Frame_CounterDepth_1_Rows_256RAW", (3, 3), 1, (256, 256)),
    (SINGLE_QUAD, "Quad_9_Frame_CounterDepth_1_Rows_256RAW", (3, 3), 1, (512, 512)),
]
READ = """
import sys
import numpy as np
from libertem.api import Context
from libertem.io.dataset.base import BufferedBackend
from libertem.udf.base import UDF
class Keep(UDF):
    def get_result_buffers(self):
        return {"frames": self.buffer(kind="nav", extra_shape=tuple(self.meta.dataset_shape.sig), dtype="uint32")}
    def process_frame(self, frame):
        self.results.frames[:] = frame
"""
FROM_FILE = (
    READ
    + """
with Context.make_with("inline") as context:
    shape = (int(sys.argv[3]), int(sys.argv[4]))
    data = context.load("mib", path=sys.argv[1], nav_shape=shape, io_backend=BufferedBackend())
    np.save(sys.argv[2], context.run_udf(dataset=data, udf=Keep())["frames"].data)
"""
)
FROM_SOCKET = (
    READ
    + """
from libertem_live.api import LiveContext
from libertem_live.detectors.merlin.control import MerlinControl
out, control, data, ny, nx, depth, form = sys.argv[1], *map(int, sys.argv[2:8])
with LiveContext.make_with("inline") as context:
    made = context.make_connection("merlin").open(api_port=control, data_port=data)
    with made as connection:
        with MerlinControl(port=control) as c:
            for name, value in (("COUNTERDEPTH", depth), ("FILEFORMAT", form), ("NUMFRAMESTOACQUIRE", ny * nx),
                                ("ACQUISITIONPERIOD", 2)):
                c.set(name, value)
            c.cmd("STARTACQUISITION")
        pending = connection.wait_for_acquisition(timeout=20)
        acquisition = context.make_acquisition(conn=connection, nav_shape=(ny, nx), pending_aq=pending)
        np.save(out, context.run_udf(dataset=acquisition, udf=Keep())["frames"].data)
"""
)


def unpacked(data_dir: Path, archive: str, name: str, to: Path) -> Path:
    """Unpack a measured file and its header; return the header."""
    with zipfile.ZipFile(data_dir / "merlin" / archive) as opened:
        opened.extractall(to, [f"{name}.hdr", f"{name}.mib"])
    return to / f"{name}.hdr"


def read_by_libertem(header: Path, shape: tuple[int, int], out: Path) -> Any:
    """Return the frames of a file as LiberTEM's own reader has them."""
    told = (header, out, *shape)
    subprocess.run([program("libertem-live", "python"), "-c", FROM_FILE, *map(str, told)], check=True, timeout=200)
    return np.load(out)


@contextmanager
def simulator(header: Path, shape: tuple[int, int], *more: str) -> Iterator[tuple[int, int]]:
    """Run LiberTEM-live's simulator on a file; yield its control and data port."""
    control, data, trigger = free_ports(3)
    command = [
        program("libertem-live", "libertem-live-mib-sim"), str(header), "--host", "127.0.0.1", "--control-port",
        str(control), "--data-port", str(data), "--trigger-port", str(trigger), "--wait-trigger", "--cached", "MEM",
        "--nav-shape", *map(str, shape), *more,
    ]  # fmt: skip
    with started(command, header.with_suffix(".log")) as peer:
        peer.wait_for_ports([control, data, trigger])
        yield control, data


def driver_of(ports: tuple[int, int], **values: Any) -> Merlin:
    """Return a driver; the first answer may take as long as a compiler."""
    return Merlin(
        MerlinSettings(
            **{"field_of_view": (FIELD, FIELD), "control_port": ports[0], "data_port": ports[1], "trigger": "soft",
               "timeout": 20.0, **values}
        )
    )  # fmt: skip


@pytest.mark.parametrize(("archive", "name", "shape", "depth", "pixels"), FILES, ids=lambda v: str(v))
def test_real_frames_arrive_as_rosettasciio_reads_them(
    archive: str, name: str, shape: tuple[int, int], depth: int, pixels: tuple[int, int], data_dir: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    from rsciio.quantumdetector import load_mib_data

    header = unpacked(data_dir, archive, name, tmp_path)
    measured = load_mib_data(str(header.with_suffix(".mib"))).reshape(-1, *pixels)
    with simulator(header, shape) as ports:
        driver = driver_of(ports)
        for _ in range(2):  # over the same connection
            taken = take(driver.scan(scan(shape)))
            assert taken.error is None
            assert taken.pixels.tolist() == list(range(len(measured)))
            assert taken.acquisition.spec.frame_shape == pixels
            assert np.array_equal(taken.data, measured)
            assert taken.acquisition.settings["header_counter_depth"] == depth
            told = driver.read_back()
            assert (told["frames_refused"], told["frames_repeated"], told["bytes_skipped"]) == (0, 0, 0)
        driver.close()


@pytest.mark.parametrize(("archive", "name", "shape", "depth", "pixels"), RAW, ids=lambda v: str(v))
def test_raw_frames_arrive_as_libertem_reads_them(
    archive: str, name: str, shape: tuple[int, int], depth: int, pixels: tuple[int, int], data_dir: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    header = unpacked(data_dir, archive, name, tmp_path)
    measured = read_by_libertem(header, shape, tmp_path / "frames.npy").reshape(-1, *pixels)
    assert 0.01 < measured.mean() < 0.5
    with simulator(header, shape) as ports:
        driver = driver_of(ports, file_format="raw", pixels=pixels)
        taken = take(driver.scan(scan(shape)))
        driver.close()
    assert taken.error is None
    assert np.array_equal(taken.data, measured)


def test_its_garbage_before_the_trigger_is_left_out(data_dir: Path, tmp_path: Path) -> None:
    from rsciio.quantumdetector import load_mib_data

    header = unpacked(data_dir, NAVIGATION, "001_4x2_6bit", tmp_path)
    measured = load_mib_data(str(header.with_suffix(".mib"))).reshape(-1, 256, 256)
    with simulator(header, (2, 4), "--garbage") as ports:
        driver = driver_of(ports)
        taken = take(driver.scan(scan((2, 4))))
        assert taken.error is None
        assert np.array_equal(taken.data, measured)
        assert driver.read_back()["bytes_skipped"] == 21 * 1024
        driver.close()


def test_it_sends_twice_and_half_of_what_was_asked(data_dir: Path, tmp_path: Path) -> None:
    header = unpacked(data_dir, NAVIGATION, "001_4x2_6bit", tmp_path)
    with simulator(header, (2, 4)) as ports:  # whatever NUMFRAMESTOACQUIRE says, it sends eight
        driver = driver_of(ports)
        twice = take(driver.scan(scan((1, 4))))
        assert twice.pixels.tolist() == [0, 1, 2, 3]
        assert "sends more than the 4 frames asked for" in str(twice.error)
        driver.close()
        driver = driver_of(ports, timeout=1.0)
        half = take(driver.scan(scan((4, 4))))
        assert half.pixels.tolist() == list(range(8))
        assert "has sent nothing for 1.0 s after 8 of 16 frames" in str(half.error)
        assert take(driver.scan(scan((2, 4)))).error is None
        driver.close()


def test_it_goes_away_in_the_middle_of_a_run(data_dir: Path, tmp_path: Path) -> None:
    header = unpacked(data_dir, NAVIGATION, "001_4x2_6bit", tmp_path)
    with simulator(header, (2, 4)) as ports:
        driver = driver_of(ports)
        acquisition = driver.scan(scan((2, 4)))
    taken = take(acquisition)
    assert isinstance(taken.error, DriverError)
    assert driver.read_back()["connected"] is False
    driver.make_safe()
    driver.close()


def test_our_raw_frames_of_24_bits_are_what_libertem_takes_them_for(tmp_path: Path) -> None:
    form = Format((256, 256), 24, raw=True)
    counts = np.random.default_rng(1).integers(0, 1 << 24, (1, 256, 256)).astype(np.uint32)
    (tmp_path / "one.mib").write_bytes(form.messages(counts)[:, 15:].tobytes())
    (tmp_path / "one.hdr").write_bytes(form.acquisition_header(1, 1, "Internal"))
    read = read_by_libertem(tmp_path / "one.hdr", (1, 1), tmp_path / "frames.npy")  # of several it reads the first
    assert np.array_equal(read.reshape(1, 256, 256), counts)


@pytest.mark.parametrize(
    ("quad", "raw", "depth"),
    [(quad, raw, depth) for quad in (False, True) for raw in (False, True) for depth in (1, 6, 12, 24)
     if not (raw and depth == 24)],  # which it does not read
)  # fmt: skip
def test_its_client_reads_our_server(quad: bool, raw: bool, depth: int, tmp_path: Path) -> None:
    side = 512 if quad else 256
    source = PoolSource((side, side), pool=5)
    source.frames[:] = np.random.default_rng(3).integers(0, 1 << depth, source.frames.shape)
    out = tmp_path / "frames.npy"
    with MerlinServer(source, quad=quad) as server:
        told = (out, server.control_port, server.data_port, 4, 4, depth, 2 if raw else 0)
        command = [program("libertem-live", "python"), "-c", FROM_SOCKET, *map(str, told)]
        subprocess.run(command, check=True, timeout=200)
    frames = np.load(out).reshape(-1, side, side)
    assert np.array_equal(frames, expected(source, depth, np.arange(16)))

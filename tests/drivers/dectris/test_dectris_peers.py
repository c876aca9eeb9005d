"""The driver against control units that other people wrote, bit for bit against what they send."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from dectris_words import FIELD, counts, pumped, scan
from numpy.typing import NDArray
from probeloop.drivers.dectris import Dectris, DectrisSettings

from probeloop.api import AcquireReference
from probeloop.bench.peers import free_ports, peers_folder, program, started

bitshuffle = pytest.importorskip("bitshuffle", reason="the independent packer: pip install bitshuffle")
TICKIT = """
- type: tickit_devices.eiger.Eiger
  name: eiger
  inputs: {{}}
  host: 127.0.0.1
  port: {}
  stream_host: 127.0.0.1
  stream_legacy_port: {}
  stream_cbor_port: {}
"""
# Its sockets bind to an address and connect to it too, so that every other message goes nowhere: let them only bind.
LAUNCH = """
import aiozmq, zmq
from tickit.adapters.io.zeromq_push_io import ZeroMqPushIo
async def bound(host, port):
    return await aiozmq.create_zmq_stream(zmq.PUSH, bind=f"tcp://{host}:{port}")
ZeroMqPushIo.__init__.__defaults__ = (*ZeroMqPushIo.__init__.__defaults__[:2], bound)
from tickit.cli import main
main()
"""


@pytest.fixture(scope="module")
def measured(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint16]:
    """Return frames that a real detector took, (9, 512, 512), read by RosettaSciIO."""
    from rsciio.quantumdetector import file_reader

    folder = tmp_path_factory.mktemp("merlin")
    name = "Quad_9_Frame_CounterDepth_12_Rows_256.mib"
    with zipfile.ZipFile(data_dir / "merlin" / "Merlin_Single_Quad.zip") as packed:
        packed.extract(name, folder)
    frames: NDArray[np.uint16] = np.asarray(file_reader(str(folder / name))[0]["data"]).astype("<u2")
    assert frames.shape == (9, 512, 512)
    return frames


def dump_of(frames: NDArray[np.uint16], algorithm: str, path: Path) -> None:
    """Write what libertem's simulator sends: the parts of a series, each behind its length, packed by bitshuffle."""
    n, height, width = frames.shape
    config = {
        "x_pixels_in_detector": width, "y_pixels_in_detector": height, "bit_depth_image": 16, "nimages": 1,
        "ntrigger": n, "trigger_mode": "exte", "count_time": 1e-3, "frame_time": 1e-3, "compression": algorithm,
    }  # fmt: skip
    messages = [json.dumps({"htype": "dheader-1.0", "header_detail": "basic", "series": 7}), json.dumps(config)]
    parts = [message.encode() for message in messages]
    for number, frame in enumerate(frames):
        if algorithm == "bslz4":
            block, encoding = 4096, "bs16-lz4<"
            blob = struct.pack(">QI", frame.nbytes, 2 * block) + bitshuffle.compress_lz4(frame, block).tobytes()
        else:
            from numcodecs.lz4 import compress

            blob, encoding = bytes(compress(frame)[4:]), "lz4<"
        parts += [
            json.dumps({"htype": "dimage-1.0", "series": 7, "frame": number, "hash": ""}).encode(),
            json.dumps({"htype": "dimage_d-1.0", "shape": [width, height], "type": "uint16", "encoding": encoding,
                        "size": len(blob)}).encode(),
            blob,
            b'{"htype": "dconfig-1.0", "start_time": 0, "stop_time": 1, "real_time": 1}',
        ]  # fmt: skip
    parts.append(b'{"htype": "dseries_end-1.0", "series": 7}')
    path.write_bytes(b"".join(struct.pack("<q", len(part)) + part for part in parts))


@pytest.mark.peers("libertem-live")
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
def test_stream_v1_of_libertem_live(measured: NDArray[np.uint16], algorithm: Any, tmp_path: Path) -> None:
    frames = measured[np.arange(64) % len(measured)]
    dump_of(frames, algorithm, tmp_path / "dump.dat")
    (port,) = free_ports(1)
    sim = program("libertem-live", "libertem-live-dectris-sim")
    with started(
        [sim, str(tmp_path / "dump.dat"), "--port", str(port), "--zmqport", "0"], tmp_path / "said.txt"
    ) as peer:
        stream = int(peer.wait_for(r"listening on tcp://127\.0\.0\.1:(\d+)")[1])
        peer.wait_for_ports([port])
        driver = Dectris(
            DectrisSettings(
                field_of_view=FIELD,
                host="localhost",
                api_port=port,
                stream="v1",
                stream_port=stream,
                external="exte",
                compression=algorithm,
                silence=20.0,
                timeout=20.0,
            )
        )
        assert driver.describe().topics == {"camera": 4 * 512 * 512}
        for _ in range(2):
            made = driver.scan(scan(8, 8))
            assert made.settings["trigger_mode"] == "exte"
            got = pumped(made)
            assert got.error is None
            assert got.scan_index.tolist() == list(range(64))
            assert np.array_equal(got.data, frames)
            assert counts(driver) == {"received": 64}
        driver.close()


@contextmanager
def tickit(stream: str, folder: Path) -> Iterator[Dectris]:
    """Start tickit's Eiger and give a driver of it."""
    ports = free_ports(3)
    (folder / "eiger.yaml").write_text(TICKIT.format(*ports))
    command = [program("tickit", "python"), "-c", LAUNCH, "all", str(folder / "eiger.yaml")]
    with started(command, folder / "said.txt") as peer:
        peer.wait_for_ports(ports)
        driver = Dectris(
            DectrisSettings(
                field_of_view=FIELD,
                api_port=ports[0],
                stream=stream,
                stream_port=ports[1 + (stream == "v2")],
                trigger="internal",
                series="header",
                silence=20.0,
                timeout=20.0,
            )
        )
        try:
            yield driver
        finally:
            driver.close()


def what_tickit_sends(stream: str) -> NDArray[np.uint16]:
    """Return the picture of the tickit device, from its own file, unpacked by bitshuffle."""
    (data,) = (peers_folder() / "tickit").glob("lib/python3*/site-packages/tickit_devices/eiger/data")
    packed = (data / "frame_sample").read_bytes()
    shape = (4362, 4148)
    if stream == "v2":
        array = cbor2.loads((data / "stream2" / "image.cbor").read_bytes())["data"]["threshold_1"].value
        shape, packed = tuple(array[0]), array[1].value.value[2]
    size, block = struct.unpack_from(">QI", packed)
    assert size == 2 * shape[0] * shape[1]
    blocks = np.frombuffer(packed, np.uint8)[12:]
    picture: NDArray[np.uint16] = bitshuffle.decompress_lz4(blocks, shape, np.dtype("<u2"), block // 2)
    return picture


@pytest.mark.peers("tickit")
@pytest.mark.parametrize("stream", ["v1", "v2"])
def test_both_streams_of_tickit(stream: str, tmp_path: Path) -> None:
    picture = what_tickit_sends(stream)
    assert picture.shape == (4362, 4148)  # not square: only then a swap of the axes shows
    assert picture.max() == 65535
    with tickit(stream, tmp_path) as driver:
        values = driver.read_back()
        assert (values["temperature"], values["humidity"], values["state"]) == (24.5, 0.2, "na")
        for shape in ((1, 3), (2, 1)):
            made = driver.scan(scan(*shape, 0.12))
            got = pumped(made, 1)
            total = shape[0] * shape[1]
            assert got.error is None
            assert got.scan_index.tolist() == list(range(total))
            assert all(np.array_equal(frame, picture) for frame in got.data)
            assert counts(driver) == {"received": total}
            assert driver.read_back()["state"] == "idle"
        made = driver.acquire_reference(AcquireReference("dark", 2))
        next(made.frames)
        made.frames.close()
        assert driver.read_back()["acquiring"] is False
        driver.make_safe()

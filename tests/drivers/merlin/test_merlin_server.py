"""The simulated Merlin: what it answers, what it sends, and how it is started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from merlin_site import FIELD, scan, settings, take
from probeloop.drivers.merlin import Merlin, MerlinSettings
from probeloop.simulators.servers.__main__ import main
from probeloop.simulators.servers.merlin import MerlinServer, PoolSource, StemSource
from probeloop.simulators.stem import StemSettings, StemSimulator

from probeloop.data import commands as c
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region

START = [sys.executable, "-m", "probeloop.simulators.servers"]


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        ("GET,IMAGEX", "GET,IMAGEX,64,0"),
        ("GET,IMAGEX,0", "GET,IMAGEX,64,0"),
        ("GET,NONSENSE", "GET,NONSENSE,0,2"),
        ("SET,COUNTERDEPTH,6", "SET,COUNTERDEPTH,0"),
        ("SET,COUNTERDEPTH,8", "SET,COUNTERDEPTH,3"),
        ("SET,COUNTERDEPTH,x", "SET,COUNTERDEPTH,3"),
        ("SET,IMAGEX,8", "SET,IMAGEX,2"),
        ("CMD,STOPACQUISITION,0", "CMD,STOPACQUISITION,0"),
        ("CMD,SOFTTRIGGER", "CMD,SOFTTRIGGER,1"),
        ("CMD,EXPLODE", "CMD,EXPLODE,2"),
        ("DO,IT", "DO,IT,2"),
    ],
)
def test_every_request_has_its_answer(request_: str, reply: str) -> None:
    with MerlinServer(PoolSource((16, 64))) as server:
        assert server.commands.answer(request_) == reply


def test_nothing_can_be_set_while_it_runs() -> None:
    with MerlinServer(PoolSource((16, 64)), rate=1.0) as server:
        ask = server.commands.answer
        assert ask("SET,NUMFRAMESTOACQUIRE,100") == "SET,NUMFRAMESTOACQUIRE,0"
        assert ask("CMD,STARTACQUISITION") == "CMD,STARTACQUISITION,0"
        assert ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,1,0"
        assert ask("SET,COUNTERDEPTH,6") == "SET,COUNTERDEPTH,1"
        assert ask("CMD,STARTACQUISITION") == "CMD,STARTACQUISITION,1"
        assert ask("CMD,STOPACQUISITION") == "CMD,STOPACQUISITION,0"
        assert ask("GET,DETECTORSTATUS") == "GET,DETECTORSTATUS,0,0"


def test_its_frames_are_those_of_the_simulated_column() -> None:
    simulator = StemSimulator(StemSettings(seed=1, pixels=64, pixel_angle=4.7, pace=None))
    made = simulator.scan(c.Scan(Region(0.0, 0.0, 4e-9, 4e-9), (3, 4), 1e-3))
    frames = []
    next(made.frames)
    buffer = FrameBuffer.allocate(made.spec, 16)
    while len(frames) < 12:
        n = made.frames.send(buffer)
        frames += [each.copy() for each in buffer.data[:n][buffer.scan_index[:n] >= 0]]
    simulator.close()
    with MerlinServer(StemSource(64), rate=0.0) as server:
        driver = Merlin(settings(server, timeout=20.0))
        taken = take(driver.scan(scan((3, 4))))
        driver.close()
    assert taken.error is None
    assert taken.data.any()
    assert np.array_equal(taken.data, np.minimum(np.stack(frames), 4095))


def test_it_starts_as_a_program_says_its_ports_and_ends() -> None:
    arguments = ["merlin", "--source", "pool", "--pixels", "64", "--port", "0", "--data-port", "0", "--rate", "0"]
    process = subprocess.Popen([*START, *arguments, "--drop", "2"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        driver = Merlin(
            MerlinSettings(
                field_of_view=(FIELD, FIELD), control_port=told["control_port"], data_port=told["data_port"], buffer=1
            )
        )
        assert take(driver.scan(scan((2, 4)))).pixels.tolist() == [0, 2, 3, 4, 5, 6, 7]
        driver.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_a_wrong_option_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merlin", "--source", "pool", "--port", "0", "--data-port", "0", "--corrupt", "bit:3"]) == 2
    assert capsys.readouterr().err == "merlin: corrupt: 'bit' (allowed: header | length | payload)\n"
    assert main(["camera"]) == 2
    assert "merlin|dectris" in capsys.readouterr().err


def test_it_is_no_drop_in() -> None:
    from probeloop import discover

    folder = Path(discover.__file__).parents[2] / "simulators"
    assert not [each for each in discover.found() if each.path == folder / "servers"]

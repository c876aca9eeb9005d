"""The Nion driver on the devices of Nion Swift, which run in a process of their own (nion_swift_devices.py)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.drivers.nion import Nion
from probeloop.drivers.nion.settings import NionSettings

from probeloop.data import commands as c
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region

pytestmark = pytest.mark.peers("nion")
HERE = Path(__file__).parent
FIELD = Region(0.0, 0.0, 200e-9, 200e-9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NionSettings]:
    root = Path(os.environ.get("PROBELOOP_PEERS") or HERE.parents[1] / ".peers")
    python = root / "nion" / "bin" / "python"
    if not python.is_file():
        pytest.skip("nionswift-usim is not there: make peers")
    drivers = HERE.parents[1] / "drivers"
    swift = subprocess.Popen(
        [python, HERE / "nion_swift_devices.py", drivers / "nion", tmp_path_factory.mktemp("nion")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert swift.stdout is not None
    port = int(swift.stdout.readline())
    yield NionSettings(attach=True, port=port, key="a word", binning=8)
    swift.communicate(timeout=30)


def pumped(acquisition: Any) -> Any:
    rows = []
    next(acquisition.frames)
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, 64)
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            return np.concatenate(rows)
        assert (buffer.scan_index[:n] >= 0).all() or acquisition.spec.sync == "none"
        rows.append(buffer.data[:n].copy())


def test_it_is_driven_like_the_other_one(settings: NionSettings) -> None:
    nion = Nion(settings)
    try:
        assert nion.describe().origin == "experiment"
        nion.unblank(c.Unblank())
        nion.set_aberrations(c.SetAberrations({"C10": 0.0, "C12a": 1e-8}, absolute=True))
        assert nion.read_back().items() >= {"C10": 0.0, "C12a": 1e-8, "blanked": False}.items()
        made = nion.scan(c.Scan(FIELD, (6, 6), 5e-3))
        assert made.spec.origin == "experiment"
        frames = pumped(made)
        assert frames.shape == (36, 256, 256)
        image = pumped(nion.scan(c.Scan(FIELD, (150, 150), 1e-6, channels=("MAADF", "HAADF"))))[:, 1]
        seen = image.reshape(6, 25, 6, 25).mean(axis=(1, 3))
        absorbed = -frames.sum(axis=(1, 2)).reshape(6, 6)
        assert np.corrcoef(seen.ravel(), absorbed.ravel())[0, 1] > 0.8
        assert np.corrcoef(seen[:, ::-1].ravel(), absorbed.ravel())[0, 1] < 0.6
        assert np.corrcoef(seen.T.ravel(), absorbed.ravel())[0, 1] < 0.6
        dark = pumped(nion.acquire_reference(c.AcquireReference("dark", 2)))
        assert abs(float(dark.mean())) < 1e-3 * float(frames.mean())
        made = nion.acquire_spectrum(c.AcquireSpectrum((0.0, 0.0), c.EELS(5e-3)))
        axis, (counts,) = made.spec.sig[0], pumped(made)
        assert abs(axis.values()[int(np.argmax(counts))]) <= axis.scale
        with pytest.raises(DriverError, match=r"lies outside of Nion Swift's scan\. scan a larger field there first"):
            nion.move_probe(c.MoveProbe((1e-6, 0.0)))
        with pytest.raises(DriverError, match="no sample is moved away by itself"):
            pumped(nion.acquire_reference(c.AcquireReference("vacuum_probe")))
    finally:
        nion.close()


def test_who_leaves_leaves_it_blanked_and_running(settings: NionSettings) -> None:
    nion = Nion(settings)
    nion.unblank(c.Unblank())
    guard = Nion.guard_connection(settings)
    assert guard.read_back()["blanked"] is False
    nion._bridge._hang_up()  # as a killed instrument
    while not guard.read_back()["blanked"]:
        pass
    nion.unblank(c.Unblank())  # it attaches again
    guard.make_safe()
    assert nion.read_back()["blanked"] is True
    guard.close()
    nion.close()
    with pytest.raises(DriverError, match="does not know you"):
        Nion(NionSettings(attach=True, port=settings.port, key="another"))

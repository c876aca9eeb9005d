"""The measured files of shared/data through the replay."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest
from probeloop.simulators.replay import Replay, ReplaySettings

from probeloop.data.commands import BEPS, EDS, AcquireSpectrum, Diffraction
from probeloop.data.errors import SourceError
from probeloop.data.frame import FrameBuffer

h5py = pytest.importorskip("h5py")


def _spectrum(instrument: Replay, position: tuple[float, float], kind: object) -> np.ndarray:
    acquisition = instrument.acquire_spectrum(AcquireSpectrum(position, kind))  # type: ignore[arg-type]
    buffer = FrameBuffer.allocate(acquisition.spec, 1)
    next(acquisition.frames)
    assert acquisition.frames.send(buffer) == 1
    acquisition.frames.close()
    return buffer.data[0]


def test_switching_loops_bit_for_bit(data_dir: Path) -> None:
    path = data_dir / "spectra/BEPS_PTO_50x50.h5"
    instrument = Replay(ReplaySettings(file=str(path), pace="unlimited"))
    with h5py.File(path) as file:
        group = file["Channel_000/generic"]
        stored, x, y = group["generic"][()], group["X"][()], group["Y"][()]
    for i, j in np.random.default_rng(0).integers(0, 50, (20, 2)):
        assert _spectrum(instrument, (x[i], y[j]), BEPS()).tobytes() == stored[i, j].tobytes()


def test_domain_walls_in_the_right_orientation(data_dir: Path) -> None:
    path = data_dir / "pfm/PTO_Funakubo0001.h5"
    instrument = Replay(ReplaySettings(file=str(path), pace="unlimited"))
    with h5py.File(path) as file:
        height = file["Measurement_000/Channel_0/Channel_0/Channel_0"][()]
        phase = file["Measurement_000/Channel_3/Channel_3/Channel_3"][()]
    assert instrument.main.step == pytest.approx((1e-6 / 255, 1e-6 / 255))
    np.testing.assert_array_equal(instrument.main.data[..., 0], height.T)
    np.testing.assert_allclose(instrument.main.data[..., 3], np.deg2rad(phase.T), rtol=1e-6)
    assert [c.units for c in instrument.main.channels] == ["m", "m", "m", "rad"]


@pytest.mark.parametrize(
    ("file", "pixel_size", "shape", "step"),
    [
        ("pfm/PZT_final0001.h5", 0.0, (256, 256), 2e-6 / 255),
        ("pfm/scan_0001.ibw", 0.0, (256, 256), 5e-6 / 255),
        ("stem/MoS2_stem_Exp-000-2.npy", 0.0, (512, 512), 9e-9 / 512),
        ("spectra/bepfm_test_data.npy", 5e-9, (32, 32), 5e-9),
        ("spectra/EELS_STO.dm3", 1e-9, (1, 1), 1e-9),
        ("stem/HAADFscan.mrc", 0.0, (16, 16), 5.679131317138672e-9),
    ],
)
def test_every_kind_of_file_opens_with_its_scale(
    data_dir: Path, file: str, pixel_size: float, shape: tuple[int, int], step: float
) -> None:
    instrument = Replay(ReplaySettings(file=str(data_dir / file), pixel_size=pixel_size))
    assert instrument.main.shape == shape
    assert instrument.main.step == pytest.approx((step, step), rel=1e-6)


def test_a_file_without_scale_asks_for_one(data_dir: Path) -> None:
    with pytest.raises(SourceError, match="pixel_size"):
        Replay(ReplaySettings(file=str(data_dir / "spectra/bepfm_test_data.npy")))


def test_patterns_of_a_merlin_scan(data_dir: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data_dir / "merlin/Merlin_navigation4x2_ROI.zip") as bundle:
        bundle.extractall(tmp_path)
    path = sorted(tmp_path.rglob("*.mib"))[0]
    instrument = Replay(ReplaySettings(file=str(path), pixel_size=1e-9, pace="unlimited"))
    assert instrument.main.kind == "frames"
    assert list(instrument.describe().topics) == ["camera", "spectrum"]
    place = instrument.main.origin
    made = _spectrum(instrument, place, Diffraction(exposure=1e-3))
    np.testing.assert_array_equal(made, instrument.main.data[0, 0])


@pytest.mark.parametrize("file", ["stem/test1.blo", "stem/EMDReader_SpectrumImage_Si.emd"])
def test_a_format_whose_package_is_absent_says_so(data_dir: Path, file: str) -> None:
    package = "skimage" if file.endswith("blo") else "sparse"
    settings = ReplaySettings(file=str(data_dir / file), pixel_size=1e-9, pace="unlimited")
    if importlib.util.find_spec(package) is None:
        with pytest.raises(SourceError, match=r"needs .* pip install"):
            Replay(settings)
        return
    instrument = Replay(settings)
    assert instrument.main.kind in ("frames", "spectra")
    kind = Diffraction(exposure=0.1) if instrument.main.kind == "frames" else EDS(exposure=0.1)
    np.testing.assert_array_equal(_spectrum(instrument, instrument.main.origin, kind), instrument.main.data[0, 0])

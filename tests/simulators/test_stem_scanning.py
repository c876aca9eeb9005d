"""Where the probe goes: paths, turned regions, deflectors that lag, lines that jitter, flyback; annular detectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator, annular
from probeloop.simulators.stem.dose import CELL, DoseMap
from probeloop.simulators.stem.noise import stream_seed
from probeloop.simulators.stem.physics import Geometry, Scatterer, make_probe
from probeloop.simulators.stem.scanning import Deflection

from probeloop.data.aberrations import Aberrations, wavelength
from probeloop.data.commands import Scan, ScanPath, SetDetector
from probeloop.data.driver import Acquisition
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer, FrameFlag
from probeloop.data.scan import Region, visit_order

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip
ELECTRON = 1.602176634e-19


def column(**parameters: Any) -> StemSimulator:
    return StemSimulator(StemSettings(**(SMALL | parameters)))


def taken(acquisition: Acquisition, capacity: int = 64) -> dict[str, np.ndarray]:
    def rows() -> Iterator[dict[str, np.ndarray]]:
        next(acquisition.frames)
        while True:
            buffer = FrameBuffer.allocate(acquisition.spec, capacity)
            try:
                n = acquisition.frames.send(buffer)
            except StopIteration:
                return
            yield {k: getattr(buffer, k)[:n].copy() for k in ("data", "position", "scan_index", "dose", "flags")}

    parts = list(rows())
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


@pytest.mark.parametrize("order", ["raster", "serpentine"])
def test_a_path_over_the_pixels_of_a_turned_region_sees_what_its_scan_sees(order: Any) -> None:
    region, shape = Region(0.3e-9, -0.2e-9, 1.5e-9, 0.6e-9, 0.5), (4, 6)
    scanned = taken(column().scan(Scan(region, shape, 1e-4, order)))
    visits = visit_order(shape, order)
    c, s = np.cos(0.5), np.sin(0.5)
    iy, ix = np.divmod(visits, 6)
    along, down = (ix - 2.5) * 0.25e-9, (iy - 1.5) * 0.15e-9
    places = np.stack([0.3e-9 + c * along - s * down, -0.2e-9 + s * along + c * down], axis=1)
    np.testing.assert_allclose(scanned["position"], places, atol=1e-18)
    acquisition = column().scan_path(ScanPath(tuple(map(tuple, places)), 1e-4))
    assert [axis.name for axis in acquisition.spec.nav] == ["point"]
    walked = taken(acquisition)
    np.testing.assert_array_equal(walked["scan_index"], np.arange(24))
    np.testing.assert_array_equal(scanned["scan_index"], visits)
    np.testing.assert_array_equal(walked["data"], scanned["data"])


def test_a_spiral_is_a_path() -> None:
    part = np.sqrt((np.arange(50) + 0.5) / 50)
    places = 1e-9 * part[:, None] * np.stack([np.cos(20 * part), np.sin(20 * part)], axis=1)
    stem = column()
    walked = taken(stem.scan_path(ScanPath(tuple(map(tuple, places)), 1e-4)))
    np.testing.assert_array_equal(walked["position"], places)
    assert stem.read_back()["position_x"] == places[-1, 0]
    assert walked["flags"][0] & FrameFlag.LINE_START
    with pytest.raises(DriverError, match="without a place"):
        stem.scan_path(ScanPath((), 1e-4))


def test_deflectors_lag_as_a_first_order_filter() -> None:
    told = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, -2.0], [1.0, -2.0]])
    times = np.array([0, 1000, 2000, 5000], np.int64)
    places = Deflection(settling=1e-6).places(told, times, 1000, np.zeros(4, np.int64), (0.0, 0.0))
    np.testing.assert_array_equal(places[:2], 0.0)
    np.testing.assert_allclose(places[2], [1 - np.exp(-0.5), -2 * (1 - np.exp(-0.5))])
    np.testing.assert_allclose(places[3, 0], 1 - np.exp(-1.0 - 2.5))  # it had the time of a flyback, too


def test_lag_and_jitter_move_the_probe_and_not_what_was_commanded() -> None:
    scan = Scan(Region(0, 0, 2e-9, 2e-9), (6, 8), 1e-4)
    plain, lagging, shaken = column(), column(scan_settling=5e-5), column(line_jitter=2e-11)
    kept = [taken(stem.scan(scan)) for stem in (plain, lagging, shaken)]
    for other in kept[1:]:
        np.testing.assert_array_equal(other["position"], kept[0]["position"])
        assert (other["data"] != kept[0]["data"]).any()
    lines = np.repeat(np.arange(3000), 2)
    shifts = Deflection(line_jitter=2e-11, seed=1).places(np.zeros((6000, 2)), lines, 1, lines, (0, 0))
    np.testing.assert_array_equal(shifts[::2], shifts[1::2])
    assert shifts.std(axis=0) == pytest.approx([2e-11, 2e-11], rel=0.06)
    again = taken(shaken.scan(scan))  # other lines, another jitter
    assert (again["data"] != kept[2]["data"]).any()


def test_the_beam_stays_on_in_flyback_and_for_lost_frames() -> None:
    scan = Scan(Region(0, 0, 2e-9, 1e-9), (4, 8), 1e-4, flyback_time=4e-4)
    stem, losing = column(drift=0.0), column(drift=0.0, drop_frames=(3, 31))
    rate = 50e-12 / ELECTRON
    for each in (stem, losing):
        taken(each.scan(scan))
        total = each.truth()["dose_map"].sum() * each.truth()["dose_cell"] ** 2
        assert total == pytest.approx(rate * (32 * 1e-4 + 3 * 4e-4))
    np.testing.assert_allclose(stem.truth()["dose_map"], losing.truth()["dose_map"])


def test_frames_are_lost_and_doubled_at_their_rates_and_all_others_stay_in_place() -> None:
    scan = Scan(Region(0, 0, 1e-9, 1e-9), (48, 48), 1e-4)
    whole = taken(column().scan(scan))["data"]
    bad = taken(column(missed_rate=0.05, doubled_rate=0.03).scan(scan))
    second = (bad["flags"] & int(FrameFlag.PATTERN_REPEAT)) != 0
    assert second.sum() == pytest.approx(0.03 * 2304, abs=4 * np.sqrt(0.03 * 2304))
    assert np.all(bad["scan_index"][second] == -1)
    came = bad["scan_index"][~second]
    assert 2304 - came.size == pytest.approx(0.05 * 2304, abs=4 * np.sqrt(0.05 * 2304))
    np.testing.assert_array_equal(bad["data"][~second], whole[came])


def test_a_blurred_probe_spreads_its_dose() -> None:
    dose = DoseMap(20e-9, 2.5e-12, 25e-3)
    assert dose.footprint(Aberrations()) == pytest.approx(0.61 * 2.5e-12 / 25e-3)
    assert dose.footprint(Aberrations(C10=-100e-9)) == pytest.approx(2.5e-9, rel=0.02)
    dose.lay(np.array([[1e-9, -2e-9]]), 1e6, 2.5e-9)
    assert dose.electrons.sum() == pytest.approx(1e6)
    assert np.count_nonzero(dose.electrons) * CELL**2 == pytest.approx(np.pi * 2.5e-9**2, rel=0.05)
    y, x = np.nonzero(dose.electrons)
    centre = (np.array([x.mean(), y.mean()]) + 0.5 - dose.electrons.shape[0] // 2) * CELL
    np.testing.assert_allclose(centre, [1e-9, -2e-9], atol=CELL / 4)


def test_the_specimen_walks_besides_its_drift() -> None:
    scan = Scan(Region(0, 0, 1e-9, 1e-9), (4, 4), 1e-3)
    still, walking, again = column(drift=0.0), column(drift=0.0, drift_walk=1e-9), column(drift=0.0, drift_walk=1e-9)
    kept = [taken(stem.scan(scan))["data"] for stem in (still, walking, again)]
    assert (kept[0] != kept[1]).any()
    np.testing.assert_array_equal(kept[1], kept[2])


def test_annular_detectors_count_what_the_camera_has_in_their_annulus() -> None:
    scan = Region(0, 0, 2e-9, 2e-9)
    acquisition = column().scan(Scan(scan, (8, 8), 1e-4, channels=("bf", "haadf")))
    assert (acquisition.topic, acquisition.spec.kind, acquisition.spec.frame_shape) == ("scan", "values", (2,))
    assert [c.name for c in acquisition.spec.channels] == ["bf", "haadf"]
    counts = taken(acquisition)["data"]
    patterns = taken(column().scan(Scan(scan, (8, 8), 1e-4)))["data"]
    k = (np.arange(32) - 16) * 8.0
    radius = np.hypot(k[:, None], k)
    for i, (low, high) in enumerate([(0, 25), (60, 256 / 3)]):
        expected = patterns[:, (radius >= low) & (radius < high)].sum()
        assert counts[:, i].sum() == pytest.approx(expected, abs=6 * np.sqrt(expected))
    single = column().scan(Scan(scan, (3, 3), 1e-4, channels=("abf",)))
    assert single.spec.frame_shape == ()
    assert taken(single)["data"].shape == (9,)


def test_a_detector_that_is_not_there_or_too_wide_is_refused() -> None:
    with pytest.raises(DriverError, match="no detector eds"):
        column().scan(Scan(Region(0, 0, 1e-9, 1e-9), (2, 2), 1e-4, channels=("eds",)))
    geometry = Geometry(32, 8e-3, wavelength(200e3), 25e-3)
    with pytest.raises(DriverError, match="beyond what is simulated"):
        annular.Annuli(geometry, ("wide",), {"wide": (0.05, 0.2)})
    assert any("band limit" in text for text in StemSettings(annuli={"wide": (50.0, 200.0)}).problems())


def test_a_thermal_diffuse_channel_takes_the_place_of_the_elastic_one() -> None:
    class Warm(Scatterer):
        def haadf(self, probe: Any, x: float, y: float, frame: int = 0) -> float:
            return 0.02 + x

    geometry = Geometry(32, 8e-3, wavelength(200e3), 25e-3)
    detectors = annular.Annuli(geometry, ("bf", "haadf"), annular.default_annuli(geometry))
    warm, cold = Warm(geometry, None), Scatterer(geometry, None)
    assert [c.quantity for c in detectors.channels(warm)] == ["elastic scattering", "thermal diffuse scattering"]
    assert [c.quantity for c in detectors.channels(cold)] == ["elastic scattering"] * 2
    out = np.zeros((1, 2), np.float32)
    probe, stream = make_probe(Aberrations(), geometry), (stream_seed(1), np.uint64(5))
    detectors.take(warm, probe, (0.01, 0.0), 1e6, 1e-3, stream, out)
    assert out[0, 1] == pytest.approx(0.03e6, abs=5 * np.sqrt(0.03e6))
    assert out[0, 0] == pytest.approx(1e6, rel=0.08)  # the rim is sampled


def test_the_dose_goes_on_behind_a_retracted_camera() -> None:
    stem = column()
    stem.set_detector(SetDetector(inserted=False))
    seen = taken(stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (2, 2), 1e-4)))
    assert seen["data"].sum() == 0
    assert seen["dose"].min() > 0
    assert stem.truth()["dose_map"].sum() > 0

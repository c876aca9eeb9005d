"""Dose and drift, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.driver import Grid, InstrumentInfo
from probeloop.data.errors import RefusedError
from probeloop.data.limits import Limits
from probeloop.data.scan import Region
from probeloop.instrument.dose import ELEMENTARY_CHARGE, DoseAccount, DoseMap
from probeloop.instrument.drift import Drift, in_scan_frame
from probeloop.instrument.gate import GateState
from probeloop.testing.fake_driver import SMALL_SCAN, FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

LOW, HIGH = (-50e-9, -50e-9), (50e-9, 50e-9)
S = 1_000_000_000


def test_the_clock_integrates_whatever_the_commands_are() -> None:
    info = InstrumentInfo(
        name="x",
        modality="stem",
        origin="simulation",
        commands=(),
        limits=Limits(region=(LOW, HIGH)),
        footprint=1e-10,
    )
    account = DoseAccount(info, LOW, HIGH, 0)
    account.tick(1 * S, True, 1e-12, (0.0, 0.0))
    account.tick(3 * S, False, 1e-12, (0.0, 0.0))
    assert account.tick(9 * S, False, 1e-12, (0.0, 0.0)) == pytest.approx(2e-12 / ELEMENTARY_CHARGE)
    assert account.map.maximum == pytest.approx(2e-12 / ELEMENTARY_CHARGE / 1e-20)  # all on one footprint
    assert account.sigma is None


def test_a_scan_lays_its_mean_and_its_forecast_agrees() -> None:
    rig = LocalInstrument(FakeDriver(modality="stem"))
    rig.take()
    rig.do(c.Unblank())
    expected = 50e-12 * 1e-4 / ELEMENTARY_CHARGE / 1e-18  # a frame's electrons on its pixel of 1 nm²
    reply = rig.submit(SMALL_SCAN, dry_run=True)
    assert isinstance(reply, control.Accepted)
    assert reply.cost.area_dose == pytest.approx(expected)
    rig.do(SMALL_SCAN)
    inside = rig.desk.account.map.values[110:146, 110:146]
    assert np.median(inside) == pytest.approx(expected, rel=0.3)
    assert rig.desk.state.dose == pytest.approx(256 * 1e-4 * 50e-12 / ELEMENTARY_CHARGE, rel=1e-6)
    again = rig.submit(SMALL_SCAN, dry_run=True)
    assert isinstance(again, control.Accepted)
    assert again.cost.area_dose > 1.9 * expected


def test_the_map_is_in_specimen_coordinates() -> None:
    made = DoseMap(LOW, HIGH, 1e-9)
    made.lay(np.array([[10e-9, -20e-9]]), np.array([100.0]), 0.0)
    iy, ix = np.unravel_index(int(made.values.argmax()), made.values.shape)
    assert (ix + 0.5) * made.cell[0] - 50e-9 == pytest.approx(10e-9, abs=1e-9)
    assert (iy + 0.5) * made.cell[1] - 50e-9 == pytest.approx(-20e-9, abs=1e-9)
    assert made.highest_near((10e-9, -20e-9)) == pytest.approx(100.0 / 1e-18)
    turned = c.Scan(Region(10e-9, -20e-9, 4e-9, 4e-9, 0.7), (4, 4), 1e-3)
    assert made.highest_in(turned) == made.maximum
    assert made.highest_in(SMALL_SCAN) == 0.0


def test_an_unknown_current_is_an_estimate_and_blanked_costs_nothing() -> None:
    info = FakeDriver(modality="stem").describe()
    account = DoseAccount(info, LOW, HIGH, 0)
    dark = account.forecast(SMALL_SCAN, GateState(blanked=True, beam_current=1e-12), info, Drift(), 0)
    lit = account.forecast(SMALL_SCAN, GateState(blanked=False, beam_current=1e-12), info, Drift(), 0)
    assert (dark.dose, dark.estimate) == (0.0, False)
    assert lit.estimate
    assert lit.dose > 0


def test_drift_is_a_line_between_references_with_growing_sigma() -> None:
    drift = Drift(diffusion=1e-20).registered(0, (0.0, 0.0), 1e-10).registered(10 * S, (1e-9, 0.0), 1e-10)
    (x, y), sigma = drift.at(20 * S)
    assert (x, y) == pytest.approx((2e-9, 0.0))
    sigma_v = math.hypot(1e-10, 1e-10) / 10
    assert sigma == pytest.approx(math.sqrt(1e-20 + (10 * sigma_v) ** 2 + 10 * 1e-20))
    assert drift.at(30 * S)[1] > sigma
    place = (5e-9, 5e-9)
    assert drift.to_specimen(drift.to_scan(place, 20 * S), 20 * S) == pytest.approx(place)


def test_a_failed_registration_and_a_jump_are_refused() -> None:
    drift = Drift().registered(0, (0.0, 0.0), 1e-10)
    with pytest.raises(RefusedError, match="peak ratio"):
        drift.registered(S, (0.0, 0.0), 1e-10, peak_ratio=1.1)
    with pytest.raises(RefusedError, match="jumped"):
        drift.registered(S, (5e-9, 0.0), 1e-10)


def test_a_command_moves_with_the_specimen_and_lands_on_the_grid() -> None:
    drift, grid = Drift(offset=(1.3e-9, 0.0)), Grid(step=(1e-9, 1e-9))
    move = in_scan_frame(c.MoveProbe((2e-9, 3e-9), frame="specimen"), drift, grid, 0)
    assert move.position == pytest.approx((3e-9, 3e-9))  # type: ignore[union-attr]
    scan = in_scan_frame(c.Scan(Region(0.0, 0.0, 1e-9, 1e-9), (2, 2), 1e-3, frame="specimen"), drift, grid, 0)
    assert scan.region.centre_x == pytest.approx(1.3e-9)  # type: ignore[union-attr]
    still = c.MoveProbe((2e-9, 3e-9))
    assert in_scan_frame(still, drift, grid, 0) is still


def test_the_operator_registers_a_reference_by_request() -> None:
    rig = LocalInstrument(FakeDriver(modality="stem"))
    good = {"x": 1e-9, "y": 0.0, "sigma": 1e-10}
    assert isinstance(rig.handle(control.SetParameters("drift", good)), control.Accepted)
    bad = rig.handle(control.SetParameters("drift", good | {"x": 50e-9}))
    assert isinstance(bad, control.Refused)
    assert "jumped" in bad.reason
    assert isinstance(rig.handle(control.SetParameters("drift", {"x": "far"})), control.Refused)
    assert isinstance(rig.handle(control.SetParameters("lens", {})), control.Refused)


def test_a_reference_from_where_the_specimen_was_thought_to_be_is_recorded_as_the_drift_in_all() -> None:
    rig = LocalInstrument(FakeDriver(modality="stem"))
    first = {"x": 1e-9, "y": -2e-9, "sigma": 1e-9}
    assert isinstance(rig.handle(control.SetParameters("drift", first)), control.Accepted)
    moved = {"x": 5e-10, "y": 1e-10, "sigma": 1e-9, "peak_ratio": 3.0, "relative": True}
    assert isinstance(rig.handle(control.SetParameters("drift", moved)), control.Accepted)
    assert rig.desk.drift.offset == pytest.approx((1.5e-9, -1.9e-9))
    told = [each.data for each in rig.events if isinstance(each, control.StateChange) and each.target == "drift"]
    assert (told[-1]["x"], told[-1]["y"]) == pytest.approx((1.5e-9, -1.9e-9))
    assert "relative" not in told[-1]
    poor = rig.handle(control.SetParameters("drift", moved | {"peak_ratio": 1.2}))
    assert isinstance(poor, control.Refused)
    assert poor.limit == "peak_ratio"


def test_a_coarse_scan_lays_every_pixel_whole_and_once_also_at_the_edge() -> None:
    dose = DoseMap(LOW, HIGH, 0.0)
    step = 6 * float(dose.cell[0])
    places = np.array([[0.0, 0.0], [1e-9, 2e-9], [-50e-9, 50e-9]])
    dose.lay(places, np.array([10.0, 20.0, 40.0]), step)
    expected = np.zeros_like(dose.values)
    for (x, y), electrons in zip(places, (10.0, 20.0, 40.0), strict=True):
        ix, iy = (min(255, int((p - LOW[0]) / dose.cell[0])) for p in (x, y))
        for row in range(iy - 3, iy + 4):
            for column in range(ix - 3, ix + 4):
                if 0 <= row < 256 and 0 <= column < 256:
                    expected[row, column] += electrons / step**2
    assert np.allclose(dose.values, expected, rtol=1e-12)

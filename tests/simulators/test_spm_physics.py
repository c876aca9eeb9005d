"""Domains, walls, loops and pulses: what the specimen does, and what a lock-in sees of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.scalarizers.loop_area import LoopArea
from probeloop.simulators.spm.fields import draw
from probeloop.simulators.spm.specimen import CRITICAL_RADIUS, Place, Specimen, walls_of
from probeloop.simulators.spm.switching import Loop, loop_at, switched, triangle
from spm_words import at, drawn, made, spectrum, whole

from probeloop.data.commands import BEPS, ApplyPulse, Scan, SetBias, SetDrive
from probeloop.data.scan import Region

FAR = Place(150e-9, False, 0.0, 1, False, 0.0, 0.0, 0.0)
GENERATORS = ("random_field", "phase_field")


def beside(**changes: Any) -> Loop:
    """Return the loop of a place that differs from one far from everything."""
    return loop_at(Place(**{**FAR.__dict__, **changes}), 4e-3)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_gives_both_walls_and_the_share_that_was_asked_for(kind: str) -> None:
    drawn_ = draw(kind, 3, 256, 38.0, 0.12)
    assert 0.2 < (drawn_.up > 0).mean() < 0.8
    assert drawn_.in_plane.mean() == pytest.approx(0.12, abs=0.03)
    assert (drawn_.up != draw(kind, 4, 256, 38.0, 0.12).up).mean() > 0.2
    none = draw(kind, 3, 256, 38.0, 0.0)
    assert not none.in_plane.any()
    if kind == "phase_field":  # drawn twice: the same up and down
        np.testing.assert_array_equal(drawn_.up, none.up)


def test_the_two_generators_are_independent() -> None:
    one, two = (draw(kind, 3, 256, 38.0, 0.12) for kind in GENERATORS)
    assert abs(np.corrcoef(one.up.ravel(), two.up.ravel())[0, 1]) < 0.25


def test_distance_and_bend_of_a_round_domain() -> None:
    y, x = np.mgrid[0:256, 0:256] * 2e-9 - 255e-9
    r = np.hypot(x, y)
    found = walls_of(np.where(r < 80e-9, 1, -1).astype(np.int8), np.zeros((256, 256), bool), 2e-9)
    near = (r > 10e-9) & (r < 200e-9)
    np.testing.assert_allclose(found["distance"][near], np.abs(r - 80e-9)[near], atol=2.5e-9)
    inside, outside = (r > 30e-9) & (r < 75e-9), (r > 90e-9) & (r < 120e-9)
    assert np.median(found["curvature"][inside]) == pytest.approx(1 / 80e-9, rel=0.25)
    assert np.median(found["curvature"][outside]) == pytest.approx(-1 / 80e-9, rel=0.25)
    assert not found["right_angle"].any()


@pytest.mark.parametrize("kind", GENERATORS)
def test_amplitude_dips_and_phase_jumps_by_half_a_turn_at_a_180_degree_wall(kind: Any) -> None:
    spm = made(domains=kind, in_plane=0.0, seed=2)
    command = whole(spm, (128, 128))
    response = drawn(spm, command)[0][..., 2]
    truth, places = spm.truth(), command.region.positions(command.shape).reshape(128, 128, 2)
    distance, up = at(truth, "wall_distance", places), at(truth, "up", places)
    far = distance > 40e-9
    assert np.abs(response)[distance < 3e-9].mean() < 0.35 * np.abs(response)[far].mean()
    up_phase, down_phase = (np.angle(response[far & (up == sign)].mean()) for sign in (1, -1))
    jump = abs(math.remainder(up_phase - down_phase, 2 * np.pi))
    assert jump == pytest.approx(np.pi, abs=0.05)
    assert up_phase == pytest.approx(spm.parameters.phase_offset, abs=0.05)


def test_an_overview_is_the_specimen_the_right_way_round() -> None:
    spm = made(seed=5)
    command = whole(spm, (64, 96))
    seen = drawn(spm, command)[0][..., 2].real
    places = command.region.positions(command.shape).reshape(64, 96, 2)
    there = at(spm.truth(), "polarisation", places)
    assert np.corrcoef(seen.ravel(), there.ravel())[0, 1] > 0.98
    for wrong in (there[::-1], there[:, ::-1]):
        assert abs(np.corrcoef(seen.ravel(), wrong.ravel())[0, 1]) < 0.6


def test_the_second_cycle_is_closed_and_the_same_as_the_third() -> None:
    loop, wave = beside(distance=20e-9), triangle(8.5)
    for up in (1, -1):
        share = switched(loop, wave, 2, up)
        np.testing.assert_array_equal(share[:64], share[64:])
    np.testing.assert_array_equal(switched(loop, wave, 1, 1), switched(loop, wave, 1, -1))
    spm = made(broken_share=0.0)
    values, spec, _ = spectrum(spm, (1e-7, 5e-8), BEPS(cycles=2))
    noise = spm.parameters.noise / 2  # at 4 ms
    assert spec.sig[0].size == 128
    assert spec.aux["cycle"] == (0.0,) * 64 + (1.0,) * 64
    assert np.abs(values[:64] - values[64:]).max() < 6 * math.sqrt(2) * noise
    assert abs(values[0] - values[64]) < 5 * math.sqrt(2) * noise


def test_a_waveform_too_small_to_switch_gives_no_loop() -> None:
    share = switched(beside(), triangle(2.0), 1, 1)
    assert np.ptp(share) < 0.05


def test_the_branches_are_tanh() -> None:
    loop, wave = beside(), triangle(12.0, 512)
    share = switched(loop, wave, 1, 1)
    falling = slice(128, 384)
    np.testing.assert_allclose(share[falling], np.tanh((wave[falling] - loop.down) / loop.width), atol=0.02)


def test_area_grows_with_the_distance_to_a_wall_and_is_negative() -> None:
    """R rises after V does: the integral of R dV around a loop of a ferroelectric is below zero."""
    for right_angle in (False, True):
        areas = [beside(distance=d, right_angle=right_angle).area for d in np.linspace(1e-9, 150e-9, 40)]
        assert np.all(np.diff(areas) < 0)
        assert areas[0] < 0
        assert areas[-1] < 1.5 * areas[0]
    assert beside(distance=5e-9).area > 1.3 * beside(distance=5e-9, right_angle=True).area


def test_measured_areas_follow_wall_distance_and_the_true_loop() -> None:
    spm = made(broken_share=0.0, seed=3)
    rng, plugin, areas = np.random.default_rng(0), LoopArea(), []
    for place in rng.uniform(-4e-7, 4e-7, (120, 2)):
        values, spec, _ = spectrum(spm, (float(place[0]), float(place[1])))
        area, sigma, valid = plugin.scalarize(values, spec)
        assert valid
        assert area < -5 * sigma
        areas.append(area)
    told = spm.truth()["spectra"]
    upright = np.array([not each["in_plane"] for each in told])
    distance = np.array([each["distance"] for each in told])
    ranks = [np.argsort(np.argsort(v[upright])) for v in (distance, -np.asarray(areas))]
    assert np.corrcoef(*ranks)[0, 1] > 0.8
    true = np.array([each["area"] for each in told]) * 1.2e-10
    assert np.median(np.asarray(areas)[upright] / true[upright]) == pytest.approx(1.0, abs=0.1)


def test_a_bend_a_defect_and_charge_shift_a_loop() -> None:
    def imprint(loop: Loop) -> float:
        return (loop.up + loop.down) / 2

    flat, bent = beside(distance=5e-9), beside(distance=5e-9, curvature=1 / 60e-9)
    assert imprint(bent) > imprint(flat) + 0.3  # an up domain inside a bend wants to go
    assert imprint(beside(distance=5e-9, curvature=1 / 60e-9, up=-1)) < imprint(flat) - 0.3
    assert imprint(beside(curvature=1 / 60e-9)) == pytest.approx(imprint(FAR_LOOP), abs=0.01)
    assert imprint(beside(defect=1.0)) > imprint(FAR_LOOP) + 0.5
    assert imprint(beside(charge=0.5)) < imprint(FAR_LOOP) - 0.4
    assert beside(cycles=200.0).response < 0.7 * FAR_LOOP.response


FAR_LOOP = beside()


def one_domain(**parameters: Any) -> Specimen:
    made_ = made(engaged=False, in_plane=0.0, defects=0, **parameters).specimen
    made_.up[:] = -1
    made_._refresh()
    return made_


def test_a_pulse_switches_more_with_voltage_and_duration() -> None:
    def area(volts: float, duration: float) -> float:
        specimen = one_domain()
        specimen.pulse(0.0, 0.0, volts, duration, 0.0)
        return float((specimen.up > 0).sum()) * specimen.cell**2

    volts = [area(v, 0.1) for v in (2.0, 10.0, 12.0, 15.0, 19.0)]
    assert volts[0] == 0
    assert np.all(np.diff(volts) > 0)
    durations = [area(12.0, d) for d in (1e-3, 1e-2, 1e-1, 1.0)]
    assert np.all(np.diff(durations) > 0)
    assert durations[0] > np.pi * CRITICAL_RADIUS**2 * 0.8
    assert area(-15.0, 0.1) == 0.0  # it is down already


def test_a_nucleus_below_the_critical_radius_does_not_last_but_a_wall_moves() -> None:
    specimen = one_domain()
    assert specimen.pulse(0.0, 0.0, 8.0, 1e-3, 0.0) == 0.0
    assert not (specimen.up > 0).any()
    specimen.up[:, : specimen.n // 2] = 1
    specimen._refresh()
    before = (specimen.up > 0).sum()
    assert specimen.pulse(5e-9, 0.0, 8.0, 1e-3, 0.0) > 0
    assert (specimen.up > 0).sum() > before


def test_a_wall_stops_at_a_defect_that_holds_it() -> None:
    free, held = one_domain(), one_domain()
    held.defects, held.defect_signs = np.array([[2e-8, 0.0]]), np.array([1.0])
    for specimen in (free, held):
        specimen._switch(0.0, 0.0, 40e-9, 1, 6.0)
    row, column = held.index(2e-8, 0.0)
    assert (free.up[row, column], held.up[row, column]) == (1, -1)


def test_a_pulse_changes_the_map_its_walls_and_the_next_loop() -> None:
    spm = made(in_plane=0.0, defects=0, broken_share=0.0, seed=4)
    truth = spm.truth()
    row, column = np.unravel_index(np.argmax(truth["wall_distance"][64:-64, 64:-64]), (128, 128))
    x, y = (float(truth["edge"] + (i + 64.5) * truth["cell"]) for i in (column, row))
    up = int(truth["up"][row + 64, column + 64])
    spectrum(spm, (x, y))
    spm.apply_pulse(ApplyPulse((x, y), -12.0 * up, 0.1))
    after = spm.truth()
    assert after["up"][row + 64, column + 64] == -up
    assert after["wall_distance"][row + 64, column + 64] < truth["wall_distance"][row + 64, column + 64]
    spectrum(spm, (x + 4e-8, y))
    spectrum(spm, (x, y))
    first, beside_it, again = spm.truth()["spectra"]
    assert beside_it["distance"] < first["distance"]
    assert abs(again["area"]) < abs(first["area"])


def test_a_scan_under_a_large_bias_writes_and_a_small_one_does_not() -> None:
    spm = made(in_plane=0.0, seed=6)
    before = spm.truth()["up"].copy()
    box = Scan(Region(0.0, 0.0, 3e-7, 3e-7), (48, 48), 2e-4)
    spm.set_bias(SetBias(2.0, 100.0))
    drawn(spm, box)
    np.testing.assert_array_equal(spm.truth()["up"], before)
    spm.set_bias(SetBias(9.0, 100.0))
    drawn(spm, box)
    truth = spm.truth()
    n, reach = truth["up"].shape[0], round(1.4e-7 / truth["cell"])
    middle = slice(n // 2 - reach, n // 2 + reach)
    assert (truth["up"][middle, middle] == 1).all()
    assert (truth["up"] != 1).any()


def test_the_share_of_broken_spectra_is_the_one_asked_for_and_only_truth_tells() -> None:
    spm = made(broken_share=0.3, in_plane=0.0)
    rng = np.random.default_rng(1)
    flags, specs = set(), set()
    for x in rng.uniform(-4e-7, 4e-7, 150):
        _, spec, flag = spectrum(spm, (float(x), float(rng.uniform(-4e-7, 4e-7))))
        flags.add(flag & ~128)  # a place visited twice is told
        specs.add(spec.encode())
    broken = [each["broken"] for each in spm.truth()["spectra"]]
    assert 0.2 < np.mean([bool(how) for how in broken]) < 0.4
    assert {"spikes", "no contact", "jump"} <= set(broken)
    assert flags == {0}
    assert len(specs) == 1


def test_on_field_differs_from_off_field_by_the_slope_of_the_bias() -> None:
    spm = made(broken_share=0.0)
    values, spec, _ = spectrum(spm, (0.0, 1e-7), BEPS(field="both"))
    assert [channel.name for channel in spec.channels] == ["response_off_field", "response_on_field"]
    slope = np.polyfit(spec.aux["bias"], (values[1] - values[0]).real, 1)[0]
    assert slope < -1e-12
    alone, spec, _ = spectrum(spm, (-2e-7, 1e-7), BEPS(field="on"))
    assert alone.shape == (64,)
    assert set(spec.aux["field_on"]) == {1.0}


def test_a_fixed_frequency_loses_what_the_resonance_gains() -> None:
    spm = made(in_plane=0.0)
    followed = np.abs(drawn(spm, whole(spm, (16, 64)))[0][..., 2]).mean()
    spm.set_drive(SetDrive(frequency=300e3, band=0.0))
    assert np.abs(drawn(spm, whole(spm, (16, 64)))[0][..., 2]).mean() < 0.2 * followed

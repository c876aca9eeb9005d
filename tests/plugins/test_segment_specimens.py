"""Pictures from the simulated scanning probe: the truth lies where the picture has its walls."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from probeloop.plugins.segment.picture import SEEDS, generator, near
from probeloop.plugins.segment.specimens import Specimen, cut, resolved, scan, scans

pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")


@pytest.fixture(scope="module")
def known() -> list:
    return scans("training", 3, number=0, each=2, pixels=96)


def test_walls_are_dark_lines_in_the_response(known: list) -> None:
    for field in known:
        size = np.abs(field.response)
        assert field.line.any()
        assert np.isfinite(size).all()
        assert size[field.line].mean() < 0.6 * np.median(size[~near(field.line, 4)])


def test_truth_lies_on_the_zeros_of_the_response() -> None:
    """Where the response of a film without needles changes its sign is a wall, since nothing drifts."""
    specimen = next(
        made for made in (Specimen("training", 3, i) for i in range(20)) if not made.parameters["in_plane"]
    )
    region = specimen.region(96)
    response = specimen.scan(region, 96, 1000.0)
    turned = np.angle(response.reshape(-1)[np.abs(response).argmax()])
    sign = (response * np.exp(-1j * turned)).real > 0
    edge = sign ^ ndi.binary_erosion(sign, border_value=1)
    walls = specimen.walls(region, 96)
    assert edge.sum() > 30
    assert near(walls, 1.5)[edge].mean() > 0.97
    assert near(edge, 2.5)[walls].mean() > 0.97


def test_a_needle_as_wide_as_the_contact_is_one_line() -> None:
    _, x = np.mgrid[0:60, 0:60]
    narrow, broad = np.abs(x - 30) <= 2, np.abs(x - 30) <= 6
    assert not resolved(narrow, 4.0).any()
    assert np.array_equal(resolved(broad, 4.0), broad)


def test_a_cut_has_new_noise_every_time(known: list) -> None:
    one, again, other = (cut(generator("training", 3, i), known, 64) for i in (1, 1, 2))
    assert np.array_equal(one.values, again.values)
    assert not np.array_equal(one.values, other.values)
    assert one.values.shape == one.line.shape == (64, 64)
    assert 5 < one.snr < 50


def test_scoring_has_specimens_and_a_generator_of_its_own() -> None:
    training, scoring = (Specimen(use, 1, 0).parameters for use in ("training", "scoring"))
    assert training["seed"] in SEEDS["training"]
    assert scoring["seed"] in SEEDS["scoring"]
    assert (training["domains"], scoring["domains"]) == ("random_field", "phase_field")


def test_a_scored_scan_has_the_noise_of_the_lock_in() -> None:
    picture = scan(1, 2, 96)
    assert 6 < picture.snr < 50
    rough = picture.values - ndi.median_filter(picture.values, 3)
    assert np.std(rough) > 0
    assert np.isfinite(picture.values).all()

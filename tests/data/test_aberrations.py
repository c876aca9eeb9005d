"""Aberrations: the phase, its notations, and what is known of it from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.data import aberrations as ab
from probeloop.data.aberrations import NAMES, Aberrations
from probeloop.data.errors import ProbeloopError

LAMBDA = ab.wavelength(200e3)
coefficients = st.dictionaries(
    st.sampled_from(NAMES), st.floats(-1e-3, 1e-3).filter(lambda v: abs(v) > 1e-13), max_size=6
)


def close(one: Aberrations, other: Aberrations) -> None:
    largest = max(map(abs, other.as_dict().values()), default=0.0)
    for name in NAMES:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-14 * largest), name


@pytest.mark.parametrize(
    ("voltage", "picometre"), [(80e3, 4.1757), (200e3, 2.5079), (300e3, 1.9687)]
)  # Kirkland, Advanced Computing in Electron Microscopy, table of wavelengths
def test_the_wavelength_is_relativistic(voltage: float, picometre: float) -> None:
    assert ab.wavelength(voltage) * 1e12 == pytest.approx(picometre, abs=6e-5)


def test_the_interaction_constant() -> None:
    """7.2884e-4 rad/(V Å) at 200 kV."""
    assert ab.interaction(200e3) * 1e-10 == pytest.approx(7.2884e-4, rel=1e-4)


@pytest.mark.parametrize("convert", ["ceos", "polar", "nion"])
@given(values=coefficients)
def test_every_notation_comes_back(convert: str, values: dict[str, float]) -> None:
    ours = Aberrations(**values)
    there, back = getattr(ab, f"to_{convert}"), getattr(ab, f"from_{convert}")
    close(back(there(ours)), ours)


@pytest.mark.parametrize("read", [ab.from_ceos, ab.from_polar, ab.from_nion])
def test_an_unknown_name_is_refused(read: object) -> None:
    with pytest.raises(ProbeloopError, match="no aberration is named"):
        read({"C99": 1.0})  # type: ignore[operator]


def test_the_known_factors_of_ceos() -> None:
    assert ab.from_ceos({"C1": 1e-9, "B2": 1e-9, "S3": 1e-9}).as_dict() == pytest.approx(
        {"C10": 1e-9, "C21a": 3e-9, "C32a": 4e-9}
    )


def test_chi_is_the_textbook_one() -> None:
    k = np.linspace(-8e9, 8e9, 17)
    round_lens = Aberrations(C10=-50e-9, C30=1.2e-3)
    expected = math.pi * LAMBDA * -50e-9 * k**2 + math.pi / 2 * 1.2e-3 * LAMBDA**3 * k**4
    np.testing.assert_allclose(ab.chi(round_lens, k, 0.0, LAMBDA), expected, rtol=1e-12)
    np.testing.assert_allclose(ab.chi(round_lens, 0.0, k, LAMBDA), expected, rtol=1e-12)


@given(coefficients, st.floats(-math.pi, math.pi), st.floats(1e8, 1e10))
def test_chi_is_the_sum_of_the_definition(values: dict[str, float], phi: float, k: float) -> None:
    alpha, expected = LAMBDA * k, 0.0
    for name, value in values.items():
        n, m, part = ab.order_of(name)
        angular = math.sin(m * phi) if part == "b" else math.cos(m * phi)
        expected += 2 * math.pi / LAMBDA * alpha ** (n + 1) / (n + 1) * value * angular
    got = float(ab.chi(Aberrations(**values), k * math.cos(phi), k * math.sin(phi), LAMBDA))
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-9 * (1 + abs(expected)))


def test_turning_the_axis_of_astigmatism_turns_chi() -> None:
    k = 5e9
    straight = ab.chi(Aberrations(C12a=1e-8), k, 0.0, LAMBDA)
    turned = ab.chi(Aberrations(C12b=1e-8), k * math.cos(math.pi / 4), k * math.sin(math.pi / 4), LAMBDA)
    assert turned == pytest.approx(float(straight))
    assert ab.chi(Aberrations(C12a=1e-8), 0.0, k, LAMBDA) == pytest.approx(-float(straight))


def test_sums_and_differences() -> None:
    one = Aberrations(C10=1e-8, C12a=2e-9)
    close(one.plus({"C10": 1e-8}).minus(one), Aberrations(C10=1e-8))
    with pytest.raises(ProbeloopError, match="C11"):
        one.plus({"C11": 0.0})


def test_strehl_is_one_without_aberrations_and_falls_either_way() -> None:
    assert ab.strehl(Aberrations(), LAMBDA, 25e-3) == pytest.approx(1.0, abs=1e-6)
    over, under = (ab.strehl(Aberrations(C10=c), LAMBDA, 25e-3) for c in (5e-9, -5e-9))
    assert over == pytest.approx(under, rel=1e-6)
    # defocus alone, flat circular pupil: |2/W int exp(i W s) ds|^2 = sinc^2(W/2), W = pi C10 alpha^2 / lambda
    w = math.pi * 5e-9 * 25e-3**2 / LAMBDA
    assert over == pytest.approx((math.sin(w / 2) / (w / 2)) ** 2, rel=0.02)
    assert ab.strehl(Aberrations(C10=-20e-9, C30=50e-6), LAMBDA, 25e-3) > ab.strehl(
        Aberrations(C10=20e-9, C30=50e-6), LAMBDA, 25e-3
    )


def test_the_blur_of_a_defocus_is_defocus_times_angle() -> None:
    assert ab.blur_radius(Aberrations(C10=100e-9), 25e-3) == pytest.approx(100e-9 * 25e-3, rel=1e-3)

"""What a report makes of each kind of map and pattern: the right numbers in the right colours."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from record_blocks import block_of, frames_spec

from probeloop.data.axes import Axis, Channel, StreamSpec
from probeloop.record.maps import map_figures, title_of, topic_title, without_plane
from probeloop.record.patterns import at_rest, pattern_figures
from probeloop.record.png import MISSING, wheel
from probeloop.record.reader import RecordedTopic, Session
from probeloop.record.session import SessionWriter
from probeloop.record.sights import figures_of

NY, NX = 6, 8
NAV = (Axis("y", NY, 1e-9, 0.0, "m"), Axis("x", NX, 1e-9, 0.0, "m"))
LOCK_IN = (
    Channel("height_trace", "height", "m", "trace"),
    Channel("height_retrace", "height", "m", "retrace"),
    Channel("response_trace", "piezoresponse", "m", "trace"),
    Channel("response_retrace", "piezoresponse", "m", "retrace"),
)


def recorded(folder: Path, spec: StreamSpec, data: np.ndarray, settings: str = "", generation: int = 1) -> None:
    about = {"settings": settings} if settings else {}
    writer = SessionWriter(folder, about=lambda number: about)
    writer.add(block_of(spec, data, np.arange(len(data)), generation=generation))
    writer.close()


def only(folder: Path) -> RecordedTopic:
    (topic,) = Session(folder).topics()
    return topic


def texts(figure: str) -> str:
    return re.sub(r"<[^>]+>", " ", re.sub(r'href="[^"]*"', "", figure))


def test_a_vector_map_is_direction_and_length() -> None:
    x, y = np.array([[1.0, 0.0, 0.0, np.nan]]), np.array([[0.0, 0.0, 1.0, 0.0]])
    made = wheel(x, y, 1.0)
    assert tuple(made[0, 1]) == (0, 0, 0)
    assert tuple(made[0, 3]) == MISSING
    assert made[0, 0].argmax() == 0  # to the right: red
    sums = made[0, :, :].astype(int).sum(axis=1)
    assert abs(sums[0] - sums[2]) <= 2
    np.testing.assert_array_equal(wheel(-x, -y, 1.0)[0, 0], wheel(x * -1, y, 1.0)[0, 0])


def test_deflections_are_one_picture_with_their_mean_taken_out_and_named(tmp_path: Path) -> None:
    bent = (Channel("x", "deflection", "rad"), Channel("y", "deflection", "rad"))
    spec = StreamSpec("com.deflection", "values", "<f4", NAV, channels=bent, units="rad", origin="simulation")
    data = np.random.default_rng(0).normal(2e-3, 1e-4, (NY * NX, 2)).astype(np.float32)
    recorded(tmp_path, spec, data)
    (figure,) = map_figures(only(tmp_path))
    assert "wheel: direction" in figure
    assert "mean (2 mrad, 2 mrad) taken out" in texts(figure)
    assert "48 frames" in figure


def test_lock_in_channels_are_topography_amplitude_and_phase_of_one_direction(tmp_path: Path) -> None:
    spec = StreamSpec("scan", "values", "<c8", NAV, channels=LOCK_IN, origin="simulation")
    y, x = np.indices((NY, NX)).reshape(2, -1)
    height = 5e-9 + 3e-9 * x - 2e-9 * y
    response = 2e-12 * np.exp(1j * np.where(x < 4, 0.4, 0.4 - np.pi))
    recorded(tmp_path, spec, np.stack([height, height, response, response], axis=1).astype(np.complex64))
    figures = map_figures(only(tmp_path))
    titles = [texts(figure) for figure in figures]
    assert len(figures) == 3
    assert "a plane taken out" in titles[0]
    assert "response trace, amplitude" in titles[1]
    assert "2 pm" in titles[1]
    assert "response trace, phase" in titles[2]
    assert "3.14 rad" in titles[2]
    assert "-3.14 rad" in titles[2]


def test_a_plane_is_taken_out_and_what_is_missing_stays_missing() -> None:
    y, x = np.indices((9, 7))
    bump = np.zeros((9, 7))
    bump[4, 3] = 1.0
    tilted = bump + 0.3 * x - 2.0 * y + 11
    tilted[0, 0] = np.nan
    flat = without_plane(tilted)
    assert np.isnan(flat[0, 0])
    assert np.nanstd(flat - bump) < 0.02
    assert np.isnan(without_plane(np.full((2, 2), np.nan))).all()


def test_a_topic_is_called_what_it_is() -> None:
    assert topic_title("icom.phase") == "icom"
    assert topic_title("com.intensity") == "com intensity"
    assert topic_title("scan") == "scan"


def disc(centre: float = 3.0) -> np.ndarray:
    y, x = np.indices((6, 7))
    return (np.hypot(y - centre, x - centre) < 2).astype(np.uint16)


def test_patterns_are_their_mean_and_one_frame_with_angle_bars(tmp_path: Path) -> None:
    data = np.stack([disc() * (k + 1) for k in range(20)])
    recorded(tmp_path, frames_spec(), data)
    mean, single = (texts(figure) for figure in pattern_figures([only(tmp_path)]))
    assert "position-averaged CBED" in mean
    assert "mean of 20 frames, log10 of counts per pixel" in mean
    assert "mrad" in mean
    assert f"1 frame of {20 * disc().sum():,} counts" in single
    assert "4.47" in single  # the root of 20


@pytest.mark.parametrize(("focus", "name"), [(-30e-9, "Ronchigram"), (1e-9, "CBED, beam at rest")])
def test_a_beam_at_rest_is_a_ronchigram_where_the_lens_was_turned_for_it(
    tmp_path: Path, focus: float, name: str
) -> None:
    here = tuple(msgspec.structs.replace(axis, scale=1e-13) for axis in frames_spec().nav)
    data = np.stack([disc()] * 20)
    recorded(tmp_path, frames_spec(nav=here), data, f'{{"C10": {focus + 2e-9}}}', generation=2)
    recorded(tmp_path, frames_spec(), data, '{"C10": 2e-9}', generation=3)
    topics = Session(tmp_path).topics()
    assert [at_rest(topic) for topic in topics] == [True, False]
    still, *_ = pattern_figures(topics)
    assert f">{name}<" in still
    assert ("-30 nm" if name == "Ronchigram" else "+1 nm") in texts(still)
    assert "mean of 20 frames" in still


def test_of_pictures_of_a_map_the_fullest_is_shown_with_its_scale(tmp_path: Path) -> None:
    spec = StreamSpec("icom.phase", "image", "<f4", sig=NAV, units="rad", origin="simulation", may_be_nan=True)
    image = np.linspace(-0.2, 0.4, NY * NX).reshape(1, NY, NX).astype(np.float32)
    begun = image.copy()
    begun[:, 1:] = np.nan
    writer = SessionWriter(tmp_path)
    for number, each in ((1, begun), (1, image), (2, begun)):
        writer.add(block_of(spec, each, [-1], generation=number))
    writer.close()
    (section,) = figures_of(Session(tmp_path).topics(), {})
    assert "generation 1, from 48 places, picture 2 of 3" in section
    assert "0.397 rad" in section  # the 99.5th percentile
    assert ">2 nm<" in section
    assert title_of(only(tmp_path)) == "icom"


def test_spectra_of_two_channels_are_drawn_apart_and_complex_ones_turned(tmp_path: Path) -> None:
    bias = tuple(float(v) for v in 5 * np.sin(2 * np.pi * np.arange(32) / 32))
    both = tuple(Channel(f"response_{field}_field", "piezoresponse", "m") for field in ("on", "off"))
    spec = StreamSpec("spectrum", "spectra", "<c8", (), (Axis("step", 32, 1.0),), both, aux={"bias": bias})
    loop = np.tanh(np.asarray(bias) - np.sign(np.gradient(bias)))
    data = np.stack([loop, 0.5 * loop])[None] * 1e-12 * np.exp(1.1j)
    writer = SessionWriter(tmp_path)
    for i in range(8):
        writer.add(block_of(spec, data.astype(np.complex64), [i], index=i, generation=i + 1))
    writer.close()
    (section,) = figures_of(Session(tmp_path).topics(), {})
    assert section.count("response on field, loop") == 5
    assert section.count("response off field, loop") == 5
    assert "piezoresponse [1e-15 m]" in section

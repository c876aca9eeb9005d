"""The report is one file with its pictures inside, made of whatever the session holds."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from record_blocks import F_LETTER, block_of, frames_spec, map_spec, rows, spectrum_spec

from probeloop.data import control
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.commands import MoveProbe
from probeloop.data.errors import RecordError
from probeloop.record.figures import curves, labels, picture
from probeloop.record.png import MISSING, colour, labelled, levels, png
from probeloop.record.report import write_report
from probeloop.record.session import SessionWriter
from probeloop.record.sights import _chosen
from probeloop.record.tally import Tally
from probeloop.record.timing import latency_section


def unpack(data: bytes) -> np.ndarray:
    """Decode what `png` wrote."""
    width, height = struct.unpack_from(">II", data, 16)
    size = struct.unpack_from(">I", data, 33)[0]
    raw = np.frombuffer(zlib.decompress(data[41 : 41 + size]), np.uint8)
    return raw.reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)


def test_a_map_is_drawn_the_right_way_round_and_missing_pixels_are_grey() -> None:
    values = F_LETTER.astype(float)
    values[5, 4] = np.nan
    pixels = unpack(png(colour(values, 0, 1, "grey")))
    assert tuple(pixels[5, 4]) == MISSING
    shown = pixels[..., 0] > 127
    shown[5, 4] = False
    np.testing.assert_array_equal(shown, F_LETTER > 0)
    assert levels(np.full((2, 2), np.nan)) == (0.0, 1.0)
    assert levels(np.full((2, 2), 3.0)) == (2.5, 3.5)


def test_a_figure_is_whole_svg_with_scale_bar_and_units() -> None:
    made = picture(F_LETTER * 1e-9, "height <x>", "m", (2e-9, 3e-9), points=np.array([[0.0, 0.0]]))
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", made).group(0))  # type: ignore[union-attr]
    text = " ".join(t.text or "" for t in svg.iter("text"))
    assert "2 nm" in text
    assert "1 nm" in text
    assert len(list(svg.iter("circle"))) == 1
    assert "&lt;x&gt;" in made
    assert curves(np.arange(3.0), np.full((2, 3), np.nan), "x", "y", "t") == ""
    ElementTree.fromstring(curves(np.arange(3.0), np.full((1, 3), 2e-7), "x", "y [V]", "t"))


def test_numbers_of_things_have_colours_that_are_told_apart_and_none_is_black() -> None:
    numbers = np.arange(0, 40.0).reshape(4, 10)
    numbers[3, 9] = np.nan
    pixels = labelled(numbers)
    assert pixels[0, 0].max() == 0
    assert tuple(pixels[3, 9]) == MISSING
    assert pixels.reshape(-1, 3)[1:].max(axis=1).min() > 150
    beside = np.abs(np.diff(pixels.reshape(-1, 3)[1:-1].astype(int), axis=0)).max(axis=1)
    assert beside.min() > 60
    made = labels(numbers, "walls", (2e-9, 2e-9), "", "m")
    ElementTree.fromstring(re.search(r"<svg.*?</svg>", made).group(0))  # type: ignore[union-attr]
    assert made.count("<image") == 1  # and no colour bar: a number is no value


def test_a_larger_picture_before_the_last_one_is_shown_too() -> None:
    def record(side: int, number: int) -> SimpleNamespace:
        spec = StreamSpec("m", "image", sig=(Axis("y", side), Axis("x", side)))
        return SimpleNamespace(spec=spec, is_scan=False, generation=-1, number=number)

    def shown(*sides: int) -> list[int]:
        return [each.number for each in _chosen([record(side, i) for i, side in enumerate(sides)])]  # type: ignore[misc]

    assert shown(64, 64) == [1]
    assert shown(256, 64, 64) == [0, 2]
    assert shown(64, 256, 256, 64) == [2, 3]
    assert shown(64, 256) == [1]


def test_near_heights_far_from_zero_are_told_apart_on_the_colour_bar() -> None:
    values = 1.98e-6 + F_LETTER * 3e-9
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", picture(values, "height", "m")).group(0))  # type: ignore[union-attr]
    labels = [t.text for t in svg.iter("text")]
    assert len(set(labels)) == len(labels) >= 2
    assert labels[0] == "1.983 µm"


def test_a_report_of_a_session(tmp_path: Path) -> None:
    writer = SessionWriter(tmp_path)
    writer.add(rows(map_spec(*F_LETTER.shape), 0, F_LETTER))
    writer.add(block_of(frames_spec(2, 2), np.ones((4, 6, 7), np.uint16), np.arange(4), generation=2))
    for i in range(12):
        loop = np.sin(np.arange(8.0) + i)[None]
        writer.add(block_of(spectrum_spec(), loop, [i], index=i, generation=i + 3))
    writer.close()
    command = MoveProbe((0.0, 0.0))
    trace = control.Trace(exposed=1, submitted=1_000_001, verdict=1_500_001, applied=3_000_001)
    events: list[control.Event] = [
        control.Verdict(id=1, command=command, holder="p", epoch=1, accepted=True, time_ns=5),
        control.Verdict(id=2, command=command, holder="p", epoch=1, accepted=False, reason="too far <away>"),
        control.Done(id=1, result=control.Result(trace=trace, physical_ns=7_000_000)),
        control.Gap(topic="camera", first=3, count=2, reason="overwritten"),
        control.Remark(text="be careful", level="warning"),
        control.Failed(id=3, reason="the driver said no"),
        *(
            control.Observed(
                step=i,
                kind="observe",
                value={"step": {"scalarizer": "loop_area"}, "value": [{"position": [i * 1e-9, 0.0], "value": i / 3}]},
            )
            for i in range(4)
        ),
    ]
    (tmp_path / "events.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in events))
    page = write_report(tmp_path).read_text()
    assert page.count("<svg") >= 7
    for text in ("Simulated", "too far &lt;away&gt;", "be careful", "the driver said no",
                 "17% measured", "overwritten", "frames lost", "loop_area where it was measured"):  # fmt: skip
        assert text in page, text
    assert "http://" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert "src=" not in page
    for picture_ in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page):
        assert unpack(base64.b64decode(picture_)).ndim == 3
    assert latency_table(page) == [
        ["hand-over", "1 ms", "1 ms", "1 ms", "1"],
        ["gate", "500 µs", "500 µs", "500 µs", "1"],
        ["instrument", "1.5 ms", "1.5 ms", "1.5 ms", "1"],
        ["software, in all", "3 ms", "3 ms", "3 ms", "1"],
        ["physical, in all", "7 ms", "7 ms", "7 ms", "1"],
        ["every verdict", "500 µs", "500 µs", "500 µs", "1"],
    ]


def latency_table(page: str) -> list[list[str]]:
    """Return the words of the table of latencies, its header left out; it must be well-formed."""
    table = ElementTree.fromstring(re.findall("<table>.*?</table>", page[page.index("<h2>Latency") :])[0])
    lines = [list(line) for line in list(table)[1:]]
    assert all(len(list(line[1].iter("rect"))) >= 1 for line in lines)
    return [[str(cell.text) for cell in (line[0], *line[2:])] for line in lines]


def test_a_session_without_a_closed_loop_says_so_and_one_without_commands_nothing() -> None:
    tally = Tally.of([])
    assert latency_section(tally) == ""
    tally.take(control.Done(id=1, result=control.Result(trace=control.Trace(submitted=5, verdict=20_000, applied=9))))
    made = latency_section(tally)
    assert "No closed loop" in made
    assert "every verdict" in made
    assert "software, in all" not in made


@pytest.mark.parametrize("duration", [-7, 0, 999, 1_000, 9_999_999_999, 40_000_000_000])
def test_bars_stay_inside_their_picture(duration: int) -> None:
    tally = Tally.of([])
    tally.take(control.Done(id=1, result=control.Result(physical_ns=duration)))
    svg = ElementTree.fromstring(re.findall("<svg.*?</svg>", latency_section(tally))[1])
    (bar,) = svg.iter("rect")
    left, width = float(bar.get("x") or -1), float(bar.get("width") or -1)
    assert 0 <= left < left + width <= 280.05


def test_a_report_of_a_damaged_or_empty_session(tmp_path: Path) -> None:
    with pytest.raises(RecordError):
        write_report(tmp_path)
    (tmp_path / "events.jsonl").write_text("")
    assert write_report(tmp_path).exists()
    writer = SessionWriter(tmp_path)
    writer.add(rows(map_spec(2, 2), 0, np.ones((2, 2), np.float32)))
    writer.close()
    for chunk in tmp_path.glob("scan/1.zspy/Experiments/*/data/0/*"):
        chunk.write_bytes(b"torn")
    assert "scan/1.zspy" in write_report(tmp_path).read_text()

"""`probeloop train segment --on SESSION`: which maps it takes, and what it says where it can't."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment import commands, retrain
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.recorded import recorded
from probeloop.plugins.segment.weights import SHIPPED, load, read_card, save

from probeloop.api import Axis, Channel, StreamSpec
from probeloop.cli import main
from probeloop.record.session import SessionWriter
from probeloop.testing.streams import block_of

pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")
pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")

RIG = """
[plugins.pfm]
use = "piezoresponse"
input = ["scan"]
[plugins.walls]
use = "segment"
input = ["pfm.amplitude"]
parameters = { contrast = "ratio" }
"""
TWO = (Channel("one", "height", "m"), Channel("two", "height", "m"))


def picture(number: int, size: int = 64) -> np.ndarray:
    return lamellae(generator("scoring", 12, number), size).values.astype(np.float32)


def add(
    writer: SessionWriter,
    name: str,
    values: np.ndarray,
    generation: int,
    lines: int = 0,
    channels: Any = (),
    **of: Any,
) -> None:
    """Record a map (ny, nx) or (ny, nx, k), its first `lines` alone."""
    ny, nx = values.shape[:2]
    spec = StreamSpec(name, "values", "<f4", (Axis("y", ny, 1e-9), Axis("x", nx, 1e-9)), channels=channels, **of)
    count = (lines or ny) * nx
    data = values.reshape(ny * nx, *values.shape[2:])[:count]
    writer.add(block_of(spec, data, scan_index=np.arange(count), index=generation * ny * nx, generation=generation))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Six scans: of the first five the map i is picture i; the last one was stopped after 10 lines."""
    folder = tmp_path / "2026-01-01_session"
    folder.mkdir()
    writer = SessionWriter(folder)
    for i in range(1, 6):
        add(writer, "pfm.amplitude", picture(i), i, lines=48 if i == 4 else 0)
        add(writer, "pfm.phase", picture(i) * 0 + 1, i)
        add(writer, "surface", np.stack([picture(i), -picture(i)], axis=-1), i, channels=TWO)
    add(writer, "pfm.amplitude", picture(6), 6, lines=10)
    writer.close()
    (folder / "rig.toml").write_text(RIG)
    return folder


def test_it_takes_the_last_maps_as_the_plugin_of_that_rig_saw_them(session: Path) -> None:
    chosen = recorded(session)
    assert (chosen.topic, chosen.channel, chosen.contrast) == ("pfm.amplitude", "", "ratio")
    assert [each.shape for each in chosen.maps] == [(64, 64), (64, 64), (48, 64), (64, 64)]
    for made, i in zip(chosen.maps, (2, 3, 4, 5), strict=True):
        np.testing.assert_array_equal(made, picture(i)[: len(made)])
    assert str(chosen).startswith("learns from 4 map(s) of pfm.amplitude, contrast ratio: 64 x 64")
    other = recorded(session, "surface", "two")
    assert (other.topic, other.channel, other.contrast) == ("surface", "two", "")
    np.testing.assert_array_equal(other.maps[-1], -picture(5))
    np.testing.assert_array_equal(recorded(session, "surface").maps[-1], picture(5))


def test_pictures_are_taken_as_they_were_at_the_end_of_each_scan(tmp_path: Path) -> None:
    writer = SessionWriter(tmp_path)
    axes = (Axis("y", 40, 1e-9), Axis("x", 64, 1e-9))
    spec = StreamSpec("flat.flat", "image", "<f4", sig=axes, may_be_nan=True)
    for row, generation in enumerate((1, 1, 2, 2, 2)):
        values = picture(generation)[:40] + row
        values[: 40 - 8 * (row + 1)] = np.nan
        writer.add(block_of(spec, values[None], scan_index=np.array([0]), index=row, generation=generation))
    writer.close()
    (made,) = recorded(tmp_path).maps  # the first scan ended after 16 lines
    np.testing.assert_array_equal(made, picture(2)[:40] + 4)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command, which must fail; return what it told the person."""
    capsys.readouterr()
    assert main(["train", "segment", *words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.splitlines()[-1].startswith("probeloop: ")
    return found.err


def test_what_can_not_be_learned_from_is_one_line_with_the_next_move(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "mine.toml", str(tmp_path / "w.safetensors")

    def told(folder: Path, text: str = "", *words: str) -> str:
        config.write_text(text)
        return said(capsys, str(config), "--on", str(folder), "--out", out, *words)

    line = told(tmp_path / "gone")
    assert "no session" in line
    assert "give the folder of a session" in line
    assert "is no session" in told(tmp_path)  # a folder of something else
    assert "holds no maps" in told(config)
    line = told(session, 'topic = "pfm.amplitud"')
    assert "topic: 2026-01-01_session has no map 'pfm.amplitud'" in line
    assert "pfm.amplitude | pfm.phase | surface" in line
    line = told(session, 'topic = "surface"\nchannel = "three"')
    assert "'surface' has no channel 'three' (allowed: one | two)" in line
    assert "leave channel out" in told(session, 'channel = "one"')
    line = told(session, 'topic = "pfm.phase"')
    assert "no map of pfm.phase to learn from" in line
    assert "the map is constant (1)" in line
    (session / "rig.toml").unlink()
    line = told(session)
    assert "has 3 topics of maps" in line
    assert f'topic = "pfm.amplitude" in mine.toml, then: probeloop train segment mine.toml --on {session}' in line
    assert "difference | ratio" in told(session, 'topic = "surface"\ncontrast = "log"')
    line = told(session, "cycle = 3")
    assert "unknown field `cycle`" in line
    assert "cycles" in line
    assert "short already" in told(session, "", "--quick")
    assert "is a folder" in said(capsys, "--on", str(session), "--out", str(tmp_path))
    (tmp_path / "file").write_text("")
    assert "no folder" in said(capsys, "--on", str(session), "--out", str(tmp_path / "file" / "w"))
    assert "no weights at" in told(session, 'topic = "surface"\nstart = "gone"')
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "events.jsonl").write_text("")
    line = told(empty)
    assert "empty has no map" in line
    assert "probeloop run RIG" in line
    assert not Path(out).exists()


def test_the_command_says_what_it_does_and_whether_that_was_any_good(
    session: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out, config = tmp_path / "two.safetensors", tmp_path / "new" / "w.safetensors", tmp_path / "mine.toml"
    save(other, [each.state_dict() for each in load(SHIPPED)[0][:2]], read_card(SHIPPED))
    config.write_text(f'start = "{other}"\ncycles = 2\nbatch = 2\ncrop = 32\nframes = 2\nchecked = 2\n')
    monkeypatch.setattr(retrain, "_bounded", lambda _: None)  # it would bound this process
    monkeypatch.setattr(retrain, "_SAYS_S", 0.0)
    monkeypatch.setattr(retrain, "DROP", 1.0)
    figures = {"f1_before": 0.9, "f1_after": 0.89, "disagreement_before": 0.2, "disagreement_after": 0.1}
    monkeypatch.setattr(retrain, "_compared", lambda *_: figures)
    assert main(["train", "segment", str(config), "--on", str(session), "--out", str(out)]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["kept"] is True
    lines = found.err.splitlines()
    assert lines[0].startswith("learns from 4 map(s) of pfm.amplitude, contrast ratio")
    assert any(line.startswith("member 2 of 2: 2/2") for line in lines)
    shares = [int(line.split("(")[1].split(" %")[0]) for line in lines if " left (" in line]
    assert shares == sorted(shares)
    assert lines[-1].startswith("the networks were retrained")
    assert read_card(out).trained["retrained"][0]["maps"] == [[64, 64], [64, 64], [48, 64], [64, 64]]
    written = out.read_bytes()
    monkeypatch.setattr(commands, "run", lambda *_: {"kept": False, "text": "the members agree no more than before"})
    line = said(capsys, str(config), "--on", str(session), "--out", str(out))
    assert "the members agree no more than before" in line.splitlines()[-1]
    assert f"{out} was not written" in line
    assert "more maps" in line
    assert out.read_bytes() == written

"""Retraining beside the experiment: better networks are swapped in without a gap, else the old ones stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment import Segment, beside, retrain
from probeloop.plugins.segment.beside import Beside, Finished, write_maps
from probeloop.plugins.segment.commands import train
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.generators import weights_at
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.weights import SHIPPED, load, read_card, save

from probeloop.api import Axis, DropInError, SettingsError, StreamSpec

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")
pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")

SMALL: dict[str, Any] = {"cycles": 2, "batch": 2, "crop": 32, "frames": 2, "checked": 2}
WAITS = "import threading; threading.Event().wait(60)"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def picture(number: int = 0, size: int = 64) -> np.ndarray:
    return lamellae(generator("scoring", 12, number), size).values


def program(source: str) -> tuple[str, ...]:
    return (sys.executable, "-c", source)


def told(one: Beside, seconds: float = 20.0) -> Finished:
    until, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < until:
        found = one.look()
        if found is not None:
            return found
        pause.wait(0.01)
    raise AssertionError("it never ended")


def ended(source: str, folder: Path, **settings: Any) -> Finished:
    one = Beside("segment", program(source))
    try:
        one.start([picture()], SHIPPED, folder / "w.safetensors", settings)
        return told(one)
    finally:
        one.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members of the shipped ensemble."""
    out = tmp_path_factory.mktemp("weights") / "other.safetensors"
    save(out, [each.state_dict() for each in load(SHIPPED)[0][:2]], read_card(SHIPPED))
    return out


def plugin_with(source: str, size: int = 64, **parameters: Any) -> Segment:
    made = Segment(Segment.Parameters(**parameters))
    made.beside.command = program(source)
    axes = (Axis("y", size, 1e-8, 0.0, "m"), Axis("x", size, 1e-8, 0.0, "m"))
    spec = StreamSpec("amplitude", "values", "<f4", nav=axes)
    made.outputs(spec)
    made.begin(spec)
    return made


def test_the_swap_is_between_two_updates_and_none_is_missing(other: Path) -> None:
    source = f"import json, shutil, sys; shutil.copy({str(other)!r}, sys.argv[-1]); " + (
        "print(json.dumps({'kept': True, 'text': 'replaced', 'out': sys.argv[-1]}))"
    )
    plugin = plugin_with(source, retrain="once")
    first, notices, renewed, pause = plugin.update(picture()), [plugin.notice], [], threading.Event()
    assert first is not None
    while "replaced" not in notices and len(notices) < 2000:
        made = plugin.update(picture())
        assert made is not None
        assert np.isfinite(made["mean"]).all()
        notices.append(plugin.notice)
        if plugin.renewed:
            renewed.append(len(notices))
            plugin.renewed = False
            last = made
        pause.wait(0.01)
    assert "learn from 1 map(s)" in notices[0]
    assert len(renewed) == 1
    assert np.array_equal(last["mean"][0], Ensemble.from_file(other).predict(picture()).mean)
    assert not np.array_equal(last["mean"], first["mean"])
    assert plugin.update(picture()) is not None
    assert not plugin.beside.running  # "once" is once
    plugin.close()
    assert not plugin.beside.running


def test_a_killed_retraining_leaves_the_old_networks() -> None:
    plugin = plugin_with(WAITS, retrain="once")
    before = plugin.update(picture())
    assert plugin.beside.pid is not None
    os.kill(plugin.beside.pid, signal.SIGKILL)
    pause, said = threading.Event(), ""
    for _ in range(500):
        after = plugin.update(picture())
        if said := plugin.notice if "signal 9" in plugin.notice else "":
            break
        pause.wait(0.01)
    assert "stay as they were" in said
    assert before is not None
    assert after is not None
    assert np.array_equal(before["mean"], after["mean"])
    assert not plugin.renewed
    plugin.close()


def test_off_stops_it_and_a_close_ends_it() -> None:
    plugin = plugin_with(WAITS, retrain="once")
    plugin.update(picture())
    pid = plugin.beside.pid
    assert pid is not None
    plugin.parameters = Segment.Parameters()
    plugin.update(picture())
    assert "stopped" in plugin.notice
    assert not Path(f"/proc/{pid}").exists()
    plugin.parameters = Segment.Parameters(retrain="once")
    plugin.update(picture())
    pid, folder = plugin.beside.pid, plugin.beside._folder
    assert pid is not None
    assert folder is not None
    plugin.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


def test_how_far_it_is_is_told_at_each_quarter(tmp_path: Path) -> None:
    """The stand-in says a further word whenever it may."""
    word = "member {}, 1:0{} left ({} %)\n"
    source = f"""
import pathlib, sys, threading
for i, share in enumerate((3, 24, 26, 30, 77, 99)):
    sys.stderr.write({word!r}.format(i, i, share))
    sys.stderr.flush()
    while not pathlib.Path({str(tmp_path)!r}, str(i)).exists():
        threading.Event().wait(0.005)
"""
    one = Beside("segment", program(source))
    assert one.progress() == ""
    try:
        one.start([picture()], SHIPPED, None, {})
        told, pause = [], threading.Event()
        for i in range(6):
            until = time.monotonic() + 20
            assert one._folder is not None
            while f"member {i}" not in (one._folder / "err").read_text() and time.monotonic() < until:
                pause.wait(0.005)
            told.append(one.progress())
            assert one.progress() == ""
            (tmp_path / str(i)).touch()
    finally:
        one.close()
    shares = ["", "", "26 % is done, 1:02 left", "", "77 % is done, 1:04 left", ""]
    assert told == [each and f"the retraining: {each}" for each in shares]


def test_when_strange_it_waits_for_strange_maps() -> None:
    plugin = plugin_with(WAITS, 96, retrain="when_strange")
    for _ in range(3):
        plugin.update(picture(size=96))
    assert not plugin.beside.running
    noise = np.random.default_rng(0).standard_normal((96, 96))
    for _ in range(3):
        plugin.update(np.where(np.arange(96)[:, None] < 60, noise, np.nan))  # too little to say anything
    assert not plugin.beside.running
    seen = [plugin.beside.running for _ in range(3) if plugin.update(noise) is not None]
    assert plugin.beside.running
    assert seen[0] is False
    plugin.close()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import sys; sys.stderr.write('long\\nno wall in the maps'); sys.exit(2)", "no wall in the maps"),
        ("import sys; sys.exit(3)", "code 3"),
        ("print('what')", "can't be read"),
        ('print(\'{"kept": false, "text": "it forgot", "out": "w"}\')', "it forgot"),
    ],
)
def test_what_went_wrong_is_told(source: str, said: str, tmp_path: Path) -> None:
    found = ended(source, tmp_path)
    assert found.weights is None
    assert said in found.text
    assert "stay as they were" in found.text


def test_one_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "_GRACE_S", 0.1)
    assert "too long" in ended(WAITS, tmp_path, seconds=0.1).text


def test_a_retraining_keeps_what_passes_its_checks_and_nothing_else(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, out = retrain.Retraining(**SMALL), tmp_path / "w.safetensors"
    maps = [picture(1, 96), picture(2, 64)]

    def run(**changes: Any) -> dict[str, Any]:
        given = retrain.Retraining(**{**SMALL, **changes})
        return retrain.retrain(given, maps, other, out, lambda _: None, lambda: True)

    spoilt = run(rate=0.01, cycles=8)
    assert not spoilt["kept"]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(retrain, "DROP", 1.0)
    better = {"f1_before": 0.9, "f1_after": 0.89, "disagreement_before": 0.2, "disagreement_after": 0.1}
    monkeypatch.setattr(retrain, "_compared", lambda *_: better)
    assert run()["kept"]
    card = read_card(out)
    assert card.trained["retrained"] == [
        {"cycles": 2, "rate": settings.rate, "seed": 0, "maps": [[96, 96], [64, 64]]}
    ]
    assert [each.name for each in tmp_path.iterdir()] == ["w.safetensors"]
    with pytest.raises(DropInError, match="nobody waits"):
        retrain.retrain(settings, maps, other, out, lambda _: None, lambda: False)
    with pytest.raises(DropInError, match="no map to learn from"):
        retrain.retrain(settings, [np.ones((64, 64), np.float32)], other, out, lambda _: None, lambda: True)


def test_only_sure_pixels_count_and_the_last_lines_are_held_out() -> None:
    values = picture(3, 96)
    values[10, :20] = np.nan
    ensemble = Ensemble.from_file()
    made = ensemble.predict(values)
    one = retrain.lesson(values, made, ensemble.card)
    assert one.held == 24
    assert not one.weight[10, :20].any()
    counted = one.weight > 0
    assert (made.doubt[counted] <= retrain.SURE).all()
    assert 0.5 < counted.mean() < 1.0
    assert (one.wall[counted] == (made.mean >= ensemble.card.threshold)[counted]).mean() > 0.97
    rng = np.random.default_rng(0)
    marked = retrain.Lesson(np.repeat(np.arange(96, dtype=np.float32)[:, None], 96, axis=1), one.wall, one.weight, 24)
    shown, wall, weight = retrain.crops([marked], 100, 32, rng)
    assert shown.shape == wall.shape == weight.shape == (100, 1, 32, 32)
    assert shown.max() == 71  # of lines 0 to 71


def test_it_is_bounded_and_says_so(tmp_path: Path) -> None:
    write_maps(tmp_path / "maps.safetensors", [picture()])
    config = tmp_path / "r.toml"
    config.write_text(f'on = "{tmp_path / "maps.safetensors"}"\nmemory_mb = 64\nbatch = 64\ncrop = 256\n')
    command = [*Beside("segment").command, "train", "segment", str(config), "--out", str(tmp_path / "w")]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, env=alone)
    assert made.returncode == 2
    assert "more than 64 MiB" in made.stderr
    assert "Traceback" not in made.stderr
    assert not (tmp_path / "w").exists()


def test_wrong_words_are_told(tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no")
    with pytest.raises(DropInError, match="holds no maps"):
        train({"on": str(bad)})
    with pytest.raises(SettingsError, match="learning"):
        train({"on": str(bad), "learning": 1})


def test_a_large_map_is_cut_to_its_middle() -> None:
    for shape in ((3000, 2000), (100, 30_000)):
        cut = beside.middle(np.zeros(shape, np.float32))
        assert cut.size <= 1.01 * beside.MOST_PIXELS
        assert min(cut.shape) == min(512, *shape)
    assert beside.middle(np.zeros((512, 512), np.float32)).shape == (512, 512)


def test_networks_of_columns_are_left_alone(tmp_path: Path) -> None:
    """What they find is no line: thinned as walls are, it would teach them something else."""
    settings, out = retrain.Retraining(**SMALL), tmp_path / "w.safetensors"
    with pytest.raises(DropInError, match=r"columns\.safetensors finds no walls"):
        retrain.retrain(settings, [picture()], weights_at("columns"), out, print, lambda: True)
    assert not out.exists()


@pytest.mark.bench
@pytest.mark.timeout(900)
def test_networks_learn_from_strange_maps_without_forgetting(tmp_path: Path) -> None:
    """A real one, as the plug-in starts it: on blurred pictures, which the networks do not know."""
    import scipy.ndimage as ndi

    maps = [ndi.gaussian_filter(picture(20 + i, 192), 2.0) for i in range(3)]
    one, out = Beside("segment"), tmp_path / "w.safetensors"
    try:
        one.start(maps, SHIPPED, out, {})
        found = told(one, 800)
    finally:
        one.close()
    assert found.weights == out, found.text
    assert "retrained" in found.text
    assert json.dumps(read_card(out).trained)

"""Rig files: all faults at once, with key paths and what is allowed."""

import re
from pathlib import Path

import pytest

from probeloop.data.errors import SettingsError, SourceError
from probeloop.data.limits import Alarm, Limits
from probeloop.rig.load import load, shipped
from probeloop.rig.plugins import transforms
from probeloop.rig.schema import check, limits_of

GOOD = """
schema = 1
name = "bench-1"
[instrument]
use = "replay"
file = "loops.h5"
[limits]
dose = 1e7
dwell_time = ["1 us", "5 ms"]
[plugins.haadf]
use = "annular_detector"
parameters = { inner = "60 mrad" }
[plan]
use = "explore"
parameters = { count = 100 }
seed = 1
"""


def written(folder: Path, text: str, name: str = "rig.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_good_rig_keeps_every_word(tmp_path: Path) -> None:
    rig = load(written(tmp_path, GOOD))
    assert rig.name == "bench-1"
    assert rig.instrument.use == "replay"
    assert rig.instrument.parameters == {"file": "loops.h5"}
    assert rig.plugins["haadf"].parameters == {"inner": "60 mrad"}
    assert rig.plans[0].use == "explore"
    assert rig.plans[0].seed == 1
    assert rig.folder == str(tmp_path.resolve())


def test_every_fault_is_told_at_once_with_its_path(tmp_path: Path) -> None:
    text = """
schema = 2
name = "Bad Name"
colour = "red"
[instrument]
file = "x"
[limits]
dose = -1
region = [[0, 0]]
[plugins.p]
inputs = ["camera"]
[plan]
use = "explore"
seed = -4
"""
    with pytest.raises(SettingsError) as caught:
        load(written(tmp_path, text))
    paths = {problem.path for problem in caught.value.problems}
    assert {"schema", "name", "colour", "instrument.use", "limits.dose", "limits.region", "plugins.p.inputs",
            "plugins.p.use", "plan[0].seed"} <= paths  # fmt: skip
    dose = next(problem for problem in caught.value.problems if problem.path == "limits.dose")
    assert "0 <= number" in dose.allowed


@pytest.mark.parametrize("text", ["schema = ", "= 3", "[a\n"])
def test_broken_toml_names_the_file_and_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"broken\.toml is no TOML: .*line"):
        load(written(tmp_path, text, "broken.toml"))


def test_a_missing_rig_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="shipped"):
        load("no-such-rig")
    with pytest.raises(SourceError, match="no rig file"):
        load(str(tmp_path / "nothing.toml"))


def test_binary_rubbish_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(SourceError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)


def test_settings_on_top_reach_nested_keys(tmp_path: Path) -> None:
    rig = load(
        written(tmp_path, GOOD),
        ["instrument.file=other.h5", "plugins.haadf.record=false", "plan.seed=7", 'instrument.pixel_size="5 nm"'],
    )
    assert rig.instrument.parameters == {"file": "other.h5", "pixel_size": "5 nm"}
    assert rig.plugins["haadf"].record is False
    assert rig.plans[0].seed == 7


@pytest.mark.parametrize("setting", ["", "novalue", "=3", "schema.x=3"])
def test_a_bad_setting_says_the_form(tmp_path: Path, setting: str) -> None:
    with pytest.raises(SettingsError):
        load(written(tmp_path, GOOD), [setting])


def test_limits_may_be_tightened_and_never_loosened() -> None:
    own = Limits(region=((-1e-7, -1e-7), (1e-7, 1e-7)), dose=1e9, knobs={"C10": (-1e-6, 1e-6)})
    made = limits_of(own, {"dose": 1e7, "knobs": {"C10": [-1e-7, 1e-7]}})
    assert (made.dose, made.knobs["C10"], made.region) == (1e7, (-1e-7, 1e-7), own.region)
    for wanted in (
        {"dose": 1e10},
        {"region": [[-2e-7, 0.0], [0.0, 0.0]]},
        {"knobs": {"C10": [-2e-6, 0.0]}},
        {"knobs": {"C30": [0.0, 1.0]}},
        {"dwell_time": [1e-9, 1.0]},
        {"max_scan_points": 100_000_000},
        {"vendor_routines": ["burn"]},
    ):
        with pytest.raises(SettingsError):
            limits_of(own, wanted)


def test_a_rig_narrows_an_alarm_and_leaves_the_rest_as_the_instrument_has_it() -> None:
    tip = Alarm(high=1e-8, units="A", when=("engaged",), stuck_after=1.0)
    own = Limits(region=((-1e-7, -1e-7), (1e-7, 1e-7)), alarms={"tip": tip})
    assert limits_of(own, {}).alarms == {"tip": tip}
    made = limits_of(own, {"alarms": {"tip": {"high": "5 nA", "hold": "0 s"}}, "frame_timeout": "2 s"})
    assert made.alarms["tip"].high == pytest.approx(5e-9)
    assert (made.alarms["tip"].when, made.alarms["tip"].stuck_after, made.frame_timeout) == (("engaged",), 1.0, 2.0)
    for wanted, words in (
        ({"tip": {"high": "20 nA"}}, "limits.alarms.tip: high 2e-08 is looser"),
        ({"tip": {"high": "5 nm"}}, "limits.alarms.tip: units 'm'"),
        ({"tip": {"stuck_after": 0.0}}, "stuck_after"),
        ({"tip": {"when": ["held"]}}, "it is judged engaged"),
        ({"tip": {"high": "5 furlong"}}, "limits.alarms"),
        ({"tip": {"hihg": 1e-9}}, "hihg"),
        ({"tap": {"high": 1e-9}}, "limits.alarms.tap: no such alarm (allowed: tip)"),
        ({"tip": 3}, "limits.alarms"),
        (3, "limits.alarms"),
    ):
        with pytest.raises(SettingsError, match=re.escape(words)):
            limits_of(own, {"alarms": wanted})


def test_every_shipped_rig_is_good() -> None:
    for name in shipped():
        if name == "replay-session":
            continue
        assert load(name).name


def test_a_name_that_windows_reserves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        load(written(tmp_path, GOOD.replace("bench-1", "con")))


def test_an_explicit_default_is_still_a_wish() -> None:
    own = Limits(region=((0.0, 0.0), (1e-7, 1e-7)), dwell_time=(1e-6, 1.0), vendor_routines=("align",))
    with pytest.raises(SettingsError, match="dwell_time"):
        limits_of(own, {"dwell_time": [1e-7, 60.0]})
    assert limits_of(own, {"vendor_routines": []}).vendor_routines == ()


@pytest.mark.parametrize("value", [3, "x", [1], [[1]], {"a": 1}, {"a": {"b": 1}}, True, -1.5])
def test_whatever_a_key_holds_is_told_with_its_path(value: object) -> None:
    good = {"schema": 1, "name": "x", "instrument": {"use": "stem"}}
    assert check(good, "x").name == "x"
    for key in ("schema", "instrument", "limits", "plugins", "plan", "record", "calibrations", "spectra", "budget",
                "plugin_folders", "memory_budget"):  # fmt: skip
        assert all(path.startswith(key) for path in faults_in({**good, key: value}))


def faults_in(values: dict[str, object]) -> list[str]:
    """Return the key paths of the faults."""
    try:
        check(values, "x")
    except SettingsError as error:
        return [problem.path for problem in error.problems]
    return []


def test_a_plugin_that_polls_has_a_process_of_its_own(tmp_path: Path) -> None:
    polls = GOOD.replace('use = "annular_detector"', 'use = "annular_detector"\npolls = true')
    instance, shared = transforms(load(written(tmp_path, polls)))["haadf"]
    assert instance.polls
    assert not shared
    instance, shared = transforms(load(written(tmp_path, GOOD)))["haadf"]
    assert not instance.polls
    assert shared


def test_where_a_plugin_computes_is_the_rigs_to_say(tmp_path: Path) -> None:
    rig = load(
        written(tmp_path, GOOD.replace('use = "annular_detector"', 'use = "annular_detector"\ndevice = "cuda"'))
    )
    assert transforms(rig)["haadf"][0].device == "cuda"
    assert transforms(load(written(tmp_path, GOOD)))["haadf"][0].device == "cpu"
    with pytest.raises(SettingsError, match=r"plugins.haadf.device: 'tpu'.*cpu \| cuda"):
        load(written(tmp_path, GOOD.replace('use = "annular_detector"', 'use = "annular_detector"\ndevice = "tpu"')))

"""The check of drivers finds nothing in a good one, and the fault in each bad one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from probeloop.data.errors import ContractError
from probeloop.testing.check_driver import (
    check_driver,
    check_simulator,
    examples,
    require_driver,
    safe_while_inside,
)
from probeloop.testing.fake_driver import FakeDriver


def _load() -> ModuleType:
    path = Path(__file__).parent / "bad" / "bad_drivers.py"
    spec = importlib.util.spec_from_file_location("bad_drivers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


bad = _load()


@pytest.mark.parametrize("modality", ["stem", "stm", "afm"])
def test_a_good_driver_has_no_problem(modality: str) -> None:
    assert check_driver(lambda: FakeDriver(modality=modality)) == []  # type: ignore[arg-type]


ALONE = ("Scan", "SetDetector", "AcquireReference", "Stop", "Read")


def test_a_detector_alone_needs_no_safe_state_and_scans_all_of_its_field() -> None:
    alone = lambda *more: bad.NoSafeState(commands=(*ALONE, *more))  # noqa: E731
    assert check_driver(alone) == []
    scan = next(each for each in examples(alone().describe()) if type(each).__name__ == "Scan")
    assert (scan.region.width, scan.region.height) == (100e-9, 100e-9)  # type: ignore[union-attr]
    for output in ("Blank", "MoveProbe", "SetBias", "AcquireSpectrum"):
        assert any("safe_state is empty" in text for text in check_driver(lambda o=output: alone(o), hang=False))  # type: ignore[misc]


NAMES = {"move_probe": "MoveProbe", "scan": "Scan", "frames": "Scan", "approach": "Approach", "set_bias": "SetBias"}


@pytest.mark.parametrize("verb", list(NAMES))
def test_make_safe_ends_a_verb_that_hangs(verb: str) -> None:
    command = next(each for each in examples(FakeDriver().describe()) if type(each).__name__ == NAMES[verb])
    assert safe_while_inside(lambda: FakeDriver(hang=(verb,)), command) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MissingVerb", "set_beam() of BeamCurrent is missing"),
        ("WrongScanIndex", "in a map of 45 pixels"),
        ("BackwardsInTime", "time_ns runs backwards"),
        ("UnwrittenTime", "time_ns unwritten"),
        ("WrongCount", "rows of 7"),
        ("WrongShape", "the map is (9, 5), asked were (5, 9)"),
        ("NeverEnds", "goes on after close()"),
        ("TwoSpectra", "a spectrum is one frame"),
        ("NotSafe", "after make_safe blanked reads False"),
        ("NoReadBack", "no 'bias'"),
        ("NoSafeState", "safe_state is empty"),
        ("NoTime", "not the time at which it is settled"),
    ],
)
def test_a_bad_driver_is_found(name: str, words: str) -> None:
    problems = check_driver(getattr(bad, name), hang=False)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoSense", "alarms deflection, z: the method sense() of Sensors is missing"),
        ("SenseForgets", "sense() gives None for the alarm 'z', a number is missing"),
        ("SenseGivesText", "sense() gives '1e-9' for the alarm 'z'"),
        ("TripsAtRest", "sense() gives 5 for 'deflection' at rest, out of -1 to 1"),
        ("UpsideDown", "limits.alarms.z: low 1 is above high -1"),
        ("SenseRaises", "OSError out of describe, read_back or make_safe: gone"),
    ],
)
def test_a_driver_with_bad_alarms_is_found(name: str, words: str) -> None:
    problems = check_driver(getattr(bad, name), hang=False)
    assert any(words in problem for problem in problems), problems


def test_good_alarms_pass_while_each_verb_is_inside() -> None:
    assert check_driver(bad.Watched) == []


@pytest.mark.leaks("a driver that hangs in sense keeps its thread for a while")
def test_a_sense_that_waits_for_a_verb_is_found() -> None:
    move = next(each for each in examples(FakeDriver().describe()) if type(each).__name__ == "MoveProbe")
    made: list[FakeDriver] = []

    def factory() -> FakeDriver:
        made.append(bad.SenseWaits())
        return made[-1]

    assert safe_while_inside(factory, move) == ["sense hangs while MoveProbe is inside the driver"]
    made[0].close()


def test_a_sense_that_fails_beside_a_verb_is_found() -> None:
    move = next(each for each in examples(FakeDriver().describe()) if type(each).__name__ == "MoveProbe")
    words = ["sense fails while MoveProbe is inside the driver: OSError: gone"]
    assert safe_while_inside(bad.SenseRaises, move) == words


@pytest.mark.leaks("a driver that hangs in make_safe keeps its threads for a while")
def test_a_driver_that_hangs_in_make_safe_is_found() -> None:
    move = next(each for each in examples(FakeDriver().describe()) if type(each).__name__ == "MoveProbe")
    made: list[FakeDriver] = []

    def factory() -> FakeDriver:
        made.append(bad.UnsafeHang())
        return made[-1]

    problems = safe_while_inside(factory, move)
    assert problems == ["make_safe hangs while MoveProbe is inside the driver"]
    made[0].close()


def test_a_slow_make_safe_is_found() -> None:
    move = next(iter(examples(FakeDriver().describe())))
    problems = safe_while_inside(bad.SlowSafe, move)
    assert "allowed are 0.5 s" in problems[0]


def test_require_driver_raises_with_all_of_it() -> None:
    with pytest.raises(ContractError, match="set_beam"):
        require_driver(bad.MissingVerb)


def test_a_simulator_must_repeat_itself_and_know_the_truth() -> None:
    assert "truth() is missing" in check_simulator(bad.NoTruth)[0]
    assert "two instruments of one seed give different frames" in check_simulator(bad.NotTheSame)


def test_a_good_simulator_passes() -> None:
    assert check_simulator(bad.Simulated) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TellsTruthInChannel", "read_back() 'true_defocus': the truth goes to truth() alone"),
        ("TruthIsMeasured", "its frames are the truth of corner itself"),
        ("TruthOfOthers", "its truth knows nothing of 4"),
        ("TruthOfOthers", "its truth of odd has 7 rows: 1 or 45"),
        ("TruthWithoutTime", "its truth has no time_ns"),
        ("AskingDisturbs", "or on whether somebody asks for the truth"),
        ("BackDoor", "set_focus() is no command"),
        ("OtherTruth", "two instruments of one seed differ in the truth of slope"),
    ],
)
def test_a_bad_simulator_is_found(name: str, words: str) -> None:
    problems = check_simulator(getattr(bad, name))
    assert any(words in problem for problem in problems), problems


def test_names_that_say_truth_are_known() -> None:
    from probeloop.testing.check_truth import is_truth

    assert [is_truth(name) for name in ("true_drift", "truth", "haadf.truth", "Truth_C10")] == [True] * 4
    assert not any(is_truth(name) for name in ("trueness", "structure", "camera", "untruth", "drift"))

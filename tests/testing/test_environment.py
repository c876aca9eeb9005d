"""A simulator as an environment: what gymnasium asks of one, the gate, time, dose, truth; and the guide's example."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.data.commands import AcquireSpectrum, Diffraction
from probeloop.data.control import Cost
from probeloop.data.errors import DropInError, SettingsError
from probeloop.plugin.contract import Observation, Reward
from probeloop.testing.environment import Knobs, Places, ScanLook, make_environment
from probeloop.testing.fake_driver import FakeDriver

gymnasium = pytest.importorskip("gymnasium", reason="the extra rl is not installed: no environment")
SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "settling": 0.01,
    "misalignment": 0.05,
}  # fmt: skip
LOOK = ScanLook((5, 6), 1e-9, 1e-4)


def value_of(observation: Observation, cost: Cost) -> float:
    return observation.value


def column(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "act": Knobs({"C10": 1.5e-6, "C12a": 1e-8}), "look": LOOK, "parameters": SMALL, "scale": 1e5,
    } | changes  # fmt: skip
    return make_environment("stem", value_of, **options)


@pytest.fixture
def env() -> Iterator[Any]:
    made = column(privileged=True)
    yield made
    made.close()


@pytest.mark.parametrize("act", [Knobs({"C10": 1e-8}), Places()], ids=["knobs", "places"])
@pytest.mark.filterwarnings("ignore:.*render modes.*")
def test_gymnasium_finds_nothing_wrong(act: Any) -> None:
    from gymnasium.utils.env_checker import check_env

    made = column(act=act)
    check_env(made)
    made.close()


def test_an_action_outside_or_beyond_the_reach_is_refused_costs_and_does_nothing(env: Any) -> None:
    seen, _ = env.reset(seed=1)
    before = env._rig.driver.read_back()
    for action, words in (
        (np.array([1.5, 0.0], np.float32), "is not 2 numbers of -1 to 1"),
        (np.array([0.1], np.float32), "is not 2 numbers"),
        (np.array([np.nan, 0.0], np.float32), "is not 2 numbers"),
    ):
        again, reward, over, cut, info = env.step(action)
        assert (reward, over, cut) == (-1.0, False, False)
        assert words in info["refused"]
        np.testing.assert_array_equal(again["look"], seen["look"])
    assert env._rig.driver.read_back() == before
    assert info["dose"] == pytest.approx(env._rig.desk.state.dose)
    _, reward, *_, info = env.step(np.array([1.0, 0.0], np.float32))
    assert info["refused"] == ""
    assert reward == info["value"] > 0
    *_, info = env.step(np.array([1.0, 0.0], np.float32))  # 3 µm: the knob reaches 2
    assert "C10" in info["refused"]
    assert env._rig.driver.read_back()["C10"] == pytest.approx(1.5e-6)


def test_time_is_virtual_dose_counts_and_the_budget_ends_it(env: Any) -> None:
    _, info = env.reset(seed=2)
    scan = 30 * 1e-4
    assert info["time"] == pytest.approx(scan)
    one = info["dose"]
    assert one == pytest.approx(30 * 50e-12 * 1e-4 / 1.602e-19, rel=0.05)
    *_, info = env.step(np.zeros(2, np.float32))
    assert info["time"] == pytest.approx(2 * scan + 0.01)  # the lens settles
    short = column(dose=6 * one)  # the lens settles for 3.3 scans with the beam on
    short.reset(seed=2)
    ends = [short.step(np.zeros(2, np.float32)) for _ in range(2)]
    assert "dose" in ends[-1][4]["refused"]
    assert ends[-1][1] == -1.0
    assert not ends[0][3]
    short.close()
    three = column(steps=3)
    three.reset(seed=1)
    assert [three.step(np.zeros(2, np.float32))[3] for _ in range(3)] == [False, False, True]
    three.close()


def test_truth_is_told_only_when_asked_for_and_is_a_copy(env: Any) -> None:
    _, info = env.reset(seed=5)
    assert info["truth"]["aberrations"].C10 != 0.0
    assert not any(callable(value) for value in info["truth"].values())
    info["truth"]["potential"][:] = 0.0
    assert env._rig.driver.truth()["potential"].any()
    plain = column()
    _, told = plain.reset(seed=5)
    assert "truth" not in told
    plain.close()


def test_one_seed_is_one_course_of_events_and_another_is_another() -> None:
    def course(seed: int) -> list[Any]:
        made = column()
        seen = [made.reset(seed=seed)[0]]
        for _ in range(2):
            seen.append(made.step(np.array([0.01, -0.5], np.float32))[0])
            seen.append(made.reset()[0])
        made.close()
        return [one["look"].tobytes() + one["knobs"].tobytes() for one in seen]

    assert course(3) == course(3)
    assert course(3)[0] != course(4)[0]


class Cheap(Reward):
    """Value less time."""

    def reward(self, observation: Observation, cost: Cost) -> float:
        return observation.value - cost.time


def test_a_reward_drop_in_judges_and_what_is_invalid_earns_nothing() -> None:
    made = make_environment(
        "stem", Cheap(), act=Places(), look=LOOK, parameters=SMALL, value=lambda seen: float(seen[0, 0])
    )
    made.reset(seed=1)
    _, reward, *_, info = made.step(np.array([0.5, -0.5], np.float32))
    assert reward == pytest.approx(info["value"] - 30e-4)
    made.close()
    blind = make_environment(
        "stem", Cheap(), act=Places(), look=LOOK, parameters=SMALL, value=lambda seen: float("nan")
    )
    blind.reset(seed=1)
    _, reward, *_, info = blind.step(np.zeros(2, np.float32))
    assert (reward, info["value"]) == (0.0, None)
    blind.close()


class SpectrumLook:
    """One measurement at the place."""

    shape = (16,)

    def command(self, info: Any, position: Any) -> AcquireSpectrum:
        return AcquireSpectrum(position, Diffraction(1e-3))

    def read(self, info: Any, blocks: Any) -> Any:
        return blocks[0].data[0] + np.arange(16.0)


def test_places_are_looked_at_on_the_scanner_s_grid_of_any_instrument() -> None:
    made = make_environment(lambda seed: FakeDriver(), value_of, act=Places(), look=SpectrumLook())
    made.reset(seed=1)
    seen, *_, info = made.step(np.array([0.3, -0.7], np.float32))
    assert info["refused"] == ""
    driver: Any = made._rig.driver  # type: ignore[attr-defined]
    (x0, y0), (x1, y1) = driver.describe().limits.region
    wanted = driver.describe().grid.nearest((x0 + 0.65 * (x1 - x0), y0 + 0.15 * (y1 - y0)))
    assert (driver.values["position_x"], driver.values["position_y"]) == pytest.approx(wanted)
    assert seen["place"] == pytest.approx([0.3, -0.7], abs=0.05)
    made.close()


def test_what_the_instrument_can_t_do_is_said_before_an_episode() -> None:
    with pytest.raises(SettingsError, match=r"act\.most\.C99"):
        column(act=Knobs({"C99": 1e-9}))
    with pytest.raises(SettingsError, match="0 < change"):
        column(act=Knobs({"C10": 1.0}))
    with pytest.raises(SettingsError, match="pixel_angle"):
        column(parameters={"pixel_angle": -1.0})


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probeloop.discover.installed", lambda module: False)
    with pytest.raises(DropInError, match=r"probeloop\[rl\]"):
        column()


def test_in_the_guide_s_example_the_hill_climber_beats_chance() -> None:
    guide = Path(__file__).parents[2] / "docs" / "environments.md"
    found = re.search(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.S)
    assert found is not None
    source = found[1].replace("seeds = range(8)", "seeds = range(4)")
    assert "range(4)" in source
    said, names = io.StringIO(), dict[str, Any]()
    with contextlib.redirect_stdout(said):
        exec(compile(source, str(guide), "exec"), names)  # the guide is ours
    assert np.median(names["climbing"]) < 0.5 * np.median(names["by_chance"])
    assert re.fullmatch(r"random [\d.]+ nm, hill climber [\d.]+ nm from focus\n", said.getvalue())

"""The parts that watch, without processes: back-off, pulses, sources, and a keeper that gives up."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from probeloop.plugins.annular_detector import AnnularDetector

from probeloop.bus.node import Bus
from probeloop.data.clock import ManualClock
from probeloop.data.control import Revision, StateChange
from probeloop.plugin.backoff import Restarts
from probeloop.plugin.instance import PluginInstance, form_schema
from probeloop.plugin.keeper import PluginKeeper
from probeloop.plugin.pulse import WORK, Work, read_work
from probeloop.plugin.reload import SourceWatch
from probeloop.plugin.watchdog import fault

from .test_processes import PLUGIN, write


def test_pauses_grow_and_the_fifth_failure_in_ten_minutes_is_the_last() -> None:
    clock = ManualClock()
    restarts = Restarts(clock)
    assert [restarts.next_pause("p") for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    assert restarts.next_pause("q") == 0.5
    restarts.forget("p")
    for _ in range(20):
        assert restarts.next_pause("p") is not None
        clock.advance(151.0)


def test_a_pulse_says_what_is_in_hand_and_its_limit(bus: Bus) -> None:
    work = Work(bus, "p")
    work.begin()
    first = read_work(bus, "p")
    assert first is not None
    assert first.limit_s == 60.0, "the first call may compile"
    work.end()
    for _ in range(6):
        work.begin()
        work.end()
    work.begin()
    now = read_work(bus, "p")
    assert now is not None
    assert (now.limit_s, now.blocks, now.pid) == (2.0, 7, os.getpid())
    assert not now.late
    words = bus.ledger.rows(WORK, "p")[0].words
    words[0] -= 3_000_000_000
    assert "hangs: one call takes 3.0 s, the limit is 2.0 s" in str(fault(bus, os.getpid(), ["p"]))
    assert fault(bus, os.getpid() + 1, ["p"]) is None, "a pulse of an older process"
    work.end()
    words[5] -= 11_000_000_000
    assert "is silent" in str(fault(bus, os.getpid(), ["p"]))
    assert read_work(bus, "nobody") is None


def test_the_limit_follows_the_median_of_slow_calls(bus: Bus) -> None:
    work = Work(bus, "slow")
    work.begin()
    work.end()
    for _ in range(5):
        work.begin()
        time.sleep(0.12)
        work.end()
    work.begin()
    found = read_work(bus, "slow")
    assert found is not None
    assert found.limit_s == pytest.approx(20 * 0.12, rel=0.5)
    assert found.limit_s > 2.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(tmp_path))
    return tmp_path


def looks(watch: SourceWatch) -> list[tuple[str, str]]:
    return [(change.what, change.found.name) for _ in range(2) for change in watch.look()]


def test_new_changed_broken_and_mended_sources_are_noticed_once(folder: Path) -> None:
    write(folder, "there")
    watch = SourceWatch()
    assert looks(watch) == []
    write(folder, "fresh")
    assert watch.look() == [], "half a file may be there: it must be the same twice"
    assert looks(watch) == [("new", "fresh")]
    write(folder, "there", factor=2.0)
    assert looks(watch) == [("changed", "there")]
    (folder / "there.py").write_text("class There(\n")
    assert looks(watch) == [("broken", "there")]
    assert looks(watch) == []
    write(folder, "there", factor=3.0)
    assert looks(watch) == [("changed", "there")]
    os.utime(folder / "there.py")
    assert looks(watch) == [], "touched, not changed"


class Dead:
    pid = 2**22 + 5  # beyond what Linux gives

    def poll(self) -> int:
        return 7


def test_a_keeper_gives_up_after_five_failures_and_a_person_or_a_new_source_begins_again(
    bus: Bus, folder: Path
) -> None:
    write(folder, "weak")
    clock, started = ManualClock(), []

    def spawn(name: str, instances: tuple[PluginInstance, ...], take_over: bool) -> Dead:
        started.append(instances[0])
        return Dead()

    keeper = PluginKeeper(bus, spawn, clock=clock)
    keeper.start("weak", (PluginInstance(name="weak", use="weak"),))
    states = []
    for _ in range(60):
        states += [e.state for e in keeper.look() if isinstance(e, StateChange)]
        clock.advance(0.5)
    assert len(started) == 5
    assert states[-1] == "off"
    assert states.count("stopped") == 4
    keeper.enable("weak")
    assert len(started) == 6
    while "off" not in states[-1:]:
        states += [e.state for e in keeper.look() if isinstance(e, StateChange)]
        clock.advance(0.5)
        assert len(started) < 12
        if len(started) == 10:
            break
    count = len(started)
    write(folder, "weak", factor=2.0)
    keeper.look(), keeper.look()
    assert len(started) == count + 1


def test_a_keeper_remembers_what_was_set_and_not_what_was_default(bus: Bus, folder: Path) -> None:
    write(folder, "live")
    keeper = PluginKeeper(bus, lambda *_: Dead(), clock=ManualClock())
    keeper.start("live", (PluginInstance(name="live", use="live", parameters={"a": "3 nm"}, spelled=True),))

    def heard(revision: int, digest: str, **values: float) -> PluginInstance:
        keeper.take(Revision(target="live", topic="live.out", revision=revision, first_index=0, values=values,
                             source_hash=digest))  # fmt: skip
        return keeper._members["live"].instances["live"]

    assert heard(0, "h1", a=3.0, b=1.0).parameters == {"a": "3 nm"}
    assert heard(1, "h1", a=3.0, b=2.0).parameters == {"a": "3 nm", "b": 2.0}
    assert heard(2, "h2", a=3.0, b=2.0, c=9.0).parameters == {"a": "3 nm", "b": 2.0}
    assert heard(2, "h2", a=3.0, b=2.0, c=9.0).revision == 2


def test_a_forms_schema_has_its_fields_on_top_and_the_unit_of_an_optional_one() -> None:
    schema = form_schema(AnnularDetector.Parameters)
    inner = schema["properties"]["inner"]
    assert (inner["unit"], inner["minimum"], inner["maximum"], inner["default"]) == ("mrad", 0.0, 1000.0, None)
    assert PLUGIN.startswith('"""A plug-in of a test."""')

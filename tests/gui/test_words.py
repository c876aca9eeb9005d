"""What the window knows and says: banner, rig, journal, schema, layout; no Qt anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from probeloop.gui.models import layout
from probeloop.gui.models.banner import Facts, banner
from probeloop.gui.models.journal import Journal, describe
from probeloop.gui.models.latency import Recent, loop_rows, transport_rows
from probeloop.gui.models.rig import Rig
from probeloop.gui.models.schema import fields_of
from probeloop.gui.models.topics import TopicMeter

from probeloop.data.axes import StreamSpec
from probeloop.data.commands import MoveProbe, Scan
from probeloop.data.control import (
    Description,
    Done,
    Gap,
    Generation,
    Observed,
    Progress,
    Remark,
    Result,
    Revision,
    StateChange,
    Trace,
    Verdict,
)
from probeloop.data.latency import Histogram, LoopTimings, Timings
from probeloop.data.scan import Region


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (Facts(), "gone"),
        (Facts(instrument_age=9.0, fault="STOP"), "stale"),
        (Facts(instrument_age=0.1, fault="STOP"), "stopped"),
        (Facts(instrument_age=0.1, paused=True, frame_age=0.1), "paused"),
        (Facts(instrument_age=0.1, settling=True, frame_age=0.1), "settling"),
        (Facts(instrument_age=0.1, frame_age=0.1), "live"),
        (Facts(instrument_age=0.1, frame_age=9.0, acquiring=True), "stale"),
        (Facts(instrument_age=0.1, frame_age=9.0), "ready"),
        (Facts(instrument_age=0.1), "ready"),
    ],
)
def test_what_must_not_be_overlooked_comes_first(facts: Facts, kind: str) -> None:
    assert banner(facts).kind == kind


@pytest.mark.parametrize(
    ("origin", "word"),
    [("simulation", "SIMULATED"), ("replay", "REPLAY"), ("experiment", "MICROSCOPE"), ("", "UNKNOWN")],
)
def test_simulated_data_are_never_mistaken_for_the_column(origin: str, word: str) -> None:
    shown = banner(Facts(instrument_age=0.1, frame_age=0.1, origin=origin))
    assert word in shown.origin
    assert ("MICROSCOPE" in shown.origin) == (origin == "experiment")


def test_a_stop_says_that_it_is_latched_and_how_to_go_on() -> None:
    shown = banner(Facts(instrument_age=0.1, fault="STOP by the operator"))
    assert "STOP by the operator" in shown.line
    assert "re-arm" in shown.line


def test_an_alarm_is_told_in_the_words_of_its_sensor() -> None:
    rig = Rig()
    reason = "alarm tip_current: 21 nA is above 10 nA"
    rig.take(StateChange(target="gate", state="tripped", reason=reason, data={"fault": reason, "epoch": 3}))
    shown = banner(Facts(instrument_age=0.1, fault=rig.fault, frame_age=0.1, acquiring=True))
    assert (shown.kind, shown.word) == ("stopped", "STOPPED")
    assert shown.line.startswith(f"{reason}. Latched")
    journal = Journal()
    journal.take(StateChange(target="alarms", state="standing", reason="alarm z: no value for 3 s"))
    assert [(each.level, each.text) for each in journal.lines()] == [
        ("error", "alarms: standing: alarm z: no value for 3 s")
    ]


def test_nothing_here_is_called_an_emergency_stop() -> None:
    import probeloop.gui

    folder = Path(probeloop.gui.__file__).parent
    named = [path.name for path in folder.rglob("*.py") if "emergency" in path.read_text().lower()]
    assert named == []


INSTRUMENT = {
    "name": "stem", "origin": "simulation", "modality": "stem", "commands": ["Scan"], "fault": "", "epoch": 7,
    "holder": "experiment", "limits": {"dose": 100.0, "knobs": {"C10": [-1e-7, 1e-7], "C30": [0.0, 1e-3]}},
    "info": {"name": "stem", "origin": "simulation", "modality": "stem",
             "calibrations": [{"kind": "convergence_angle", "value": [0.02]}]},
    "knobs": {"C10": 5e-9}, "readback": {"blanked": True}, "running": {"id": 4, "command": "Scan"}, "queued": 0,
    "dose": {"spent": 25.0, "limit": 100.0, "area_max": 3e20, "estimate": True},
}  # fmt: skip


def described() -> Rig:
    rig = Rig()
    rig.described("instrument", Description("instrument", "instrument", INSTRUMENT))
    plugin = {"use": "annular_detector", "state": "running", "parameters": {"inner": 1.0}, "revision": 2}
    schema = {"adf": {"properties": {"inner": {"type": "number"}}}}
    rig.described("plugin.adf", Description("plugins", "plugins", {"plugins": {"adf": plugin}}, schema))
    return rig


def test_the_rig_is_rebuilt_from_describe() -> None:
    rig = described()
    assert (rig.origin, rig.epoch, rig.holder, rig.blanked, rig.acquiring) == (
        "simulation",
        7,
        "experiment",
        True,
        True,
    )
    assert rig.convergence == 0.02
    assert (rig.dose, rig.dose_limit, rig.area_dose, rig.dose_estimate) == (25.0, 100.0, 3e20, True)
    assert rig.knobs["C10"].readback == 5e-9
    assert rig.knobs["C10"].measured is None
    assert rig.knobs["C30"].readback is None
    assert rig.plugins["adf"].process == "plugin.adf"
    assert rig.plugins["adf"].schema["properties"]["inner"]["type"] == "number"


def test_a_knob_and_a_measurement_are_never_confused() -> None:
    rig = described()
    data = {"plan": "autofocus", "measured_m": {"C10": -3e-8}, "sigma_m": {"C10": 1e-9}}
    rig.take(StateChange(target="plan", state="finished", reason="in focus", data=data))
    assert (rig.knobs["C10"].readback, rig.knobs["C10"].measured, rig.knobs["C10"].sigma) == (5e-9, -3e-8, 1e-9)
    assert rig.knobs["C10"].method == "autofocus"


def test_events_move_plan_plugin_gate_and_record() -> None:
    rig = described()
    rig.take(StateChange(target="plan", state="running", data={"plan": "explore"}))
    rig.take(Progress(target="plan", done=0.25, total=1.0, eta=12.0, message="25 of 100"))
    assert rig.plan.running
    assert (rig.plan.name, rig.plan.done, rig.plan.eta) == ("explore", 0.25, 12.0)
    rig.take(Revision(target="adf", topic="adf.value", revision=3, first_index=9, values={"inner": 4.0}))
    assert (rig.plugins["adf"].revision, rig.plugins["adf"].values["inner"]) == (3, 4.0)
    rig.take(StateChange(target="plugin.adf", state="failed", reason="NaN in frame 7"))
    assert (rig.plugins["adf"].state, rig.plugins["adf"].error) == ("failed", "NaN in frame 7")
    rig.take(StateChange(target="gate", state="tripped", reason="STOP", data={"epoch": 8, "holder": ""}))
    assert (rig.fault, rig.epoch, rig.holder) == ("STOP", 8, "")
    rig.take(StateChange(target="gate", state="armed"))
    assert rig.fault == ""
    rig.take(StateChange(target="lease", state="taken", data={"holder": "operator-1", "epoch": 9}))
    assert rig.holder == "operator-1"
    rig.take(StateChange(target="recorder", state="recording", data={"session": "s"}))
    assert (rig.recording, rig.session) == (True, "s")
    rig.take(StateChange(target="plan", state="failed", reason="no contrast", data={"plan": "explore"}))
    assert not rig.plan.running
    assert rig.plan.reason == "no contrast"


def test_both_latencies_are_kept_apart() -> None:
    rig = described()
    rig.take(Done(id=1, result=Result(trace=Trace(exposed=1_000, applied=301_000), physical_ns=5_000_000)))
    assert (rig.software_ns, rig.physical_ns) == ([300_000], [5_000_000])
    rig.take(Generation(id=3, command_id=1, topic="camera", settings={"C10": 6e-9}))
    assert rig.knobs["C10"].readback == 6e-9


def histogram(*durations: int) -> Histogram:
    timings = Timings()
    for each in durations:
        timings.add(each)
    return timings.counted


def test_the_latency_of_a_rig_is_rebuilt_from_describe() -> None:
    rig = described()
    assert loop_rows(rig.latency) == []
    loop = LoopTimings()
    loop.take(Result(trace=Trace(exposed=1_000, published=3_000, received=9_000, applied=301_000)))
    state = {**INSTRUMENT, "latency": msgspec.to_builtins(loop.counted)}
    rig.described("instrument", Description("instrument", "instrument", state))
    rows = loop_rows(rig.latency)
    assert [(row.label, row.total) for row in rows] == [
        ("software, in all", True),
        ("physical, in all", True),
        ("camera", False),
        ("to the policy", False),
        ("instrument", False),
    ]
    assert rows[0].cells == ("290 µs", "290 µs", "1")  # within 6 %
    assert rows[1].cells == ("–", "–", "0")
    assert rows[2].cells == ("2 µs", "2 µs", "1")


def test_the_way_of_blocks_is_told_for_each_reader_with_unit_or_bound() -> None:
    transport = {"camera": msgspec.to_builtins(histogram(*[40_000] * 99, 12_000_000_000)), "scan": 7}
    rig = described()
    plugin = {"use": "annular_detector", "state": "running", "transport": transport}
    rig.described("plugin.adf", Description("plugins", "plugins", {"plugins": {"adf": plugin}}))
    topics = [TopicMeter("camera").row(0)]
    now = [0.0]
    recent = Recent(lambda: now[0])
    recent.of("camera → adf", Histogram())
    (row,) = transport_rows(rig.plugins.values(), topics, recent)  # the window has read nothing yet
    assert row.label == "camera → adf"
    assert row.cells == ("42 µs", "42 µs", "100")  # within 6 %
    assert row.histogram.quantile(1.0).words == "> 10 s"  # type: ignore[union-attr]
    assert histogram(10).quantile(0.5).words == "< 1 µs"  # type: ignore[union-attr]
    now[0] = 61.0
    (row,) = transport_rows(rig.plugins.values(), topics, recent)
    assert row.cells == ("–", "–", "0")


def test_the_last_minute_forgets_the_start_and_follows() -> None:
    now, all_of_it = [0.0], [5_000]
    recent = Recent(lambda: now[0])
    assert recent.of("x", histogram(*all_of_it)).n == 0
    for second in range(1, 181):
        now[0] = float(second)
        all_of_it.append(2_000_000 if second <= 90 else 3_000)
        found = recent.of("x", histogram(*all_of_it))
        assert min(second, 55) <= found.n <= 66
    assert found.bins == histogram(*all_of_it[-found.n :]).bins
    now[0] += 1000.0  # nobody looked: what came meanwhile is not called the last minute
    assert recent.of("x", histogram(*all_of_it, 1, 1)).n == 0


def test_what_a_plan_measured_is_kept_until_the_next_one_begins() -> None:
    rig = described()
    found = [
        {"position": [1e-9, 2e-9], "value": 3.0, "valid": True},
        {"position": [0, 0], "value": 9.0, "valid": False},
    ]
    rig.take(Observed(step=3, kind="observe", value={"value": found}))
    rig.take(Observed(step=4, kind="checkpoint", value={"elapsed": 1.0}))
    assert rig.points == [(1e-9, 2e-9, 3.0), (0.0, 0.0, None)]
    rig.take(StateChange(target="plan", state="running", data={"plan": "explore", "parameters": {}, "resumed": True}))
    assert len(rig.points) == 2
    rig.take(StateChange(target="plan", state="running", data={"plan": "explore", "parameters": {}}))
    assert rig.points == []


def test_a_refusal_is_told_in_words_with_limit_and_what_is_allowed() -> None:
    journal = Journal()
    journal.take(
        Verdict(id=1, command=MoveProbe((8e-8, 0.0)), holder="experiment", epoch=1, accepted=False,
                reason="the probe would jump 80 nm", limit="max_step 20 nm", allowed="steps up to 20 nm")
    )  # fmt: skip
    (line,) = journal.lines("warning")
    assert line.text == (
        "refused MoveProbe at (80 nm, 0 m): the probe would jump 80 nm (limit: max_step 20 nm). "
        "Allowed: steps up to 20 nm"
    )
    assert journal.refusals[0].allowed == "steps up to 20 nm"


def test_the_log_counts_repeats_filters_and_forgets_the_oldest() -> None:
    journal = Journal()
    for _ in range(3):
        journal.take(Remark(text="slow", level="warning", process="recorder"))
    journal.take(Gap(topic="camera", first=5003, count=1, reason="trigger missed", pixels=(5003,)))
    assert [line.times for line in journal.lines("warning")] == [3, 1]
    assert "pixels 5003" in journal.lines("warning", "CAMERA")[0].text
    for i in range(3000):
        journal.say(str(i), "debug")
    assert len(journal.lines("debug")) == 2000
    assert len(journal.lines("info")) == 0


def test_commands_are_described_with_units() -> None:
    scan = Scan(Region(0, 0, 1e-8, 2e-8), (32, 64), 1e-4)
    assert describe(scan) == "Scan 64 × 32, 10 nm × 20 nm, 100 µs/px"


SCHEMA = {
    "$ref": "#/$defs/P",
    "$defs": {
        "P": {
            "properties": {
                "inner": {"type": "number", "minimum": 0, "exclusiveMaximum": 9, "unit": "mrad", "default": 2.0},
                "n": {"type": "integer", "minimum": 1, "maximum": 5},
                "order": {"enum": ["a", "b"]},
                "on": {"type": "boolean"},
                "limit": {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]},
                "deep": {"$ref": "#/$defs/D"},
            },
            "required": ["n"],
        },
        "D": {"type": "object"},
    },
}


def test_fields_carry_unit_range_choices_and_say_what_is_allowed() -> None:
    fields = {field.name: field for field in fields_of(SCHEMA)}
    assert fields["inner"].label == "inner [mrad]"
    assert fields["inner"].allowed == "0 ≤ number < 9 mrad"
    assert fields["inner"].fault(9.0) == "inner: 9.0 (allowed: 0 ≤ number < 9 mrad)"
    assert fields["inner"].fault(float("nan"))
    assert fields["n"].fault(2.5)
    assert fields["n"].fault(5) == ""
    assert fields["n"].required
    assert fields["order"].fault("c") == "order: 'c' (allowed: a | b)"
    assert fields["limit"].nullable
    assert fields["limit"].fault(None) == ""
    assert (fields["on"].kind, fields["deep"].kind) == ("yes_no", "other")


def test_the_layout_survives_and_a_broken_file_is_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBELOOP_CONFIG", str(tmp_path / "new"))
    assert layout.load_layout() == {}
    assert layout.save_layout({"log": False})
    assert layout.load_layout()["log"] is False
    for broken in ("{", "[1]", '{"version": 99}', "[" * 100_000):
        layout.layout_file().write_text(broken)
        assert layout.load_layout() == {}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["window.json"]
    monkeypatch.setenv("PROBELOOP_CONFIG", "/proc/nowhere")
    assert not layout.save_layout({})


def test_models_need_no_qt() -> None:
    import probeloop.gui.models

    names = sorted(path.stem for path in Path(probeloop.gui.models.__file__).parent.glob("*.py"))
    imports = "; ".join(f"import probeloop.gui.models.{name}" for name in names if name != "__init__")
    source = f"import sys; {imports}; print([m for m in sys.modules if m.split('.')[0] in ('PySide6', 'pyqtgraph')])"
    out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("late_s", "error_s", "words"),
    [(0.004, 0.0, "4 ms"), (0.004, 0.02, "< 20 ms"), (-0.01, 0.02, "< 20 ms"), (0.5, 0.02, "500 ms ± 20 ms")],
)
def test_a_latency_below_its_error_is_only_said_to_be_below(late_s: float, error_s: float, words: str) -> None:
    meter = TopicMeter("camera")
    meter.clock_error = error_s
    spec = StreamSpec("camera", "values")
    meter.saw(
        SimpleNamespace(spec=spec, count=1, index=0, exposed_ns=round((100 - late_s) * 1e9), published_ns=0), 100.0
    )
    assert meter.row(0).late == words


def test_a_rig_of_another_host_says_how_well_its_clock_is_known() -> None:
    rig = Rig()
    assert rig.clock_error == 0.0
    rig.described("link", Description("link", "link", {"clock_error": None}))
    rig.described("link", Description("link", "link", {"clock_error": 0.003}))
    assert rig.clock_error == 0.003

"""The command line as a person meets it: help with an example, one line for an error, an exit code."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from probeloop import discover
from probeloop.cli import _EXAMPLES, main
from probeloop.data.errors import BusError
from probeloop.rig.supervisor import RigLock, running_rigs


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return what it told the person."""
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert all(line.startswith("probeloop: ") for line in told.splitlines())
    return told


@pytest.mark.parametrize("command", sorted(_EXAMPLES))
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example:\n  probeloop {command}" in capsys.readouterr().out


def test_a_bench_that_can_only_fail_does_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, "bench", "load", "--rate", "-5", "--seconds", "nan", "--seeds", "0", "--minutes", "inf")
    assert [line.split(": ")[1] for line in told.splitlines()] == ["--seconds", "--rate", "--minutes", "--seeds"]
    assert "allowed: 0 < number" in told


def test_an_unknown_rig_lists_the_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert "stem" in fails(capsys, "run", "no-such-rig", "--headless")


def test_faults_of_a_rig_come_one_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = tmp_path / "r.toml"
    rig.write_text('schema = 1\nname = "r"\nwhat = 1\n[instrument]\nuse = "stem"\n[limits]\ndose = -1\n')
    told = fails(capsys, "run", str(rig), "--headless", "--record", str(tmp_path / "s"))
    assert len(told.splitlines()) == 3
    assert "what: unknown" in told
    assert "limits.dose" in told
    assert not (tmp_path / "s").exists()


def test_an_unknown_plug_in_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = tmp_path / "r.toml"
    rig.write_text('schema = 1\nname = "r"\n[instrument]\nuse = "stem"\n[plugins.p]\nuse = "annular_detektor"\n')
    told = fails(capsys, "run", str(rig), "--headless", "--record", str(tmp_path / "s"))
    assert "plugins.p.use" in told
    assert "annular_detector" in told


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    told = fails(capsys, "run", "stem", "--headless", "--record", str(tmp_path / "file" / "s"))
    assert "--record DIR" in told


def test_stop_without_a_rig_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    told = fails(capsys, "stop", "--connect", "surely-not-running")
    assert "surely-not-running" in told or "no rig runs" in told


def test_a_window_without_a_screen_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "no screen" in fails(capsys, "gui")


def test_a_rig_runs_once_at_a_time(rig_id: str) -> None:
    lock = RigLock(rig_id)
    try:
        assert rig_id in running_rigs()
        code = f"from probeloop.rig.supervisor import RigLock; RigLock({rig_id!r})"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "runs already" in second.stderr
        with pytest.raises(BusError, match="runs already"):
            RigLock(rig_id)
    finally:
        lock.release()
    assert rig_id not in running_rigs()
    RigLock(rig_id).release()


def test_who_looks_which_rigs_run_is_never_in_the_way_of_one_that_starts(rig_id: str) -> None:
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            running_rigs()

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    try:
        for _ in range(200):
            lock = RigLock(rig_id)
            assert lock.path.read_text() == str(os.getpid())  # nobody took its file away
            lock.release()
    finally:
        done.set()
        for thread in looking:
            thread.join()


def test_list_says_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds["annular_detector"] == "FrameTransform"
    assert kinds["ratio"] == "JoinTransform"
    assert kinds["stem"] == "Simulator"
    assert [row for row in rows if row["origin"] == "shipped" and row["error"]] == []


def test_new_writes_a_plug_in_that_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(tmp_path))
    assert main(["new", "plugin", "my_filter"]) == 0
    assert main(["check", str(tmp_path / "my_filter.py")]) == 0
    assert "keeps its contract" in capsys.readouterr().out
    assert "exists already" in fails(capsys, "new", "plugin", "my_filter")
    assert "no name" in fails(capsys, "new", "plugin", "My-Filter")
    assert main(["new", "plugin", "my_join", "--kind", "join"]) == 0
    assert '[plugins.my_join] input = ["TOPIC", "TOPIC"]' in capsys.readouterr().out
    assert main(["check", str(tmp_path / "my_join.py")]) == 0
    assert "class MyJoin(JoinTransform)" in (tmp_path / "my_join.py").read_text()


def test_new_writes_a_driver_that_is_held_against_its_contract_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(tmp_path))
    assert main(["new", "driver", "my_camera"]) == 0
    assert "docs/drivers.md" in capsys.readouterr().out
    path = str(tmp_path / "my_camera.py")
    assert "class MyCamera:" in Path(path).read_text()
    found = discover.find("my_camera", "Driver")
    assert (found.origin, found.class_name) == ("user", "MyCamera")
    assert main(["check", path]) == 1
    assert "--set field_of_view: missing" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    assert main(["check", path, "--set", f"port={port}", "--set", 'field_of_view=["100 nm", "60 nm"]']) == 1
    assert "does not answer" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["commands", "requests", "events", "rig"])
def test_schemas_are_json_schema(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    import jsonschema

    assert main(["schema", what]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_the_gates_table_names_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "gate"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"dose", table)
    assert re.search(r"epoch", table)
    assert re.search(r"alarm: sensor without a number.*latched", table)


def test_the_alarms_of_a_rig_that_does_not_run_are_not_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no-such-rig" in fails(capsys, "schema", "gate", "no-such-rig") or not running_rigs()


def test_doctor_ends_each_advice_with_a_move(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cores"] >= 1
    assert all(re.search(r"[:;]", line) for line in facts["advice"])

"""The bench of drivers: it compares, it notices one flipped byte and one lost frame, and names what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probeloop.simulators.servers.merlin import Faults, MerlinServer, PoolSource

from probeloop.bench import drivers, drivers_dectris, drivers_load, drivers_merlin, parties, peers
from probeloop.bench.drivers_merlin import CASES, driver, pool
from probeloop.bench.drivers_read import Account, compared, different, prove, totals
from probeloop.cli import main
from probeloop.data.errors import ProbeloopError


def silent(what: str) -> Any:
    return lambda done, of: None


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be without the programs of others."""
    monkeypatch.setenv("PROBELOOP_PEERS", str(tmp_path / "no-peers"))


def account_of(faults: Faults | None = None, seed: int = drivers_merlin.SEED) -> Account:
    """Return what the bench counts of one scan of 4 x 16 from a server in this process."""
    source = PoolSource((256, 256), drivers_merlin.MEAN, drivers_merlin.POOL, seed)
    with MerlinServer(source, rate=0.0, faults=faults) as server:
        where = {"control_port": server.control_port, "data_port": server.data_port}
        with driver(**where, trigger="internal") as reader:
            return compared(reader, (4, 16), pool())


def test_what_the_server_does_wrong_is_what_is_counted() -> None:
    account = account_of(Faults(drop=frozenset({8, 20}), duplicate=frozenset({5})))
    assert (account.frames, account.lost, account.repeats, account.wrong) == (62, 2, 1, [])
    assert account.equal
    assert account.errors == []


def test_frames_of_another_source_are_caught() -> None:
    account = account_of(seed=2)
    assert account.wrong == list(range(64))
    assert not account.equal
    assert account.as_dict()["wrong_frames"] == list(range(8))


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
def test_one_flipped_byte_is_caught(dtype: str) -> None:
    source = np.arange(2 * 5 * 4).reshape(2, 5, 4).astype(dtype)
    assert different(source[[1, 0]], np.array([3, 4]), source) == []
    for byte in range(source[0].nbytes):
        spoilt = source.copy()
        spoilt[1].view(np.uint8).reshape(-1)[byte] ^= 1
        assert different(spoilt, np.array([0, 1]), source) == [1]
    assert different(source[:, :4], np.array([0, 1]), source) == [0, 1]  # another shape
    prove(source[1], 1, source)


def test_a_comparison_that_sees_nothing_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    from probeloop.bench import drivers_read

    monkeypatch.setattr(drivers_read, "different", lambda *given: [])
    with pytest.raises(ProbeloopError, match="a flipped byte was not noticed"):
        prove(np.zeros((2, 2), np.uint8), 0, np.zeros((1, 2, 2), np.uint8))


def test_no_frame_is_not_equal() -> None:
    assert not Account().equal
    assert totals({}) == {"frames": 0, "equal": None, "lost": 0}
    case = {"frames": 3, "equal": False, "lost": 1}
    assert totals({"a": case, "b": {**case, "equal": True}}) == {"frames": 6, "equal": False, "lost": 2}


def test_what_is_missing_is_named_and_the_speed_measured(
    nobody: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = drivers_merlin.speed
    monkeypatch.setattr(drivers_merlin, "speed", lambda folder, rounds, tell: real(folder, 1, tell, 512))
    assert main(["bench", "drivers", "--what", "merlin", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    merlin = found["merlin"]
    assert (merlin["frames"], merlin["equal"], merlin["lost"]) == (0, None, 0)
    assert "libertem-live-mib-sim: libertem-live is not there" in merlin["missing"][0]
    assert found["missing"] == [f"merlin: {merlin['missing'][0]}"]
    assert merlin["x_bare_reader"] > 0
    assert (merlin["speed"]["lost"], merlin["speed"]["equal"], merlin["speed"]["errors"]) == (0, True, [])
    assert "missing: merlin: libertem" in drivers.table(found)


def test_a_part_of_which_nothing_could_be_checked_is_not_called_good() -> None:
    bare: dict[str, Any] = {"cases": {}, "speed": {}, "missing": ["tickit is not there: make peers"]}
    assert drivers.wrong(bare) == ["nothing could be checked: see what is missing"]


@pytest.mark.parametrize("stream", [pytest.param("v1", marks=pytest.mark.bench), "v2"])
def test_both_streams_of_dectris_are_measured(stream: Any, tmp_path: Path) -> None:
    if parties.rival("dectris_loop") is None:
        pytest.skip("no dectris-compression: pip install 'probeloop[dectris-fast]'")
    found = drivers_dectris.speed(stream, tmp_path, 1, silent(""), 512)
    assert found["x_bare_reader"] > 0
    assert (found["lost"], found["equal"], found["errors"]) == (0, True, [])


def test_lost_and_other_frames_make_it_fail() -> None:
    case = {"frames": 9, "equal": True, "lost": 0}
    part = {"cases": {"a": case}, "speed": {"equal": True, "lost": 0}}
    assert drivers.wrong(part) == []
    assert drivers.wrong({**part, "cases": {"a": {**case, "lost": 2}}}) == ["a: 2 frames lost"]
    assert drivers.wrong({**part, "cases": {"a": {**case, "equal": False}}}) == ["a: frames differ"]
    assert drivers.wrong({**part, "speed": {"equal": False, "lost": 1}}) == [
        "speed: frames differ",
        "speed: 1 frames lost",
    ]


def test_an_unknown_part_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "drivers", "--what", "nanonis"]) == 2
    assert "no driver 'nanonis' in this bench. merlin, dectris_v1, dectris_v2 or load" in capsys.readouterr().err


def test_a_small_load_is_recorded_frame_for_frame(tmp_path: Path) -> None:
    found = drivers_load.measure("merlin", 500.0, 1.0, tmp_path, silent(""))
    assert (found["frames"], found["lost"], found["equal"]) == (512, 0, True)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "bit for bit" in drivers_load.table({"merlin": found, "missing": [], "ok": True})
    spoilt = pool().copy()
    spoilt[3, 128, 128] ^= 1
    wrong = drivers_load.held_against(Path(found["session"]), spoilt).wrong
    assert wrong == [pixel for pixel in range(512) if pixel % len(spoilt) == 3]


def test_the_free_ports_are_free_and_different() -> None:
    ports = peers.free_ports(8)
    assert len(set(ports)) == 8
    assert not set(ports) & peers.listening()


@pytest.mark.peers("libertem-live")
@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[7]], ids=lambda case: case.name)
def test_merlin_against_libertem(case: Any, data_dir: Path, tmp_path: Path) -> None:
    account = drivers_merlin.against_peer(case, tmp_path, scans=1)
    assert account.as_dict() == {"frames": case.shape[0] * case.shape[1], "equal": True, "lost": 0}


@pytest.mark.peers("libertem-live")
def test_dectris_against_libertem(data_dir: Path, tmp_path: Path) -> None:
    if peers_without_bitshuffle():
        pytest.skip("libertem-live has no bitshuffle: make peers")
    assert drivers_dectris.against_libertem(tmp_path).as_dict() == {"frames": 9, "equal": True, "lost": 0}


@pytest.mark.peers("tickit", "libertem-live")
@pytest.mark.parametrize("stream", ["v1", "v2"])
def test_dectris_against_tickit(stream: Any, tmp_path: Path) -> None:
    if peers_without_bitshuffle():
        pytest.skip("libertem-live has no bitshuffle: make peers")
    assert drivers_dectris.against_tickit(stream, tmp_path).as_dict() == {"frames": 6, "equal": True, "lost": 0}


def peers_without_bitshuffle() -> bool:
    return not list(peers.peers_folder().glob("libertem-live/lib/python*/site-packages/bitshuffle"))

"""Key files: their modes, what is refused, roles."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from probeloop.bus.relay import keys as keys_module
from probeloop.bus.relay.keys import KeyRing, keys_folder
from probeloop.bus.relay.sockets import Endpoint, new_pair
from probeloop.data.errors import BusError

POSIX = pytest.mark.skipif(os.name == "nt", reason="file modes")


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_comes_back_and_its_halves_belong_together(ring: KeyRing) -> None:
    import zmq

    handed = ring.new("anna", new_pair)
    pair = ring.secret("anna")
    assert zmq.curve_public(pair.secret.encode()).decode() == pair.public
    assert pair.secret not in handed.read_text()
    assert ring.own() == ["anna"]


@POSIX
def test_nobody_else_can_read_a_secret_at_any_moment(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.fdopen

    def seen(fd: int, *arguments: object, **options: object) -> object:
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))  # before the first byte
        return real(fd, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(keys_module.os, "fdopen", seen)
    before = os.umask(0)
    try:
        ring.new("anna", new_pair)
    finally:
        os.umask(before)
    assert modes == [0o600, 0o600]
    assert mode(ring.folder / "anna.secret") == 0o600
    assert mode(ring.folder) == 0o700


@POSIX
@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_refused_in_one_line(ring: KeyRing, open_to: int) -> None:
    ring.new("anna", new_pair)
    (ring.folder / "anna.secret").chmod(open_to)
    with pytest.raises(BusError, match=rf"others can read .*anna\.secret \(mode {open_to:04o}\)") as caught:
        ring.secret("anna")
    assert "\n" not in str(caught.value)
    assert "chmod 600" in caught.value.next_move
    (ring.folder / "anna.secret").chmod(0o600)
    assert ring.secret("anna").name == "anna"


@POSIX
def test_trust_that_others_can_change_is_no_trust(ring: KeyRing, tmp_path: Path) -> None:
    ring.trust(KeyRing(tmp_path / "b").new("anna", new_pair), "viewer")
    file = ring.folder / "trusted" / "anna.public"
    file.chmod(0o666)
    with pytest.raises(BusError, match="others can change"):
        ring.trusted()
    file.chmod(0o600)
    file.parent.chmod(0o777)
    with pytest.raises(BusError, match="others can change"):
        ring.trusted()


def test_a_key_is_not_made_twice_and_a_failed_one_leaves_nothing(ring: KeyRing) -> None:
    ring.new("anna", new_pair)
    first = ring.secret("anna")
    with pytest.raises(BusError, match="there is a key 'anna' already"):
        ring.new("anna", new_pair)
    assert ring.secret("anna") == first
    (ring.folder / "bert.public").mkdir()
    with pytest.raises(BusError, match="can't write"):
        ring.new("bert", new_pair)


@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/passwd", "..\\x", "con", "Anna", "a" * 33, "a\0b", "ä", "a b", "-a"]
)
def test_bad_names_are_refused(ring: KeyRing, name: str) -> None:
    for call in (ring.secret, ring.revoke, lambda given: ring.new(given, new_pair)):
        with pytest.raises(BusError, match="is no name of a key"):
            call(name)


def test_roles_belong_to_keys_and_can_change(ring: KeyRing, tmp_path: Path) -> None:
    other = KeyRing(tmp_path / "b")
    file = other.new("anna", new_pair)
    before = ring.stamp()
    ring.trust(file, "viewer")
    assert ring.stamp() != before
    assert [each.role for each in ring.trusted().values()] == ["viewer"]
    ring.trust(file, "operator")
    (found,) = ring.trusted().values()
    assert (found.name, found.role, found.public) == ("anna", "operator", other.secret("anna").public)
    with pytest.raises(BusError, match="no role 'boss'"):
        ring.trust(file, "boss")
    ring.revoke("anna")
    assert ring.trusted() == {}
    with pytest.raises(BusError, match="no key 'anna' is trusted"):
        ring.revoke("anna")


def test_one_name_one_key(ring: KeyRing, tmp_path: Path) -> None:
    a, b = KeyRing(tmp_path / "a"), KeyRing(tmp_path / "b")
    mine = a.new("anna", new_pair)
    ring.trust(mine, "viewer")
    with pytest.raises(BusError, match="another key is trusted as 'anna'"):
        ring.trust(b.new("anna", new_pair), "operator")
    renamed = tmp_path / "c.public"
    renamed.write_text(mine.read_text().replace("anna", "boss"))
    with pytest.raises(BusError, match="it is trusted as 'anna' already"):
        ring.trust(renamed, "operator")


def test_the_secret_half_is_never_trusted(ring: KeyRing, tmp_path: Path) -> None:
    other = KeyRing(tmp_path / "b")
    other.new("anna", new_pair)
    with pytest.raises(BusError, match="secret half"):
        ring.trust(other.folder / "anna.secret", "viewer")


@pytest.mark.parametrize(
    "text", ["", "not toml [", 'name = "anna"', 'name = "anna"\npublic = "short"', "x" * 5000, 'name = 1\npublic = 2',
             'name = "../x"\npublic = "' + "a" * 40 + '"'],
)  # fmt: skip
def test_a_file_that_is_no_key_is_refused(ring: KeyRing, tmp_path: Path, text: str) -> None:
    file = tmp_path / "given.public"
    file.write_text(text)
    with pytest.raises(BusError) as caught:
        ring.trust(file, "viewer")
    assert "\n" not in str(caught.value)
    assert not (ring.folder / "trusted").exists() or ring.trusted() == {}
    with pytest.raises(BusError, match="can't read"):
        ring.trust(tmp_path / "absent.public", "viewer")


def test_the_only_server_need_not_be_named(ring: KeyRing, tmp_path: Path) -> None:
    with pytest.raises(BusError, match="no server is trusted"):
        ring.server()
    for name in ("lab", "hall"):
        ring.trust(KeyRing(tmp_path / name).new(name, new_pair), "server")
        assert ring.server(name).name == name
    with pytest.raises(BusError, match="several servers"):
        ring.server()
    with pytest.raises(BusError, match="no server 'attic'"):
        ring.server("attic")


def test_the_folder_follows_the_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROBELOOP_CONFIG", str(tmp_path))
    assert keys_folder() == tmp_path / "keys"
    monkeypatch.delenv("PROBELOOP_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    if os.name == "posix":
        assert keys_folder() == tmp_path / "xdg" / "probeloop" / "keys"


@pytest.mark.parametrize(
    "text", ["tcp://127.0.0.1:5590", "tcp://localhost:1", "tcp://[::1]:5590", "tcp://127.9.9.9:*"]
)
def test_this_machine_alone_needs_no_key(text: str) -> None:
    Endpoint.parse(text).require_key(None, "")


@pytest.mark.parametrize(
    "text", ["tcp://0.0.0.0:5590", "tcp://*:5590", "tcp://eth0:5590", "tcp://192.168.1.20:5590", "tcp://[::]:1",
             "tcp://localhost.evil.example:1", "tcp://127.0.0.1.example:1"],
)  # fmt: skip
def test_everything_else_needs_one(text: str) -> None:
    with pytest.raises(BusError, match="not this machine alone, and no key is named"):
        Endpoint.parse(text).require_key(None, "name one")
    Endpoint.parse(text).require_key("host", "")


@pytest.mark.parametrize(
    "text", ["", "5590", "tcp://:1", "udp://a:1", "tcp://a", "tcp://a:0", "tcp://a:65536", "tcp://a b:1", "ipc:///x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BusError, match="is no address"):
        Endpoint.parse(text)

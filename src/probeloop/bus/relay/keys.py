"""Keys of hosts and people: who may read a rig from another host, and who may command it.

    FOLDER/keys/NAME.secret            this host's own pair, mode 0600 from its first byte; never leaves the host
    FOLDER/keys/NAME.public            to hand over: a name and 40 characters
    FOLDER/keys/trusted/NAME.public    what others handed over, with the role it has here

FOLDER is $PROBELOOP_CONFIG, else the configuration folder of this account. A name here is the only identity that a
remote message has: what the message itself says of its sender is never read.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ...data.errors import BusError

Role = Literal["viewer", "operator", "server"]
ROLES: tuple[Role, ...] = get_args(Role)
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
_Z85 = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MOST_BYTES = 4096  # of a key file
_OTHERS_READ, _OTHERS_WRITE = 0o077, 0o022


@dataclass(frozen=True)
class Pair:
    """A key pair of this host, as Z85."""

    name: str
    public: str
    secret: str


@dataclass(frozen=True)
class Trusted:
    """A public key that was handed over, and what it may do here."""

    name: str
    public: str
    role: Role


def keys_folder() -> Path:
    """Return where the keys are; PROBELOOP_CONFIG names another configuration folder."""
    folder = os.environ.get("PROBELOOP_CONFIG")
    if folder:
        return Path(folder) / "keys"
    import platformdirs

    return Path(platformdirs.user_config_dir("probeloop", appauthor=False)) / "keys"


class KeyRing:
    """The keys in one folder. Every method raises BusError, one line with the next move."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or keys_folder()

    def new(self, name: str, make: Callable[[], tuple[str, str]]) -> Path:
        """Make a pair called `name`; return its public file. make: returns (public, secret), `sockets.new_pair`."""
        _check_name(name)
        path = self.folder / f"{name}.secret"
        if path.exists():
            raise BusError(f"there is a key {name!r} already", f"choose another name, or remove {path}")
        public, secret = make()
        handed = self.folder / f"{name}.public"
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            _write(path, f'name = "{name}"\npublic = "{public}"\nsecret = "{secret}"\n')
            handed.unlink(missing_ok=True)
            _write(handed, f'name = "{name}"\npublic = "{public}"\n')
        except OSError as error:
            raise BusError(f"can't write {error.filename or path}: {error.strerror}", "check the folder") from None
        return handed

    def secret(self, name: str) -> Pair:
        """Return a pair of this host; refused when others can read it."""
        _check_name(name)
        path = self.folder / f"{name}.secret"
        if not path.exists():
            own = ", ".join(self.own()) or "none"
            raise BusError(f"no key {name!r} here (there are: {own})", f"make it: probeloop keys new {name}")
        values = _read(path, _OTHERS_READ, "read")
        return Pair(name, _key(values, "public", path), _key(values, "secret", path))

    def own(self) -> list[str]:
        """Return the names of this host's pairs."""
        return sorted(path.stem for path in self.folder.glob("*.secret"))

    def trust(self, file: Path, role: str) -> Trusted:
        """Let the key in a public file do what `role` may do; the same key again changes its role."""
        if role not in ROLES:
            raise BusError(f"no role {role!r}", f"one of {', '.join(ROLES)}")
        values = _read(file, 0, "")
        if "secret" in values:
            raise BusError(f"{file} is the secret half of a key", "hand over the .public file, never this one")
        name, public = str(values.get("name", "")), _key(values, "public", file)
        _check_name(name)
        for each in self.trusted().values():
            if (each.name == name) != (each.public == public):
                taken = (
                    f"another key is trusted as {name!r}" if each.name == name else f"it is trusted as {each.name!r}"
                )
                raise BusError(f"{taken} already", f"probeloop keys revoke {each.name}, then trust this one")
        made = Trusted(name, public, role)
        path = self.folder / "trusted" / f"{name}.public"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            partial.unlink(missing_ok=True)
            _write(partial, f'name = "{name}"\npublic = "{public}"\nrole = "{role}"\n')
            partial.replace(path)
        except OSError as error:
            raise BusError(f"can't write {path}: {error.strerror}", "check the folder") from None
        return made

    def revoke(self, name: str) -> None:
        """Trust a key no longer; a running relay notices within a second."""
        _check_name(name)
        path = self.folder / "trusted" / f"{name}.public"
        if not path.exists():
            known = ", ".join(sorted(path.stem for path in path.parent.glob("*.public"))) or "none"
            raise BusError(f"no key {name!r} is trusted here", f"trusted: {known}")
        path.unlink()

    def trusted(self) -> dict[str, Trusted]:
        """Return the trusted keys by public key; refused when others can change them."""
        folder, found = self.folder / "trusted", {}
        if folder.is_dir():
            _refuse(folder, folder.stat(), _OTHERS_WRITE, "change", "700")
        for path in sorted(folder.glob("*.public")):
            values = _read(path, _OTHERS_WRITE, "change")
            name, role = str(values.get("name", "")), values.get("role")
            if name != path.stem or role not in ROLES:
                raise BusError(f"{path} is no trusted key", f"probeloop keys revoke {path.stem}, and trust it again")
            public = _key(values, "public", path)
            found[public] = Trusted(name, public, role)
        return found

    def server(self, name: str | None = None) -> Trusted:
        """Return the trusted server `name`, or the only one there is."""
        servers = {each.name: each for each in self.trusted().values() if each.role == "server"}
        if name in servers:
            return servers[name]
        if name is None and len(servers) == 1:
            return next(iter(servers.values()))
        if servers:
            what = f"no server {name!r} is trusted here" if name else "several servers are trusted here"
            raise BusError(what, f"say which: --server {' | '.join(servers)}")
        raise BusError(
            "no server is trusted here", "get its .public file, then: probeloop keys trust FILE --as server"
        )

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes when a trusted key comes, goes or changes."""
        found = []
        for path in sorted((self.folder / "trusted").glob("*.public")):
            try:
                stat_ = path.stat()
            except OSError:
                continue
            found.append((path.name, stat_.st_mtime_ns, stat_.st_mode))
        return tuple(found)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise BusError(f"{name!r} is no name of a key", "small letters, digits, - and _, a letter first, 32 at most")


def _write(path: Path, text: str) -> None:
    """Write a new file that nobody else can read at any moment."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _read(path: Path, forbidden: int, verb: str) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            _refuse(path, os.fstat(file.fileno()), forbidden, verb, "600")
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BusError(f"can't read {path}: {error.strerror}", "check the file") from None
    try:
        if len(raw) > _MOST_BYTES:
            raise ValueError
        return tomllib.loads(raw.decode())
    except (ValueError, RecursionError):
        raise BusError(f"{path} is no key file", "a .public file of probeloop keys new") from None


def _refuse(path: Path, found: os.stat_result, forbidden: int, verb: str, mode: str) -> None:
    """Raise BusError where group or others may do what they must not, or another user owns the file."""
    if os.name == "nt" or not forbidden:
        return
    open_to = stat.S_IMODE(found.st_mode) & forbidden
    if open_to or found.st_uid not in (os.getuid(), 0):
        who = f"mode {stat.S_IMODE(found.st_mode):04o}" if open_to else f"owner {found.st_uid}"
        raise BusError(f"others can {verb} {path} ({who})", f"chmod {mode} {path}; was it seen? then make a new key")


def _key(values: dict[str, object], which: str, path: Path) -> str:
    value = values.get(which)
    if not isinstance(value, str) or not _Z85.fullmatch(value):
        raise BusError(f"{path} holds no {which} key", "a file of probeloop keys new")
    return value

"""The way to the bridge: its process, and connections to it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from probeloop.api import DriverError, MonotonicClock, is_alive

from .bridge import wire

SAFE_TIMEOUT = 0.35  # [s] for what must be answered at once
VALUES_TIMEOUT = 2.0  # [s] for a read-back
REST_TIMEOUT = 30.0  # [s] beyond an exposure
HELLO_TIMEOUT = 5.0  # [s]
END_TIMEOUT = 2.0  # [s] for a bridge that was told to end
HERE = Path(__file__).parent
_STARTER = os.getppid()  # the same for the instrument's process and its guard's, also when it has died since
NEXT_MOVE = 'make peers sets up Nion\'s libraries; or name their interpreter: python = "..."'


def interpreter(named: str) -> str:
    """Return the interpreter that has Nion's libraries; raises DriverError where there is none."""
    if named:
        found = Path(named).expanduser()
        if not (found.is_file() and os.access(found, os.X_OK)):
            raise DriverError(f"there is no interpreter {named}", NEXT_MOVE)
        return str(found)
    home = os.environ.get("PROBELOOP_PEERS", "")
    places = [Path(home)] if home else []
    places += [Path.cwd() / ".peers", HERE.parents[1] / ".peers"]
    for place in places:
        found = place / "nion" / "bin" / "python"
        if found.is_file():
            return str(found)
    raise DriverError(
        f"Nion's libraries are not installed: no nion/bin/python in {', '.join(map(str, dict.fromkeys(places)))}",
        NEXT_MOVE,
    )


class Line:
    """One connection to the bridge; one request at a time, from any thread. role: "driver" or "guard"."""

    def __init__(self, port: int, key: str, role: str, timeout: float = SAFE_TIMEOUT) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        except OSError as error:
            raise DriverError(f"no Nion bridge on port {port}: {error}", "restart the rig") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.ask("hello", timeout, key=key, role=role)
        except DriverError:
            self.close()
            raise

    def ask(
        self, do: str, timeout: float = SAFE_TIMEOUT, payload: memoryview | bytes = b"",
        into: memoryview | None = None, **fields: Any,
    ) -> tuple[dict[str, Any], memoryview]:  # fmt: skip
        """Return header and payload of the reply; timeout [s]. Raises DriverError, also when the line is dead."""
        number = next(self._numbers)
        if not self._lock.acquire(timeout=timeout):
            raise DriverError(f"the Nion bridge is busy since {timeout:g} s")
        try:
            self._socket.settimeout(timeout)
            wire.send(self._socket, {"id": number, "do": do, **fields}, payload)
            head, data = wire.receive(self._socket, into)
            if head.get("id") != number:
                raise ValueError(f"reply {head.get('id')} to request {number}")
        except TimeoutError as error:
            self._socket.close()
            raise DriverError(f"the Nion bridge does not answer {do!r} within {timeout:g} s") from error
        except (OSError, ValueError) as error:
            self._socket.close()
            raise DriverError(f"the connection to the Nion bridge broke in {do!r}: {error}") from error
        finally:
            self._lock.release()
        if "error" in head:
            raise DriverError(str(head["error"]), str(head.get("allowed", "")))
        return head, data

    @property
    def whole(self) -> bool:
        """False when it broke."""
        return self._socket.fileno() >= 0

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Bridge:
    """A bridge that somebody else started, such as Nion Swift: a line for work, one for values, one for safety."""

    def __init__(self, port: int, key: str) -> None:
        self.port, self._lines = port, list[Line]()
        try:
            for _ in range(3):
                self._lines.append(Line(port, key, "driver", HELLO_TIMEOUT))
            self.work, self.values, self.safety = self._lines
            self.about: dict[str, Any] = self.work.ask("describe", HELLO_TIMEOUT)[0]
        except BaseException:
            self._hang_up()
            raise

    @property
    def usable(self) -> bool:
        """True while it runs and all of its lines are whole."""
        return not self.ended and all(line.whole for line in self._lines)

    @property
    def ended(self) -> str:
        """How the microscope that it simulates ended, "" while it runs, or where it is a real one."""
        return ""

    def lost(self) -> str:
        """Return how it ended, when a line just broke; "" when it seems to be there."""
        return self.ended

    def kill(self) -> None:
        """End it by force; raises DriverError where that does not help."""
        raise DriverError("the Nion bridge does not answer", "blank the beam in Nion Swift")

    def close(self) -> None:
        """Blank, and hang up."""
        with contextlib.suppress(DriverError):
            self.safety.ask("safe")
        self._hang_up()

    def _hang_up(self) -> None:
        for line in self._lines:
            line.close()


class OwnBridge(Bridge):
    """A bridge of our own: its process, too."""

    _lines: list[Line] = []  # until there are some

    def __init__(self, python: str, options: Mapping[str, Any], timeout: float) -> None:
        """Start it; raises DriverError in one line when it does not answer within `timeout` [s]."""
        key = secrets.token_hex(16)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"
        try:
            self.process = subprocess.Popen(
                [python, "-m", "bridge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise DriverError(f"{python} can't be run: {error.strerror}", NEXT_MOVE) from error
        try:
            told = self._hear({**options, "key": key}, timeout)
            super().__init__(int(told["port"]), key)
        except BaseException:
            self._end(0.0)
            raise
        self._note = note_path()
        _write_note(self._note, {"port": self.port, "key": key, "pid": self.process.pid})

    def _hear(self, options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Tell it the options, and return what it says when it listens."""
        told, heard = self.process.stdin, self.process.stdout
        assert told is not None
        assert heard is not None
        with contextlib.suppress(OSError):  # it has ended already, and left a reason
            told.write(json.dumps(options).encode() + b"\n")
            told.flush()
        line = _line(heard, timeout)
        if line is None:
            raise DriverError(f"the Nion bridge does not start within {timeout:g} s", "raise start_timeout")
        try:
            about = json.loads(line)
        except ValueError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_TIMEOUT)
            words = self._last_words() or f"it said {line[:80]!r}"
            raise DriverError(f"the Nion bridge did not start: {words}", NEXT_MOVE) from None
        if "error" in about:
            raise DriverError(str(about["error"]), NEXT_MOVE)
        return dict(about)

    @property
    def ended(self) -> str:
        """How the process ended, "" while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        words = self._last_words()
        return f"the Nion bridge ended ({how})" + (f": {words}" if words else "")

    def lost(self) -> str:
        """Return how it ended, when a line just broke; "" when it seems to be there."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        return self.ended

    def _last_words(self) -> str:
        """Return the last line that it wrote on stderr."""
        if self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else ""

    def kill(self) -> None:
        """End it by force, and with it the microscope that it simulates."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it: in order, else by force."""
        with contextlib.suppress(DriverError):
            self.safety.ask("bye")
        self._end(END_TIMEOUT)
        if _read_note(self._note).get("pid") == self.process.pid:
            self._note.unlink(missing_ok=True)

    def _end(self, timeout: float) -> None:
        self._hang_up()
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.close()


class GuardPort:
    """The guard's own connection to the bridge; address: port and key, None = of the one that the instrument has."""

    def __init__(self, address: tuple[int, str] | None) -> None:
        note = _read_note(note_path())
        if address is None and not note:
            raise DriverError("there is no Nion bridge", "it starts with the instrument")
        port, key = address or (int(note["port"]), str(note["key"]))
        self._line = Line(port, key, "guard")

    def make_safe(self) -> None:
        """Blank, and end what runs."""
        self._line.ask("safe")

    def read_back(self) -> dict[str, Any]:
        """Say whether the beam is blanked."""
        head, _ = self._line.ask("get", names=["C_Blank", "BeamCurrent"])
        return {"blanked": bool(head["values"]["C_Blank"]), "beam_current": head["values"]["BeamCurrent"]}

    def close(self) -> None:
        """Hang up."""
        self._line.close()


def note_path() -> Path:
    """Return the file that tells the guard where the bridge is: one for whoever started both processes."""
    folder = Path(tempfile.gettempdir()) / f"probeloop-{os.getuid()}"
    return folder / f"nion-{_STARTER}.json"


def _write_note(path: Path, note: Mapping[str, Any]) -> None:
    """Write it for the guard, and remove those of killed instruments."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    for other in path.parent.glob("nion-*.json"):
        if not is_alive(int(_read_note(other).get("pid", os.getpid()))):
            other.unlink(missing_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(note, file)
    draft.replace(path)


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _line(pipe: IO[bytes], timeout: float) -> bytes | None:
    """Return what comes up to the end of the line or of the pipe; None when neither comes within `timeout` [s]."""
    clock, descriptor, made = MonotonicClock(), pipe.fileno(), b""
    until = clock.now_ns() + round(timeout * 1e9)
    while not made.endswith(b"\n"):
        left = (until - clock.now_ns()) / 1e9
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        read = os.read(descriptor, 65536)
        if not read:
            break
        made += read
    return made

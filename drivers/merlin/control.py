"""The control connection of a Merlin: one command, one reply, each reply checked.

A request is GET,NAME or SET,NAME,VALUE or CMD,NAME in a message; the reply repeats it, with the value of a GET and a
return code at the end. There are two ways to count the length of a reply, with and without the comma before it: both
are read.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading

from probeloop.api import Clock, DriverError

from .connection import SLICE, closed
from .headers import PREFIX, message

ABORT_WITHIN = 0.3  # [s]
_LONGEST_REPLY = 1 << 16
_PREFIX = re.compile(rb"MPX,(\d{10}),")
_REFUSED = {
    1: ("is busy and refuses {}", "end what it is doing in its own software, then try again"),
    2: ("does not know {}", "its software (version {}) is another one: see what it knows in its manual"),
    3: ("refuses {}: out of range", "see the range in the detector's own software"),
}
IDLE, BUSY, ARMED = 0, 1, 4


class Control:
    """Commands to a Merlin, from any thread, one after the other. Connects when needed, and again when it broke."""

    def __init__(self, host: str, port: int, timeout: float, clock: Clock) -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self.version = "unknown"
        self._clock = clock
        self._socket: socket.socket | None = None
        self._received = b""
        self._lock = threading.Lock()
        self._interrupt = threading.Event()

    def get(self, name: str) -> str:
        """Return a value as text."""
        return self.request("GET", name)

    def get_number(self, name: str) -> float | None:
        """Return a value as a number, None where the detector does not know it or tells no number."""
        try:
            return float(self.request("GET", name))
        except ValueError:
            return None
        except RefusedByDetectorError:
            return None

    def set(self, name: str, value: object, *, optional: bool = False) -> bool:
        """Set a value. optional: what not every version knows, which then returns False."""
        try:
            self.request("SET", name, str(value))
        except RefusedByDetectorError as error:
            if not (optional and error.code == 2):
                raise
            return False
        return True

    def command(self, name: str, unless: threading.Event | None = None) -> None:
        """Carry out a command; raises DriverError where `unless` is set by the time it would be sent."""
        self.request("CMD", name, unless=unless)

    def status(self) -> int | None:
        """Return DETECTORSTATUS: IDLE, BUSY, ARMED or another, None where it does not tell."""
        number = self.get_number("DETECTORSTATUS")
        return None if number is None else int(number)

    def request(self, verb: str, name: str, value: str = "", unless: threading.Event | None = None) -> str:
        """Send a request, return the value in its reply; raises DriverError in one line."""
        words = f"{verb},{name}" + (f",{value}" if value else "")
        with self._lock:
            if unless is not None and unless.is_set():
                raise DriverError(f"made safe before {words} was sent")
            fresh = self._socket is None
            try:
                return self._exchange(verb, name, words, self.timeout)
            except OSError as error:
                self._close()
                if fresh or verb == "CMD":
                    raise self._lost(words, error) from None
            try:  # it may be one that the other end closed long ago
                return self._exchange(verb, name, words, self.timeout)
            except OSError as error:
                self._close()
                raise self._lost(words, error) from None

    def abort(self) -> bool:
        """End what the detector does, within 0.3 s and whatever another thread waits for; False when that failed."""
        until = self._clock.now_ns() + round(ABORT_WITHIN * 1e9)
        self._interrupt.set()
        got = self._lock.acquire(timeout=ABORT_WITHIN / 2)
        self._interrupt.clear()
        if not got:
            return False
        try:
            left = (until - self._clock.now_ns()) / 1e9
            self._exchange("CMD", "STOPACQUISITION", "CMD,STOPACQUISITION", max(0.05, left))
        except (DriverError, OSError):
            return False
        finally:
            self._lock.release()
        return True

    @property
    def connected(self) -> bool:
        """True while the connection is open, as far as is known."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    # --- the lock is held ---------------------------------------------------------------------------------------

    def _exchange(self, verb: str, name: str, words: str, timeout: float) -> str:
        """Send and receive within `timeout`; raises OSError when the connection broke, DriverError else."""
        until = self._clock.now_ns() + round(timeout * 1e9)
        if self._socket is None:
            self._socket = self._connected(timeout)
            self._received = b""
        try:
            self._socket.sendall(message(words.encode("ascii", "replace")))
            while True:
                fields = self._reply(words, until).split(",")
                if len(fields) >= 3 and fields[0] == verb and fields[1] == name:
                    break  # else the reply to what was interrupted
        except TimeoutError:
            self._close()
            raise self._mute(words, timeout) from None
        code = int(fields[-1]) if fields[-1].strip().isdigit() else -1
        if code == 0:
            return ",".join(fields[2:-1])
        if code not in _REFUSED:
            raise DriverError(f"the Merlin answers {words} with {','.join(fields)[:80]!r}", "is it a Merlin?")
        said, move = _REFUSED[code]
        raise RefusedByDetectorError(code, f"the Merlin {said.format(words)}", move.format(self.version))

    def _connected(self, timeout: float) -> socket.socket:
        where = f"{self.host}:{self.port}"
        move = "start the Merlin's software, or set host and control_port"
        try:
            made = socket.create_connection((self.host, self.port), timeout)
        except ConnectionRefusedError:
            raise DriverError(f"no Merlin at {where}: nothing listens there", move) from None
        except TimeoutError:
            raise DriverError(f"no Merlin at {where}: the host does not answer within {timeout:g} s", move) from None
        except OSError as error:
            raise DriverError(f"no Merlin at {where}: {error.strerror or error}", move) from None
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(SLICE)
        return made

    def _reply(self, words: str, until: int) -> str:
        """Return the body of the next reply."""
        found = _PREFIX.match(self._at_least(PREFIX, until))
        length = int(found[1]) if found else 0
        if not 4 <= length <= _LONGEST_REPLY:
            received = self._received[:40]
            self._close()
            raise DriverError(
                f"{self.host}:{self.port} answers {words} with {received!r}", "is that the control port of a Merlin?"
            )
        end = PREFIX + length - 1
        body = self._at_least(end, until)[PREFIX:end]
        if body.endswith(b","):  # its length was counted without the comma before it
            end += 1
            body = self._at_least(end, until)[PREFIX:end]
        self._received = self._received[end:]
        return body.decode("ascii", "replace")

    def _at_least(self, count: int, until: int) -> bytes:
        """Receive until there are `count` bytes; raises OSError."""
        assert self._socket is not None
        while len(self._received) < count:
            if self._clock.now_ns() > until:
                raise TimeoutError
            if self._interrupt.is_set():
                raise DriverError("made safe while the Merlin was to answer")
            try:
                got = self._socket.recv(4096)
            except TimeoutError:
                continue
            if not got:
                raise ConnectionResetError("it closed the connection")
            self._received += got
        return self._received

    def _close(self) -> None:
        if self._socket is not None:
            closed(self._socket)
        self._socket, self._received = None, b""

    def _lost(self, words: str, error: OSError) -> DriverError:
        why = error.strerror or str(error)
        return DriverError(
            f"the Merlin at {self.host}:{self.port} is gone: {words}: {why}", "look at its software, then try again"
        )

    def _mute(self, words: str, timeout: float) -> DriverError:
        return DriverError(
            f"the Merlin at {self.host}:{self.port} does not answer {words} within {timeout:g} s",
            "look at its software, or set a longer timeout",
        )


class RefusedByDetectorError(DriverError):
    """The detector said no. code: 1 busy, 2 unknown, 3 out of range."""

    def __init__(self, code: int, message: str, next_move: str) -> None:
        super().__init__(message, next_move)
        self.code = code


def quietly(control: Control, name: str) -> None:
    """Carry out a command at the end of a run, where nobody can do anything about its failure."""
    with contextlib.suppress(DriverError):
        control.command(name)

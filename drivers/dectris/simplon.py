"""SIMPLON: the REST interface of a DECTRIS detector control unit. Every reply is looked at before it is believed.

http://DCU/MODULE/api/VERSION/{config,status,command}/NAME: a GET gives {"value": .., "allowed_values": ..}, a PUT
takes {"value": ..}, a command an empty body. Source: SIMPLON API reference, versions 1.6 and 1.8.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import math
import socket
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from probeloop.api import DriverError

DEFAULT_VERSION = "1.8.0"
LARGEST_REPLY = 1 << 20  # bytes
_INITIALIZE_S = 180.0
Kind = Literal["config", "status"]


class Value(msgspec.Struct, frozen=True):
    """What a GET gives. min, max, allowed_values: of what may be put there."""

    value: Any
    allowed_values: Any = None
    min: Any = None
    max: Any = None
    access_mode: str | None = None

    @property
    def allowed(self) -> str:
        """What may be put there, in words, "" = it does not say."""
        if isinstance(self.allowed_values, list) and self.allowed_values:
            return ", ".join(map(str, self.allowed_values))
        if self.min is not None and self.max is not None:
            return f"{self.min:g} to {self.max:g}" if _numbers(self.min, self.max) else f"{self.min} to {self.max}"
        if self.min is not None:
            return f"at least {self.min}"
        return f"at most {self.max}" if self.max is not None else ""

    @property
    def settable(self) -> bool:
        """True unless it says that it can only be read."""
        return self.access_mode in (None, "", "rw", "w")


class MissingError(DriverError):
    """The DCU has no such parameter, or can't say what it is."""


class Call:
    """A request that another thread may end: `trigger` answers only when its frames are taken."""

    def __init__(self) -> None:
        self._connection: http.client.HTTPConnection | None = None
        self.cancelled = False

    def holds(self, connection: http.client.HTTPConnection | None) -> None:
        """Remember the connection of the request that runs."""
        self._connection = connection

    def cancel(self) -> None:
        """End the wait for an answer."""
        self.cancelled = True
        connection = self._connection
        sock = getattr(connection, "sock", None)
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class Simplon:
    """A DCU's REST interface; any thread, each call has a connection of its own.

    timeout: for an answer [s]. Raises DriverError, one line that says what to do, at every call.
    """

    def __init__(self, host: str, port: int, timeout: float, version: str = "") -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self.stopped: Callable[[], bool] = lambda: False  # asked between parameters: a DCU has dozens to be set
        try:
            self._address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            raise DriverError(
                f"no host is called {host!r}: {error.strerror}", "set host to the DCU's address"
            ) from None
        self.version = version or self._named_version()

    def get(self, kind: Kind, name: str, module: str = "detector") -> Value:
        """Return a parameter; raises MissingError when the DCU does not have it."""
        self._go_on()
        path = f"{module}/api/{self.version}/{kind}/{name}"
        body = self._request("GET", path)
        try:
            return msgspec.json.decode(body, type=Value)
        except (msgspec.MsgspecError, RecursionError):
            raise DriverError(f"{self} answers GET {path} with no value", "is this a DCU's api_port?") from None

    def find(self, kind: Kind, name: str, module: str = "detector") -> Value | None:
        """Return a parameter, or None when the DCU does not have it."""
        try:
            return self.get(kind, name, module)
        except MissingError:
            return None

    def put(self, name: str, value: Any, module: str = "detector") -> None:
        """Set a parameter of the configuration."""
        self._go_on()
        path = f"{module}/api/{self.version}/config/{name}"
        try:
            self._request("PUT", path, msgspec.json.encode({"value": value}))
        except MissingError as error:
            allowed = ""
            with contextlib.suppress(DriverError):
                allowed = self.get("config", name, module).allowed
            raise DriverError(
                f"{self} does not take {name} = {value!r}: {error.message}", f"allowed: {allowed}" if allowed else ""
            ) from None

    def ensure(self, name: str, value: Any, module: str = "detector") -> Value:
        """Set a parameter if it is another one, and return it as the DCU has it now."""
        before = self.get("config", name, module)
        if same(before.value, value):
            return before
        if not before.settable:
            raise DriverError(f"{self} has {name} = {before.value!r}, which can't be set", f"wanted: {value!r}")
        self.put(name, value, module)
        return self.get("config", name, module)

    def command(self, name: str, *, value: Any = None, timeout: float | None = None, call: Call | None = None) -> int:
        """Give a command; return its sequence id, 0 = it has none."""
        path = f"detector/api/{self.version}/command/{name}"
        wait = timeout or (_INITIALIZE_S if name == "initialize" else self.timeout)
        body = b"" if value is None else msgspec.json.encode({"value": value})
        answer = self._request("PUT", path, body, wait, call)
        try:
            told = msgspec.json.decode(answer) if answer.strip() else {}
        except (msgspec.MsgspecError, RecursionError):
            raise DriverError(
                f"{self} answers the command {name} with no JSON", "is this a DCU's api_port?"
            ) from None
        number = told.get("sequence id", 0) if isinstance(told, dict) else 0
        return number if isinstance(number, int) else 0

    def _go_on(self) -> None:
        if self.stopped():
            raise DriverError("stopped before it was armed", "scan again")

    def _named_version(self) -> str:
        """Ask for the version of the interface; a DCU that does not say is taken for one of 1.8.0."""
        try:
            told = msgspec.json.decode(self._request("GET", "detector/api/version/"))
        except (MissingError, msgspec.MsgspecError, RecursionError):
            return DEFAULT_VERSION
        named = told.get("value") if isinstance(told, dict) else told
        return named if isinstance(named, str) and named.replace(".", "").isdigit() else DEFAULT_VERSION

    def _request(
        self, method: str, path: str, body: bytes = b"", timeout: float = 0.0, call: Call | None = None
    ) -> bytes:
        wait = timeout or self.timeout
        connection = http.client.HTTPConnection(self._address, self.port, timeout=wait)
        headers = {"Content-Type": "application/json", "Host": f"{self.host}:{self.port}", "Connection": "close"}
        try:
            if call is not None:
                call.holds(connection)
            connection.request(method, "/" + path, body or None, headers | ({} if body else _EMPTY.get(method, {})))
            response = connection.getresponse()
            answer = response.read(LARGEST_REPLY + 1)
            if response.length and len(answer) <= LARGEST_REPLY:
                raise http.client.IncompleteRead(answer, response.length)
        except (OSError, http.client.HTTPException) as error:
            raise DriverError(*self._why(error, wait)) from None
        finally:
            if call is not None:
                call.holds(None)
            connection.close()
        if len(answer) > LARGEST_REPLY:
            raise DriverError(f"{self} answers {method} {path} with more than {LARGEST_REPLY} bytes", "is it a DCU?")
        if response.status >= 400:
            raise MissingError(*self._no(method, path, response.status, answer))
        return answer

    def _why(self, error: Exception, wait: float) -> tuple[str, str]:
        """Say in words why there is no answer, and what to do."""
        if isinstance(error, TimeoutError):
            return f"{self} does not answer within {wait:g} s", "is it switched on, and busy with nothing else?"
        if isinstance(error, ConnectionRefusedError):
            return f"{self} refuses the connection", "is the DCU's SIMPLON service on, and is this its api_port?"
        if isinstance(error, ConnectionError | http.client.HTTPException):
            return f"{self} closed the connection without a proper answer", "is this a DCU's api_port? Try again"
        number = getattr(error, "errno", None)
        if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return f"{self} can't be reached: {getattr(error, 'strerror', error)}", "look at cable, network and host"
        return f"no connection to {self}: {error}", "look at host and api_port"

    def _no(self, method: str, path: str, status: int, answer: bytes) -> tuple[str, str]:
        words = " ".join(answer[:200].decode("utf-8", "replace").split())[:120]
        said = f" ({words})" if words and "<" not in words else ""
        hint = f"its interface is version {self.version}" if status == 404 and hasattr(self, "version") else ""
        return f"{self} says HTTP {status} to {method} {path}{said}", hint

    def __str__(self) -> str:
        return f"the DCU at {self.host}:{self.port}"


_EMPTY = {"PUT": {"Content-Length": "0"}}  # a body of JSON's null is refused by some


def same(has: Any, wanted: Any) -> bool:
    """True when a parameter already is what is wanted; times up to a billionth.

    >>> same(0.1, 0.1 + 1e-12), same(True, 1), same("exts", "exte")
    (True, False, False)
    """
    if isinstance(has, bool) or isinstance(wanted, bool):
        return has is wanted
    if _numbers(has, wanted):
        return math.isclose(has, wanted, rel_tol=1e-9)
    return bool(has == wanted)


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)

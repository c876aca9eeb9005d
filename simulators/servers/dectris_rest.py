"""The REST half of the simulated DECTRIS control unit: parses requests, and leaves the answers to the unit."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from .dectris_config import ConfigError, Configuration

_LONGEST = 1 << 20


class Unit(Protocol):
    """What the requests are for."""

    config: Configuration
    version: str

    def status(self, module: str, name: str) -> dict[str, Any]:
        """Return what a GET of a status shows; raises KeyError."""
        ...

    def command(self, name: str, value: Any) -> dict[str, Any]:
        """Carry out a command; raises KeyError for one that there is not, ConfigError for one that can't be now."""
        ...


class RestServer(ThreadingHTTPServer):
    """Listens on loopback. port: 0 = any."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, unit: Unit, port: int = 0) -> None:
        self.unit = unit
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="dectris rest", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    timeout = 5.0

    def do_GET(self) -> None:
        """Show a version, a parameter or a status."""
        unit, (module, kind, name) = self.server.unit, self._target()
        try:
            if kind == "version":
                self._answer(200, {"value": unit.version, "value_type": "string"})
            elif kind == "config":
                self._answer(200, unit.config.shown(module, name))
            elif kind == "status":
                self._answer(200, unit.status(module, name))
            else:
                self._answer(404, f"no {self.path}")
        except KeyError:
            self._answer(404, f"no {kind} {name}")

    def do_PUT(self) -> None:
        """Set a parameter, or carry out a command."""
        unit, (module, kind, name) = self.server.unit, self._target()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(min(length, _LONGEST))
        try:
            told = json.loads(body) if body else {}
            value = told.get("value") if isinstance(told, dict) else None
            if kind == "config":
                self._answer(200, unit.config.put(module, name, value))
            elif kind == "command" and (not body or isinstance(told, dict)):
                self._answer(200, unit.command(name, value))
            else:
                self._answer(404, f"no {self.path}")
        except KeyError:
            self._answer(404, f"no {kind} {name}")
        except (ConfigError, ValueError) as error:
            self._answer(400, str(error))

    def _target(self) -> tuple[str, str, str]:
        """Return module, kind and name of /MODULE/api/VERSION/KIND/NAME; "" for what is none."""
        parts = self.path.strip("/").split("/")
        if len(parts) == 3 and parts[1:] == ["api", "version"]:
            return parts[0], "version", ""
        if len(parts) < 5 or parts[1] != "api" or parts[2] != self.server.unit.version:
            return "", "", ""
        return parts[0], parts[3], "/".join(parts[4:])

    def _answer(self, status: int, told: Any) -> None:
        body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(told, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

"""Answers requests on loopback, each connection in a thread of its own; see `wire`."""

from __future__ import annotations

import contextlib
import hmac
import socket
import threading
from typing import Any, Protocol

import numpy as np

from . import wire

HELLO_WITHIN = 5.0  # [s]


class Refusal(Exception):
    """A request that can't be done: what, and what could be."""

    def __init__(self, what: str, allowed: str = "") -> None:
        super().__init__(what)
        self.allowed = allowed


class Column(Protocol):
    """A microscope that Nion's libraries drive, or simulate. Every method but `safe` and `get` may take its time."""

    def describe(self) -> dict[str, Any]:
        """Return what it is."""
        ...

    def get(self, names: list[str]) -> dict[str, float]:
        """Return controls by name; raises Refusal for one that is not there."""
        ...

    def set(self, values: dict[str, float]) -> None:
        """Set controls by name; raises Refusal."""
        ...

    def probe(self, x: float, y: float) -> None:
        """Put the probe to a place [m]."""
        ...

    def begin(self) -> int:
        """Return the number of a new run."""
        ...

    def expose(self, run: int, places: Any, exposure: float, binning: int, of: str) -> tuple[Any, list[int]]:
        """Return frames (count, h, w) float32 and their starts [ns]; fewer than places when `safe` came.

        of: "sample", or for the time being "dark", with the beam blanked, or "vacuum", with the sample moved away.
        """
        ...

    def scan(
        self, run: int, channels: list[str], shape: tuple[int, int], size: tuple[float, float],
        centre: tuple[float, float], dwell: float,
    ) -> Any:  # fmt: skip
        """Return images (channels, ny, nx) float32; size, centre: (x, y) [m]; none of them when `safe` came."""
        ...

    def spectrum(self, run: int, x: float, y: float, exposure: float, n: int) -> tuple[Any, int]:
        """Return counts (channels,) float32 and the start [ns]; none of them when `safe` came."""
        ...

    def safe(self) -> None:
        """Blank, and end what runs; at once, from any thread."""
        ...


class Server:
    """Serves a column. key: what a visitor must say. port: 0 = a free one. stays: no visitor can end it."""

    def __init__(self, column: Column, key: str, port: int = 0, *, stays: bool = False) -> None:
        self._column, self._key, self._stays = column, key, stays
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self.ended = threading.Event()
        self._visitors: set[socket.socket] = set()
        threading.Thread(target=self._welcome, name="welcome", daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody."""
        self.ended.set()
        for each in (self._socket, *self._visitors):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _welcome(self) -> None:
        while not self.ended.is_set():
            try:
                visitor, _ = self._socket.accept()
            except OSError:
                return
            visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._visitors.add(visitor)
            threading.Thread(target=self._hear, args=(visitor,), name="visitor", daemon=True).start()

    def _hear(self, visitor: socket.socket) -> None:
        drives = False
        try:
            visitor.settimeout(HELLO_WITHIN)
            head, _ = wire.receive(visitor, most=0)
            if head.get("do") != "hello" or not hmac.compare_digest(str(head.get("key")), self._key):
                wire.send(visitor, {"id": head.get("id"), "error": "the bridge does not know you"})
                return
            wire.send(visitor, {"id": head.get("id")})
            visitor.settimeout(None)
            drives = head.get("role") == "driver"
            while not self.ended.is_set():
                head, payload = wire.receive(visitor)
                reply, data = self._answer(head, payload)
                wire.send(visitor, {"id": head.get("id"), **reply}, data)
                if head.get("do") == "bye" and not self._stays:
                    self.ended.set()
        except (OSError, ValueError):
            return  # it is gone, or speaks another language
        finally:
            self._visitors.discard(visitor)
            visitor.close()
            if drives:  # who drives is gone
                with contextlib.suppress(Exception):
                    self._column.safe()

    def _answer(self, head: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], memoryview | bytes]:
        try:
            return self._do(head, payload)
        except Refusal as refusal:
            return {"error": str(refusal), "allowed": refusal.allowed}, b""
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"{head.get('do')}: {type(error).__name__}: {error}"[:500]}, b""
        except Exception as error:  # Nion's libraries may raise anything; the next request must be heard
            return {"error": f"Nion's library failed in {head.get('do')}: {type(error).__name__}: {error}"[:500]}, b""

    def _do(self, head: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], memoryview | bytes]:
        column, do = self._column, head.get("do")
        if do == "safe":
            column.safe()
        elif do == "get":
            return {"values": column.get(list(head["names"]))}, b""
        elif do == "expose":
            places = np.frombuffer(payload, "<f8").reshape(-1, 2)
            frames, times = column.expose(
                int(head["run"]), places, float(head["exposure"]), int(head["binning"]), str(head["of"])
            )
            return {"count": len(frames), "times": times, "shape": frames.shape[1:]}, _bytes(frames)
        elif do == "scan":
            (ny, nx), width, height = head["shape"], float(head["width"]), float(head["height"])
            centre = float(head["centre_x"]), float(head["centre_y"])
            images = column.scan(
                int(head["run"]), list(head["channels"]), (int(ny), int(nx)), (width, height), centre,
                float(head["dwell"]),
            )  # fmt: skip
            return {"count": len(images)}, _bytes(images)
        elif do == "spectrum":
            counts, time_ns = column.spectrum(
                int(head["run"]), float(head["x"]), float(head["y"]), float(head["exposure"]), int(head["n"])
            )
            return {"count": len(counts), "time": time_ns}, _bytes(counts)
        elif do == "set":
            column.set({str(name): float(value) for name, value in head["values"].items()})
        elif do == "probe":
            column.probe(float(head["x"]), float(head["y"]))
        elif do == "begin":
            return {"run": column.begin()}, b""
        elif do == "describe":
            return column.describe(), b""
        elif do == "bye":
            column.safe()
        else:
            raise Refusal(f"the bridge knows no {do!r}")
        return {}, b""


def _bytes(array: Any) -> memoryview | bytes:
    made = np.ascontiguousarray(array, "<f4")
    return made.data.cast("B") if made.size else b""

"""A DECTRIS control unit that is not there: SIMPLON over REST, stream v1 and stream v2, with frames of our physics.

    python -m probeloop.simulators.servers dectris --source stem --scan 16 --rate 1000 --drop 5 --duplicate 9

With external triggers the scan unit is built in: it begins when the unit is armed. One JSON line says where it
listens. What goes wrong on purpose is known exactly, so that a reader's counts can be held against it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from probeloop.api import MonotonicClock

from .dectris_config import ConfigError, Configuration
from .dectris_rest import RestServer
from .dectris_sending import CHANNELS, Faults, Grouping, Sending
from .dectris_source import poisson_frames, stem_frames
from .dectris_wire import CORRUPTIONS, Packed, V2Image, pack

_SLICE_MS = 50


class DectrisServer:
    """Serves a pool of frames, again and again, until closed; a context manager.

    frames: (P, height, width) counts; frame n of a series is frames[n % P]. masked: (height, width) bool, pixels that
    read as the largest value. rate: frames a second, 0 = as fast as they are taken, None = as the frame time says.
    grouping: of the parts of stream v1: image = a message each header, frame and end; single = a message each part;
    glued = the header is put before the first frame. ports: 0 = any. channels: of stream v2, all with the same
    counts.
    """

    def __init__(
        self,
        frames: NDArray[Any],
        *,
        bits: int = 16,
        masked: NDArray[np.bool_] | None = None,
        rate: float | None = 0,
        grouping: Grouping = "image",
        faults: Faults | None = None,
        api_port: int = 0,
        stream_port: int = 0,
        stream2_port: int = 0,
        version: str = "1.8.0",
        channels: tuple[str, ...] = CHANNELS,
    ) -> None:
        import zmq

        self.pool, self.masked, self.rate, self.grouping = frames, masked, rate, grouping
        self.faults = faults or Faults()
        self.channels = channels
        self.version, self.state = version, "na"
        self.series = self.sent = 0
        self.config = Configuration(frames.shape[1:], bits)
        self._clock = MonotonicClock()
        self._packed: dict[tuple[int, str, bool], list[Packed]] = {}
        self._images: dict[tuple[int, str], list[V2Image]] = {}
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.PUSH) for _ in range(2)]
        self.stream_ports = tuple(
            self._bind(socket, port) for socket, port in zip(self._sockets, (stream_port, stream2_port), strict=True)
        )
        self._rest = RestServer(self, api_port)
        self.api_port = self._rest.port
        self._cancelled = threading.Event()
        self._asked = threading.Condition()
        self._triggers = 0
        self._taken = threading.Event()
        self._begun = threading.Event()
        self._sender: threading.Thread | None = None

    def __enter__(self) -> DectrisServer:
        self._rest.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        self._end()
        self._rest.close()
        self._context.destroy(linger=0)

    def expected(self, number: int) -> NDArray[Any]:
        """Return frame `number` of a series as it is packed, (height, width)."""
        frame: NDArray[Any] = self._pixels(int(self.config.get("bit_depth_image")))[number % len(self.pool)]
        return frame

    def status(self, module: str, name: str) -> dict[str, Any]:
        """Return what a GET of a status shows."""
        known: dict[tuple[str, str], Any] = {
            ("detector", "state"): self.state,
            ("detector", "temperature"): 24.5,
            ("detector", "humidity"): 12.0,
            ("stream", "dropped"): 0,
        }
        return {"value": known[module, name], "access_mode": "r"}

    def command(self, name: str, value: Any) -> dict[str, Any]:
        """Carry out a command, as a DCU does: `trigger` answers when its frames are taken."""
        match name:
            case "initialize":
                self._end()
                self.state = "idle"
            case "arm":
                self._arm()
            case "trigger":
                self._trigger()
            case "disarm" | "cancel" | "abort":
                self._end()
            case _:
                raise KeyError(name)
        return {"sequence id": self.series}

    def _arm(self) -> None:
        if self.state != "idle":
            raise ConfigError(f"arm: the state is {self.state}")
        if self.config.get("mode", "stream") != "enabled":
            raise ConfigError("arm: the stream is disabled")
        self._end()
        self.series += 1
        self.state = "ready"
        self._cancelled, self._begun, self._taken = threading.Event(), threading.Event(), threading.Event()
        self._triggers = 0
        self._sender = threading.Thread(
            target=self._serve, args=(self._cancelled,), name="dectris sends", daemon=True
        )
        self._sender.start()
        self._begun.wait(5.0)

    def _trigger(self) -> None:
        mode = self.config.get("trigger_mode")
        if self.state not in ("ready", "acquire") or mode not in ("ints", "inte"):
            raise ConfigError(f"trigger: the state is {self.state}, the trigger mode {mode}")
        taken, cancelled = self._taken, self._cancelled
        with self._asked:
            taken.clear()
            self._triggers += 1
            self._asked.notify_all()
        while not taken.wait(0.02) and not cancelled.is_set():
            pass

    def _end(self) -> None:
        """End the series that runs, with its last message."""
        sender, self._sender = self._sender, None
        self._cancelled.set()
        with self._asked:
            self._asked.notify_all()
        if sender is not None:
            sender.join(5.0)
        if self.state != "na":
            self.state = "idle"

    def _serve(self, cancelled: threading.Event) -> None:
        """Send one series; it ends when the unit is told to disarm, unless a fault ends it before."""
        config, faults = self.config, self.faults
        sending = Sending(self, cancelled)
        images, triggers = int(config.get("nimages")), int(config.get("ntrigger"))
        by_software = config.get("trigger_mode") in ("ints", "inte")
        batches = [images] * triggers if by_software else [images * triggers]
        sending.header()
        self._begun.set()
        first, ended = 0, False
        for batch in batches:
            if by_software:
                with self._asked:
                    self._asked.wait_for(lambda: self._triggers > 0 or cancelled.is_set())
                    self._triggers -= 1
            if cancelled.is_set():
                break
            self.state = "acquire"
            last = first + batch == images * triggers
            ended = sending.frames(first, batch + faults.extra * last)
            first += batch
            self._taken.set()
            if ended:
                break
        if not ended or faults.end_at is None:
            cancelled.wait()
        if faults.silent_at is None:
            sending.end()

    def _bind(self, socket: Any, port: int) -> int:
        import zmq

        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.SNDTIMEO, _SLICE_MS)
        socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def socket(self, second: bool) -> Any:
        """Return the socket of stream v2, else of stream v1."""
        return self._sockets[second]

    def packed(self, bits: int, algorithm: str, bare: bool) -> list[Packed]:
        """Return the pool, packed once."""
        key = (bits, algorithm, bare)
        if key not in self._packed:
            self._packed[key] = [pack(frame, algorithm, bare=bare) for frame in self._pixels(bits)]
        return self._packed[key]

    def images(self, bits: int, algorithm: str) -> list[V2Image]:
        """Return the pool as messages of stream v2, made once."""
        key = (bits, algorithm)
        if key not in self._images:
            self._images[key] = [V2Image(each, self.channels) for each in self.packed(bits, algorithm, False)]
        return self._images[key]

    def _pixels(self, bits: int) -> NDArray[Any]:
        """Return the pool with pixels of so many bits, whose largest value means that there is no count."""
        largest = 2**bits - 1
        pixels: NDArray[Any] = np.minimum(self.pool.astype(np.uint32), largest - 1).astype(f"<u{bits // 8}")
        if self.masked is not None:
            pixels[:, self.masked] = largest
        return pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it."""
    options = _parser().parse_args(argv)
    height, width = options.pixels
    if options.source == "stem":
        frames = stem_frames(options.scan, height, options.seed)
    else:
        frames = poisson_frames(options.pool, (height, width), options.mean, options.seed)
    faults = Faults(
        drop=frozenset(options.drop), duplicate=frozenset(options.duplicate), garbage=frozenset(options.garbage),
        corrupt=dict(options.corrupt), stall=dict(options.stall), stale=options.stale, extra=options.extra,
        end_at=options.end_at, silent_at=options.silent_at,
    )  # fmt: skip
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    server = DectrisServer(
        frames, bits=options.bits, rate=None if options.rate < 0 else options.rate, grouping=options.grouping,
        faults=faults, api_port=options.port, stream_port=options.stream_port, stream2_port=options.stream2_port,
    )  # fmt: skip
    with server:
        ports = {"api_port": server.api_port, "v1": server.stream_ports[0], "v2": server.stream_ports[1]}
        sys.stdout.write(json.dumps(ports) + "\n")
        sys.stdout.flush()
        over.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="probeloop.simulators.servers dectris", description="a simulated DECTRIS control unit on loopback",
        epilog="example: dectris --port 8010 --stream2-port 31001 --rate 1000 --drop 5 --corrupt 7=size",
    )  # fmt: skip
    add = parser.add_argument
    add("--port", type=int, default=0, help="of the REST interface, 0 = any")
    add("--stream-port", type=int, default=0, help="of stream v1, 0 = any")
    add("--stream2-port", type=int, default=0, help="of stream v2, 0 = any")
    add("--source", choices=("pool", "stem"), default="pool", help="Poisson counts, or the simulated 4D-STEM")
    add("--scan", type=int, default=32, help="places along a side of the simulated scan")
    add("--pool", type=int, default=64, help="different Poisson frames")
    add("--pixels", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    add("--mean", type=float, default=0.15, help="counts a pixel, of Poisson frames")
    add("--bits", type=int, choices=(8, 16, 32), default=16)
    add("--rate", type=float, default=-1.0, help="frames/s; 0 = as fast as they are taken, -1 = the frame time")
    add("--grouping", choices=get_args(Grouping), default="image", help="of the parts of stream v1")
    add("--seed", type=int, default=1)
    for name, of in (("drop", int), ("duplicate", int), ("garbage", int), ("corrupt", str), ("stall", float)):
        kind = int if of is int else _pair(of)
        what = {"corrupt": f"frame=how, of {', '.join(CORRUPTIONS)}", "stall": "frame=seconds"}.get(name, "frames")
        add(f"--{name}", type=kind, nargs="*", default=[], help=what)
    add("--stale", type=int, default=0, help="frames of an earlier series, after the header")
    add("--extra", type=int, default=0, help="frames beyond those asked for")
    add("--end-at", type=int, default=None, help="frame before which the series ends")
    add("--silent-at", type=int, default=None, help="frame from which on nothing comes")
    return parser


def _pair(kind: type) -> Any:
    def read(text: str) -> tuple[int, Any]:
        number, _, value = text.partition("=")
        if kind is str and value not in CORRUPTIONS:
            raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(CORRUPTIONS)}")
        return int(number), kind(value)

    return read

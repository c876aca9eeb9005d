"""A complete small driver, to copy: a camera that sends raw frames over TCP. docs/drivers.md goes through it.

The camera takes one line of JSON a connection and answers with one. {"do": "state"} says how it is, {"do": "set",
"exposure_s": 0.001} sets it, {"do": "stop"} ends its run. {"do": "run", "frames": 45} begins one: after the answer
come the frames, each behind its length and its number in the run (two little-endian uint32); length 0 = the end.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Generator
from typing import Annotated, Any, BinaryIO, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop import api
from probeloop.api import Acquisition, DriverError, FrameBuffer, FrameFlag, Scan, Settings, quantity

SOON = 0.2  # [s] for each step of make_safe: connect, ask; then it goes without
MOST_BYTES = 1 << 26  # of a frame: whatever the camera announces, no more is ever reserved
HEAD = struct.Struct("<II")
Width = Annotated[float, quantity("m", gt=0, le=1e-2)]


class TemplateSettings(Settings):
    """Where the camera is, and what it can't know: field_of_view, width and height of what the scan unit scans.

    timeout: for an answer, and for the rest of a frame that has begun. pixel_angle: absent = uncalibrated.
    """

    field_of_view: tuple[Width, Width]  # no default: only the operator knows it
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 5055
    timeout: Annotated[float, quantity("s", ge=0.1, le=60)] = 2.0
    pixel_angle: Annotated[float, quantity("mrad", gt=0, le=100)] | None = None


class Template:
    """A camera that sends length-prefixed raw frames over TCP."""

    Parameters: ClassVar[type[TemplateSettings]] = TemplateSettings

    def __init__(self, parameters: TemplateSettings) -> None:
        """Meet the hardware: a rig whose camera is off must say so before it starts. Raises DriverError."""
        self.parameters = parameters
        self.clock: api.Clock = api.MonotonicClock()
        self.name = f"the camera at {parameters.host}:{parameters.port}"
        self._lock = threading.Lock()  # held to swap the next two, never while something is waited for
        self._cancelled = threading.Event()  # make_safe sets that of the run that is on
        self._connection: socket.socket | None = None  # of the run that is on
        state = self._ask({"do": "state"})
        try:
            self._shape = int(state["height"]), int(state["width"])
            self._dtype = np.dtype(str(state["dtype"]))
            self._bytes = self._shape[0] * self._shape[1] * self._dtype.itemsize
            if self._dtype.kind not in "iuf" or min(self._shape) < 1 or self._bytes > MOST_BYTES:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise DriverError(f"{self.name} is another one: {state!r:.80}", "look at host and port") from None

    @staticmethod
    def guard_connection(parameters: TemplateSettings) -> Template:
        """Return a second way to the hardware, for the guard's process; each of its calls is back within 0.5 s."""
        return Template(msgspec.structs.replace(parameters, timeout=SOON))  # type: ignore[type-var]

    def describe(self) -> api.InstrumentInfo:
        """Say what it is. Each command needs its verb (VERBS in data/driver.py); what is not listed is refused.

        It drives no output, so safe_state stays empty; safe_readback is how the gate proves that make_safe worked.
        """
        x, y = (width / 2 for width in self.parameters.field_of_view)
        return api.InstrumentInfo(
            name="template",
            modality="stem",
            origin="experiment",
            commands=("Scan", "SetDetector", "Stop", "Pause", "Resume", "Settle", "Read", "Annotate"),
            limits=api.Limits(region=((-x, -y), (x, y)), dwell_time=(1e-5, 10.0)),
            topics={"camera": self._bytes},  # its largest frame: shared memory is reserved for it
            safe_readback={"acquiring": False},
            camera_pixels=self._shape[0] * self._shape[1],
        )

    def read_back(self) -> dict[str, Any]:
        """Return what the camera itself says, never what was asked of it: exposure_s [s], acquiring, width ..."""
        return {
            name: value for name, value in self._ask({"do": "state"}).items() if isinstance(value, int | float | str)
        }

    def make_safe(self) -> None:
        """End the run within 0.5 s: from any thread, during any other call, again and again, camera gone or not."""
        with self._lock:
            self._cancelled.set()
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)  # wakes who reads it, who then closes it
        with contextlib.suppress(DriverError):
            self._ask({"do": "stop"}, SOON)

    def close(self) -> None:
        """Let go of the hardware: no thread and no connection is left."""
        self.make_safe()
        self._hold(None)

    def _hold(self, connection: socket.socket | None) -> None:
        """Keep the connection of the run that is on, and close the one before, which a run never taken up leaves."""
        with self._lock:
            before, self._connection = self._connection, connection
        if before is not None:
            before.close()

    def set_detector(self, command: api.SetDetector) -> int:
        """Set what is not None, refuse what it lacks; return when it is settled, on `self.clock` [ns]."""
        others = command.threshold, command.bit_depth, command.roi, command.binning
        if command.inserted is False or any(each is not None for each in others):
            raise DriverError(f"{self.name} has an exposure, and nothing else to set", "SetDetector(exposure=...)")
        if command.exposure is not None:
            self._ask({"do": "set", "exposure_s": command.exposure})
        return self.clock.now_ns()

    def scan(self, command: Scan) -> Acquisition:
        """Arm the hardware and say what will come; the generator reads it later, in another thread."""
        cancelled = threading.Event()
        with self._lock:
            self._cancelled = cancelled
        if command.order != "raster":
            raise DriverError(f"the scan unit knows no order {command.order}", "order raster")
        self._ask({"do": "set", "exposure_s": command.dwell_time})
        connection = self._connect(self.parameters.timeout)  # one a run: nothing of an older run can be in it
        self._hold(connection)
        if cancelled.is_set():
            raise DriverError("made safe while it was armed", "arm again")
        stream, (ny, nx) = connection.makefile("rb"), command.shape
        self._request(connection, stream, {"do": "run", "frames": ny * nx * command.frames})
        mrad = self.parameters.pixel_angle
        units, angle = ("px", None) if mrad is None else ("rad", mrad * 1e-3)
        where, period = command.region, round(command.dwell_time * 1e9)
        nav = (("y", ny, where.height, where.centre_y), ("x", nx, where.width, where.centre_x))
        spec = api.StreamSpec(
            name="camera", kind="frames", dtype=self._dtype.str, units="counts", exposure_ns=period,
            nav=tuple(api.Axis(n, k, w / k, at - w / k * (k - 1) / 2, "m") for n, k, w, at in nav),
            sig=tuple(api.Axis(n, k, angle, 0.0, units) for n, k in zip(("ky", "kx"), self._shape, strict=True)),
            sync="frame",  # the camera's own pace; "pixel" where the scan unit triggers each frame
            stamp="arrival",  # of time_ns; "hardware" where the camera's clock can be put on ours
        )  # fmt: skip
        frames = self._frames(connection, stream, cancelled, command)
        return Acquisition("camera", spec, frames, frame_period_ns=period, settings={"name": self.name})

    def _frames(
        self, connection: socket.socket, stream: BinaryIO, cancelled: threading.Event, command: Scan
    ) -> Generator[int, FrameBuffer, None]:
        """Fill the buffer that is sent in, yield how many rows; however it ends, the camera is left idle."""
        places, newest, wrong = command.region.positions(command.shape), -1, ""
        pixels, asked = len(places), len(places) * command.frames
        try:
            buffer = yield 0  # the first next()
            while newest < asked - 1 and not wrong:
                n = 0
                while n < buffer.capacity and newest < asked - 1 and not wrong:
                    number, wrong = self._read_frame(connection, stream, buffer.data[n])
                    if wrong:
                        break
                    fresh = newest < number < asked  # else it came before: it has no pixel, and is told as a repeat
                    pixel = number % pixels if fresh else -1  # by the camera's number, never by order of arrival
                    buffer.time_ns[n], buffer.scan_index[n] = self.clock.now_ns(), pixel
                    buffer.flags[n] = 0 if fresh else int(FrameFlag.PATTERN_REPEAT)
                    buffer.position[n] = places[pixel] if fresh else np.nan
                    newest, n = max(newest, number if fresh else -1), n + 1
                if n:
                    buffer = yield n  # what came is kept, whatever is wrong with the next
            if wrong not in ("", "end") and not cancelled.is_set():
                raise DriverError(f"{self.name}: {wrong} after frame {newest} of {asked}", "look at its log")
        finally:
            stream.close()
            self._hold(None)
            with contextlib.suppress(DriverError):
                self._ask({"do": "stop"}, SOON)

    def _read_frame(self, connection: socket.socket, stream: BinaryIO, into: NDArray[Any]) -> tuple[int, str]:
        """Read one frame into its row; return its number and what is wrong: "end" = the run's, "" = nothing."""
        try:
            connection.settimeout(None)  # for the next trigger, however late: make_safe ends this wait
            head = stream.read(HEAD.size)
            length, number = HEAD.unpack(head) if len(head) == HEAD.size else (-1, -1)
            if length != self._bytes:
                wrong = f"a frame of {length} bytes, not {self._bytes}," if length > 0 else "it closed the connection"
                return number, wrong if length else "end"
            connection.settimeout(self.parameters.timeout)
            whole = stream.readinto(into.reshape(-1).view(np.uint8)) == length  # type: ignore[attr-defined]
            return number, "" if whole else "it closed the connection within a frame"
        except OSError as error:
            return -1, f"no more comes ({error})"

    def _connect(self, timeout: float) -> socket.socket:
        try:
            return socket.create_connection((self.parameters.host, self.parameters.port), timeout)
        except OSError as error:
            raise DriverError(f"{self.name} does not answer ({error})", "is it on? see host and port") from error

    def _ask(self, request: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
        with self._connect(timeout or self.parameters.timeout) as connection, connection.makefile("rb") as stream:
            return self._request(connection, stream, request)

    def _request(self, connection: socket.socket, stream: BinaryIO, request: dict[str, Any]) -> dict[str, Any]:
        """Send one line, read one; raises DriverError unless it says ok."""
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            reply = json.loads(stream.readline(4096))
        except (OSError, ValueError, RecursionError) as error:
            raise DriverError(f"{self.name} gives no answer to {request['do']} ({error})", "restart it") from error
        if not isinstance(reply, dict) or reply.pop("ok", False) is not True:
            raise DriverError(f"{self.name} refuses {request['do']}: {reply!s:.200}", "see its manual")
        return reply

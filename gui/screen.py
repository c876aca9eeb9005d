"""What every window needs around it: a screen, found out before Qt ends the process over it, and an end in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import FrameType

from probeloop.api import ProbeloopError


def require_screen() -> None:
    """Raise ProbeloopError, one line with the next move, where there is no screen or no window library."""
    platform = os.environ.get("QT_QPA_PLATFORM", "")
    if sys.platform == "linux" and not platform.startswith(("offscreen", "minimal", "vnc")):
        display, wayland = os.environ.get("DISPLAY"), os.environ.get("WAYLAND_DISPLAY")
        if not display and not wayland:
            raise ProbeloopError("there is no screen here", "set DISPLAY, or run without a window: --headless")
        if not wayland and not _answers(display or ""):
            raise ProbeloopError(f"the screen {display!r} does not answer", "check DISPLAY, or add --headless")
    try:
        import PySide6.QtWidgets  # noqa: F401

        if find_spec("pyqtgraph") is None:  # not imported: the stop window does without it
            raise ImportError("no module named 'pyqtgraph'")
    except ImportError as error:
        missing = f"the window's libraries can't be loaded ({error})"
        raise ProbeloopError(
            missing, 'pip install "probeloop[gui]", and the system libraries of the README'
        ) from None


def _answers(display: str) -> bool:
    """Whether an X server listens: its socket for a local screen; a remote one is left to Qt."""
    import socket

    host, _, number = display.rpartition(":")
    if host not in ("", "unix"):
        return True
    path = f"/tmp/.X11-unix/X{number.split('.')[0]}"
    for address in (path, "\0" + path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(address)
                return True
            except OSError:
                continue
    return False


@contextlib.contextmanager
def ending_on_signals(ended: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT close the window in order; Qt alone would not look at them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_window(main: Callable[[str], int], module: str, arguments: list[str]) -> int:
    """Open a window from a command line; an error is one line and exit code 2."""
    if len(arguments) != 1:
        sys.stderr.write(f"probeloop: name the rig: python -m {module} RIG\n")
        return 2
    try:
        return main(arguments[0])
    except ProbeloopError as error:
        sys.stderr.write(f"probeloop: {error}\n")
        return 2

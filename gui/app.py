"""Starts the window in this process: `python -m probeloop.gui.app RIG`, `probeloop gui`, or the supervisor."""

from __future__ import annotations

import sys
import threading

from .models.connection import Link, connect
from .models.station import Station
from .screen import ending_on_signals, require_screen, run_window

_LOOK_MS = 100


def main(rig_id: str, stop: threading.Event | None = None, link: Link | None = None) -> int:
    """Show the window of a rig until it is closed or `stop` is set; return the exit code.

    Raises ProbeloopError, one line, where there is no screen or the rig can't be joined. link: for tests.
    """
    require_screen()
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from .views.window import Window

    set_up_pictures()
    made = QApplication.instance()
    application = made if isinstance(made, QApplication) else QApplication(["probeloop"])
    application.setApplicationName("probeloop")
    application.setDesktopFileName("probeloop")
    station = Station(link or connect(rig_id))
    ended = stop or threading.Event()
    try:
        window = Window(station)
        window.show()
        with ending_on_signals(ended):
            looking = QTimer()
            looking.timeout.connect(lambda: window.close() if ended.is_set() else None)
            looking.start(_LOOK_MS)
            code = application.exec()
            looking.stop()
        window.deleteLater()
    finally:
        station.close()
    return int(code)


def set_up_pictures() -> None:
    """Choose how pictures are drawn, before the first one is made."""
    import pyqtgraph as pg

    # measured: without a GPU OpenGL drops to 26 frames/s, and numba stalls the first paint for 1.9 s
    pg.setConfigOptions(imageAxisOrder="row-major", useOpenGL=False, useNumba=False, antialias=False)


def run(arguments: list[str]) -> int:
    """Run from a command line."""
    return run_window(main, "probeloop.gui.app", arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

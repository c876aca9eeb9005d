"""The small window with nothing but STOP, in a process of its own: `python -m probeloop.gui.stop_window RIG`.

It shares nothing with the operator's window, so a blocked or dead one does not stand before it.
"""

from __future__ import annotations

import sys
import threading

from .models.connection import Link, connect
from .models.stop import StopThread
from .screen import ending_on_signals, require_screen, run_window

_LOOK_MS = 100


def main(rig_id: str, stop: threading.Event | None = None, link: Link | None = None) -> int:
    """Show the STOP window of a rig until it is closed or `stop` is set; return the exit code.

    Raises ProbeloopError, one line, where there is no screen or the rig can't be joined.
    """
    require_screen()
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from .views.stop_panel import StopPanel

    made = QApplication.instance()
    application = made if isinstance(made, QApplication) else QApplication(["probeloop STOP"])
    joined = link or connect(rig_id, "stop-window")
    door = StopThread(joined, "operator pressed STOP in the stop window")
    ended = stop or threading.Event()
    try:
        panel = StopPanel(rig_id, door)
        panel.show()
        free = panel.screen().availableGeometry()  # out of the way of the maps, where the hand finds it again
        panel.move(free.right() - panel.frameGeometry().width(), free.bottom() - panel.frameGeometry().height())
        with ending_on_signals(ended):
            looking = QTimer()
            looking.timeout.connect(lambda: panel.close() if ended.is_set() else panel.refresh())
            looking.start(_LOOK_MS)
            code = application.exec()
            looking.stop()
        panel.deleteLater()
    finally:
        door.close()
        joined.close()
    return int(code)


def run(arguments: list[str]) -> int:
    """Run from a command line."""
    return run_window(main, "probeloop.gui.stop_window", arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

"""One process of a rig: `python -m probeloop.rig.process CONFIG`. Imports only what its role needs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec

from ..data.errors import ProbeloopError
from ..plugin.instance import PluginInstance
from .schema import Rig

Role = Literal[
    "check",
    "truth",
    "learned",
    "instrument",
    "guard",
    "recorder",
    "experiment",
    "plugins",
    "relay",
    "window",
    "stop_window",
]


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told at its start.

    instances: the plug-ins of a plug-in process. take_over: it is the second process of a reload.
    again: one of its name died before.
    """

    role: Role
    name: str
    rig: Rig
    session: str
    instances: tuple[PluginInstance, ...] = ()
    take_over: bool = False
    again: bool = False


def main(arguments: list[str]) -> int:
    """Run the role until it ends or is told to stop; a fatal error goes to SESSION/log/NAME.error as one line."""
    config = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=ProcessConfig)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    end_with_parent()
    try:
        return _run(config, stop)
    except ProbeloopError as error:
        problem = str(error)
    except Exception as error:  # the last line of defence: told in one line, the rest in the log
        import traceback

        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}. The log has the details: {config.session}/log/{config.name}.log"
    with contextlib.suppress(OSError):
        Path(config.session, "log", f"{config.name}.error").write_text(problem, encoding="utf-8")
    return 1


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when who started this process dies, so that the instrument goes safe, then ends."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def _run(config: ProcessConfig, stop: threading.Event) -> int:
    from . import roles

    role: Any = getattr(roles, config.role)
    result = role(config, stop)
    return int(result or 0)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # everything is closed; to take the interpreter and its compilers apart would take 0.3 s

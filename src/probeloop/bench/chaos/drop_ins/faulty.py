"""A plug-in that works until a file appears, and then does what the file says, once."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
from pathlib import Path

import numpy as np

from probeloop.api import FrameBlock, FrameTransform, Outputs, Settings, StreamSpec

_KEPT: list[object] = []


class Faulty(FrameTransform):
    """The mean of each frame."""

    memory_mb = 64

    class Parameters(Settings):
        """trigger: the file."""

        trigger: str = ""

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """One number a frame."""
        return {
            "value": StreamSpec(
                "value", "values", "<f4", spec.nav, origin=spec.origin, sync=spec.sync, units="counts"
            )
        }

    def process(self, block: FrameBlock) -> Outputs:
        """Average, or misbehave."""
        trigger = Path(self.parameters.trigger)
        if self.parameters.trigger and trigger.exists():
            what = trigger.read_text(encoding="utf-8")
            trigger.unlink()
            _misbehave(what)
        return {"value": block.data.reshape(block.count, -1).mean(axis=1).astype(np.float32)}


def _misbehave(what: str) -> None:
    match what:
        case "exits":
            os._exit(3)
        case "segfaults":
            ctypes.string_at(0)
        case "raises":
            raise RuntimeError("asked to")
        case "late":
            threading.Event().wait(60.0)
        case "memory":
            _KEPT.append(np.ones(1 << 30, np.uint8))
        case "forks":
            for _ in range(8):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() != 0:
                        os._exit(0)
                    threading.Event().wait(60.0)
                    os._exit(0)
            os._exit(4)
        case "files":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
            while True:
                _KEPT.append(open(os.devnull, "rb"))  # noqa: SIM115

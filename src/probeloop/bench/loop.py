"""The processes of one closed loop under test: instrument, detector, policy."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from ..data.errors import ProbeloopError
from .parties import end, read, start, tell

ROLES = ("instrument", "detector", "policy")


class LoopParty:
    """One transport's closed loop: start it once, run it often; a context manager."""

    def __init__(self, name: str, command: list[str]) -> None:
        """Start the processes; raises ProbeloopError when one does not begin."""
        self.name = name
        self._processes: list[subprocess.Popen[bytes]] = []
        rig = f"bench-loop-{name}-{os.getpid()}"
        try:
            for role in ROLES:
                self._processes.append(start([*command, role, rig]))
                read(self._processes[-1], name)
        except ProbeloopError:
            self.close()
            raise

    def run(self, seconds: float) -> dict[str, Any]:
        """Close the loop for `seconds`; return {"loops", "p50_us", "p99_us"} as the gate measured them."""
        tell(self._processes[-1], {"seconds": seconds})
        return read(self._processes[-1], self.name)

    def close(self) -> None:
        """End the processes, the instrument's last."""
        for process in reversed(self._processes):
            end(process)

    def __enter__(self) -> LoopParty:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

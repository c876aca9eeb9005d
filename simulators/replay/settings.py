"""What a replay can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from probeloop.api import Settings, quantity


class ReplaySettings(Settings):
    """A file and how fast it is played.

    file: relative to PROBELOOP_DATA (default ../shared/data beside the project), then to the rig, then to here; a
    session folder too. pixel_size: of a file without a scale (0 = the file's own). pace: instrument seconds per
    second, or "unlimited". dataset: which of several, by name or number ("" = the one with the most in it).
    can_wait: stay behind the slowest lossless reader. seed: taken, since every instrument has one; nothing is random.
    """

    file: str
    pixel_size: Annotated[float, quantity("m", ge=0.0, le=1.0)] = 0.0
    pace: Annotated[float, quantity("", gt=0.0, le=1e6)] | Literal["unlimited"] = 1.0
    dataset: str = ""
    can_wait: bool = True
    seed: int = 0

"""`probeloop bench simulator`: how fast frames come, how far they are from abTEM's, whether the noise is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Measure; options: seed, progress, seconds (None = about 40). See `benchmark.run` for the figures."""
    from .benchmark import run

    return run(int(options.get("seed", 0)), options.get("seconds"), bool(options.get("progress")))

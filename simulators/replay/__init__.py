"""Measured data as an instrument: the file is the sample, the nearest measured pixel is what the probe sees."""

from .instrument import Replay
from .settings import ReplaySettings

Simulator = Replay

__all__ = ["Replay", "ReplaySettings", "Simulator"]

"""Scanning probe: domains, switching loops and topography under a tip with a feedback loop of its own."""

from .instrument import SpmSimulator
from .settings import SpmSettings

Simulator = SpmSimulator

__all__ = ["Simulator", "SpmSettings", "SpmSimulator"]

"""Quantum Detectors Merlin (Medipix3): control and live frames over TCP."""

from .instrument import Merlin
from .settings import MerlinSettings

__all__ = ["Merlin", "MerlinSettings"]

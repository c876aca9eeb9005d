"""DECTRIS detectors (EIGER2, QUADRO, ARINA, ELA ...) behind a detector control unit that speaks SIMPLON."""

from .instrument import Dectris
from .settings import DectrisSettings

__all__ = ["Dectris", "DectrisSettings"]

"""4D-STEM: a bicrystal, a lens with hidden errors, exact electron counting."""

from .instrument import StemSimulator
from .settings import StemSettings

Simulator = StemSimulator

__all__ = ["Simulator", "StemSettings", "StemSimulator"]

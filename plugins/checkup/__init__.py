"""What an instrument believes of itself, measured again: a plan, and the two plug-ins it looks through."""

from .plan import Checkup
from .transform import DiscPixels, MeanPattern

__all__ = ["Checkup", "DiscPixels", "MeanPattern"]

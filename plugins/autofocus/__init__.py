"""Autofocus, and the reduction of frames that it looks at."""

from .policy import Autofocus
from .transform import BrightFieldPixels

__all__ = ["Autofocus", "BrightFieldPixels"]

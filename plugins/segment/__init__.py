"""Walls and columns in a live map: an ensemble of ResHedNets, what is not sure about them, training and scoring."""

from .column_table import Columns
from .transform import Segment

__all__ = ["Columns", "Segment"]

"""Walls in a live map: an ensemble of ResHedNets, what is not sure about them, training and scoring."""

from .transform import Segment

__all__ = ["Segment"]

"""Stand-in for the part of Nion's geometry that the bridge uses."""

from __future__ import annotations

from typing import Any, NamedTuple


class IntSize(NamedTuple):
    height: int = 0
    width: int = 0

    @classmethod
    def make(cls, pair: Any) -> IntSize:
        return cls(*pair)


class FloatPoint(NamedTuple):
    y: float = 0.0
    x: float = 0.0


class IntRect(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def from_tlbr(cls, *sides: int) -> IntRect:
        return cls(*sides)

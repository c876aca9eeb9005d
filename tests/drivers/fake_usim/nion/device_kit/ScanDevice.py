"""Stand-in for Nion's scan parameters."""

from __future__ import annotations

from typing import Any


class ScanFrameParameters:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

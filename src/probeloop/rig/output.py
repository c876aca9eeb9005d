"""What commands print."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(text: str) -> None:
    """Print a line for a person."""
    sys.stdout.write(text + "\n")


def emit_json(value: Any) -> None:
    """Print a value as JSON; NaN is not JSON and raises ValueError."""
    say(json.dumps(value, indent=2, default=str, allow_nan=False))

"""What the tests of the DECTRIS driver share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # dectris_words.py


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """Load what is loaded late, so that no test is charged for it."""
    import cbor2
    import zmq

    assert cbor2
    assert zmq

"""A rig that another host can reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from relay_site import Site, running


@pytest.fixture
def site(tmp_path: Path, rig_id: str) -> Iterator[Site]:
    """Two keys: anna may command, hall may look."""
    with running(tmp_path, rig_id) as made:
        made.key("anna", "operator")
        made.key("hall", "viewer")
        yield made

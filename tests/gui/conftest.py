"""The window's rig for these tests, and a place at it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # tests_gui_fake.py, for these tests
from tests_gui_fake import FakeRig


@pytest.fixture
def fake(rig_id: str) -> Iterator[FakeRig]:
    rig = FakeRig(rig_id)
    yield rig
    rig.close()


@pytest.fixture
def station(fake: FakeRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from probeloop.gui.models.station import Station

    from probeloop.rig.client import Connection

    monkeypatch.setenv("PROBELOOP_CONFIG", str(tmp_path))
    made = Station(Connection(fake.bus.rig_id, "window", local=True))
    yield made
    made.close()


@pytest.fixture
def window(qtbot: Any, station: Any) -> Iterator[Any]:
    from probeloop.gui.app import set_up_pictures
    from probeloop.gui.views.window import Window

    set_up_pictures()
    made = Window(station)
    qtbot.addWidget(made)
    made.show()
    yield made
    made.close()

"""Versions that are held for a reason, and the reason."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

import pytest

ENOUGH = 2000
NOISE = 100  # references of True that come and go by themselves
MORTAL = pytest.mark.skipif(sys.version_info >= (3, 12), reason="True is immortal from Python 3.12 on")


@MORTAL
def test_emitting_a_signal_keeps_the_references_of_true() -> None:
    """PySide6 6.12.0 loses one at every emit on Python 3.11, and Python aborts when none is left."""
    core: Any = pytest.importorskip("PySide6.QtCore")

    class Source(core.QObject):  # type: ignore[misc]
        changed = core.Signal(bool)

    source, heard = Source(), []
    source.changed.connect(heard.append)
    before = sys.getrefcount(True)
    for _ in range(ENOUGH):
        source.changed.emit(True)
    heard.clear()
    assert sys.getrefcount(True) >= before - NOISE


@MORTAL
def test_drawing_images_keeps_the_references_of_true(qapp: Any) -> None:
    pyqtgraph: Any = pytest.importorskip("pyqtgraph")
    import numpy as np

    item, image = pyqtgraph.ImageItem(), np.zeros((8, 8), np.float32)
    item.setImage(image)
    before = sys.getrefcount(True)
    for _ in range(ENOUGH):
        item.setImage(image, autoLevels=False)
    assert sys.getrefcount(True) >= before - NOISE


def test_zarr_writes_the_layout_that_hyperspy_reads() -> None:
    assert int(importlib.metadata.version("zarr").split(".")[0]) < 3

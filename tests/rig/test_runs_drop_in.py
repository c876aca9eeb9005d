"""A plug-in dropped into a running demo, saved again like an editor does, broken, and mended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from probeloop.data.control import Remark, StateChange
from probeloop.rig.client import Connection

WITHIN = 2.0  # [s] on a machine that does nothing else
SLOWED = 10.0  # times as long on one that does


def renamed_over(path: Path, text: str) -> float:
    """Save as editors do: another file, then a rename; return when."""
    partial = path.with_suffix(".swp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return time.monotonic()


class Watch:
    """What the rig tells, and the values of my_filter."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.events = connection, connection.events()
        self.told: list[Any] = []

    def said(self, *, state: str = "", text: str = "") -> bool:
        """True when my_filter was told to be in that state, or a remark holds the text."""
        self.told += self.events.read(0.05)
        return any(
            isinstance(e, StateChange) and e.target == "my_filter" and e.state == state if state
            else isinstance(e, Remark) and text in e.text
            for e in self.told
        )  # fmt: skip

    def forget(self) -> None:
        """Look from here on."""
        self.said(state="none")
        self.told.clear()

    def values(self, reader: Any, count: int) -> np.ndarray[Any, Any]:
        """Return the next `count` values of a topic or more."""
        found: list[Any] = []
        deadline = time.monotonic() + 40
        while sum(map(len, found)) < count and time.monotonic() < deadline:
            block = reader.receive()
            if block is None:
                self.said(state="none")
            else:
                found.append(block.data.copy())
        assert found, "no values for 40 s"
        return np.concatenate(found)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's plug-in folder of this test's own."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(folder))
    return folder


def test_my_filter_joins_a_running_demo(launch: Callable[..., Any], plugins: Path) -> None:
    run = launch(
        "demo",
        "stem",
        "--set",
        'plan=[{use = "overview", times = 0, parameters = {shape = [32, 32]}}]',
        "--seconds",
        "100",
    )
    run.until_frames("camera", 1)
    with Connection(run.name, "test") as connection:
        watch = Watch(connection)
        done = subprocess.run([sys.executable, "-m", "probeloop.cli", "new", "plugin", "my_filter"], check=True,
                              capture_output=True, text=True)  # fmt: skip
        dropped = time.monotonic()
        path = plugins / "my_filter.py"
        assert str(path) in done.stdout
        run.until(lambda: "my_filter.value" in connection.topics() or watch.said(state="none"), "a new topic", 30)
        took = {"a new topic": time.monotonic() - dropped}
        reader = connection.subscribe("my_filter.value", "lossless")
        first = watch.values(reader, 50)
        assert np.isfinite(first).all()
        assert first.mean() < 500

        watch.forget()
        good = path.read_text(encoding="utf-8")
        saved = renamed_over(path, good.replace("frames.mean(axis=1)", "frames.mean(axis=1) + 1000"))
        run.until(lambda: watch.said(state="running"), "the newer source", 40)
        took["a rename"] = time.monotonic() - saved
        run.until(lambda: watch.values(reader, 1).min() > 900, "the newer values", 40)

        watch.forget()
        renamed_over(path, good.replace("return {", "return {{{"))
        run.until(lambda: watch.said(text="last good version keeps running"), "a word on the broken one", 40)
        assert watch.said(state="reload failed")
        assert watch.values(reader, 20).min() > 900

        watch.forget()
        renamed_over(path, good.replace('return {"value": frames', 'return {"value": 1 / 0 * frames'))
        run.until(lambda: watch.said(state="reload failed"), "a word on the one that raises", 40)
        assert watch.values(reader, 20).min() > 900

        watch.forget()
        renamed_over(path, good)
        run.until(lambda: watch.said(state="running"), "the mended one", 40)
        run.until(lambda: watch.values(reader, 1).max() < 900, "its values", 40)
        reader.close()
        watch.events.close()
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    print(took, "load", os.getloadavg()[0])
    assert took["a new topic"] <= WITHIN * min(SLOWED, 1.5 * busy)
    run.popen.terminate()
    made = run.summary()
    assert made["frames_lost"] == 0
    assert made["frames_by_topic"]["my_filter.value"] > 50

"""One scan of the region, with the camera or with annular detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore.views import Overview

from probeloop.data.commands import Scan, Unblank
from probeloop.data.control import Result
from probeloop.plugin.contract import PlanContext
from probeloop.testing.fake_driver import FakeDriver


@pytest.mark.parametrize("channels", [(), ("HAADF", "MAADF")])
def test_the_scan_is_with_the_channels_that_are_named(channels: tuple[str, ...]) -> None:
    info: Any = FakeDriver().describe()
    context = PlanContext(np.random.default_rng(0), info, lambda name, parameters: None)  # type: ignore[arg-type, return-value]
    steps = Overview(Overview.Parameters(shape=(8, 4), frames=2, channels=channels)).run(context)
    yielded = [next(steps)]
    while not isinstance(yielded[-1], Scan):
        yielded.append(steps.send(Result()))
    assert isinstance(yielded[0], Unblank)
    assert (yielded[-1].channels, yielded[-1].shape, yielded[-1].frames) == (channels, (8, 4), 2)

"""A table that never ends."""

import numpy as np

from probeloop.api import ScanTransform, StreamSpec


class Flood(ScanTransform):
    """Returns a million rows each time."""

    every = "block"

    def outputs(self, spec):
        return {"peaks": StreamSpec("peaks", "table", fields=(("x", "<f8"),))}

    def update(self, data, mask=None):
        return {"peaks": np.zeros(1_000_000, [("x", "<f8")])}

"""Remembers the map itself and not what was in it."""

import numpy as np

from probeloop.api import Axis, ScanTransform, StreamSpec


class KeepsMap(ScanTransform):
    """Change of the map since the scan began."""

    every = "block"
    first = None

    def outputs(self, spec):
        return {"change": StreamSpec("change", "image", "<f8", sig=(Axis("n", 1),))}

    def begin(self, spec):
        self.first = None

    def update(self, data, mask=None):
        if self.first is None:
            self.first = data
        return {"change": np.array([[float(np.isfinite(data).sum() - np.isfinite(self.first).sum())]])}

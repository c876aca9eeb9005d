"""Compares with the frame before, and keeps a view of it."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class KeepsView(FrameTransform):
    """Difference from the first frame ever seen."""

    reference = None

    def outputs(self, spec):
        return {"difference": StreamSpec("difference", "values", "<f8")}

    def process(self, block):
        flat = block.data.reshape(block.count, -1)
        if self.reference is None or self.reference.shape != flat[0].shape:
            self.reference = flat[0]
        return {"difference": np.abs(flat - self.reference).sum(axis=1).astype(np.float64)}

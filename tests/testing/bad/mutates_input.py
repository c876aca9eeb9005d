"""Subtracts a background in place, in memory that others read."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class MutatesInput(FrameTransform):
    """Makes the block writeable and changes it."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        block.data.flags.writeable = True
        block.data[...] += 1
        block.data.flags.writeable = False
        return {"sum": np.zeros(block.count)}

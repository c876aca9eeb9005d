"""Returns an output nobody was told of."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class Undeclared(FrameTransform):
    """Returns more than it declares."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        return {"sum": np.zeros(block.count), "extra": np.zeros(block.count)}

"""Returns one result too many."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class WrongShape(FrameTransform):
    """Returns N + 1 results."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        return {"sum": np.zeros(block.count + 1)}

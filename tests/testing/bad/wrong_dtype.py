"""Declares float64, returns float32."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class WrongDtype(FrameTransform):
    """Returns another type of number than it declares."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        return {"sum": np.zeros(block.count, np.float32)}

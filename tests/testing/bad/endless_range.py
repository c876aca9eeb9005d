"""A parameter that lets infinity in."""

import numpy as np

from probeloop.api import FrameTransform, Settings, StreamSpec


class EndlessRange(FrameTransform):
    """Has a number without bounds."""

    class Parameters(Settings):
        """factor: anything."""

        factor: float = 1.0

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        return {"sum": np.zeros(block.count)}

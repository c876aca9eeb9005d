"""Takes chance from nowhere."""

import numpy as np

from probeloop.api import FrameTransform, StreamSpec


class RandomResults(FrameTransform):
    """Noise without a seed."""

    def outputs(self, spec):
        return {"noise": StreamSpec("noise", "values", "<f8")}

    def process(self, block):
        return {"noise": np.random.default_rng().random(block.count)}

"""Joins one topic with nothing."""

import numpy as np

from probeloop.api import JoinTransform, StreamSpec


class JoinOfOne(JoinTransform):
    """Should be a FrameTransform."""

    inputs = ("signal",)

    def outputs(self, specs):
        return {"out": StreamSpec("out", "values", "<f8")}

    def process(self, blocks):
        return {"out": np.zeros(blocks[0].count)}

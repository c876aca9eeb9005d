"""Clips its second topic in place, in memory that others read."""

import numpy as np

from probeloop.api import JoinTransform, StreamSpec


class JoinMutatesSecond(JoinTransform):
    """Makes the second block writeable and changes it."""

    inputs = ("signal", "mask")

    def outputs(self, specs):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, blocks):
        mask = blocks[1].data
        mask.flags.writeable = True
        mask[...] = 1
        mask.flags.writeable = False
        return {"sum": np.zeros(blocks[0].count)}

"""Compares with the first frame of its second topic, and keeps a view of that."""

import numpy as np

from probeloop.api import JoinTransform, StreamSpec


class JoinKeepsSecond(JoinTransform):
    """First topic less the second one's first frame."""

    inputs = ("signal", "dark")
    dark = None

    def outputs(self, specs):
        return {"difference": StreamSpec("difference", "values", "<f8")}

    def process(self, blocks):
        signal, dark = (block.data.reshape(block.count, -1) for block in blocks)
        if self.dark is None or self.dark.shape != dark[0].shape:
            self.dark = dark[0]
        return {"difference": np.abs(signal).sum(axis=1).astype(np.float64) - np.abs(self.dark).sum()}

"""Hands on the rows of its second topic where they lie."""

import msgspec

from probeloop.api import JoinTransform


class JoinReturnsView(JoinTransform):
    """The second topic's frames."""

    inputs = ("trigger", "frames")

    def outputs(self, specs):
        return {"frames": msgspec.structs.replace(specs[1], name="frames")}

    def process(self, blocks):
        return {"frames": blocks[1].data}

"""Fails on the third frame."""

from probeloop.api import FrameTransform, StreamSpec


class Crashes(FrameTransform):
    """Divides by zero."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        return {"sum": 1 / 0}

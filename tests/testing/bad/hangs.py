"""Never returns."""

from probeloop.api import FrameTransform, StreamSpec


class Hangs(FrameTransform):
    """Waits for something that does not come."""

    def outputs(self, spec):
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):
        while True:
            pass

"""Believes everything."""

import numpy as np

from probeloop.api import Scalarizer


class SaysValid(Scalarizer):
    """Sum of a spectrum, valid also where it is NaN."""

    def scalarize(self, spectrum, spec):
        return float(np.sum(np.abs(spectrum))), 0.0, True

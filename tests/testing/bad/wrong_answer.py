"""Returns a number where three things are asked for."""

import numpy as np

from probeloop.api import Scalarizer


class WrongAnswer(Scalarizer):
    """Sum of a spectrum, and nothing else."""

    def scalarize(self, spectrum, spec):
        return float(np.sum(np.abs(spectrum)))

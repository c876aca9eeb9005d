"""From atoms to what the camera sees: potentials, slices, multislice, partial coherence, dark field."""

from .coherence import Coherence
from .diffuse import Haadf
from .multislice import Medium, MultisliceScatterer, SampledProbe
from .settings import ScatteringSettings

__all__ = [
    "Coherence",
    "Haadf",
    "Medium",
    "MultisliceScatterer",
    "SampledProbe",
    "ScatteringSettings",
]

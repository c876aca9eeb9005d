"""The bench of the GPU is tested on the stand-in of tests/compute/emulated_gpu.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "compute"))

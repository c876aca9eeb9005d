"""The bench of the GPU is tested on the stand-in of tests/compute/emulated_gpu.py; benches of ours lie beside."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "compute"), str(Path(__file__).parent)]

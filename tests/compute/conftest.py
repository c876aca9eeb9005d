"""The tests of the GPU's code share the stand-in of emulated_gpu.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

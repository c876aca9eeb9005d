"""Decodes a MIB file with LiberTEM, in LiberTEM's own environment: decode_mib.py FILE.hdr NY NX OUT.npy."""

from __future__ import annotations

import sys

import numpy as np
from libertem.api import Context
from libertem.io.dataset.base import BufferedBackend
from libertem.udf.raw import PickUDF


def main(path: str, ny: str, nx: str, out: str) -> int:
    shape = (int(ny), int(nx))
    with Context.make_with("inline") as context:
        # its memory-mapped backend refuses raw files of several frames
        data = context.load("mib", path=path, nav_shape=shape, io_backend=BufferedBackend())
        picked = context.run_udf(data, PickUDF(), roi=np.ones(shape, bool))["intensity"].data
    np.save(out, picked.astype(np.uint32))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

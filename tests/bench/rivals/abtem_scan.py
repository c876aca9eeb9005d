"""abTEM's scan over one field: the rival of `probeloop bench simulator`. Runs in abTEM's own environment.

    ABTEM/bin/python abtem_scan.py FIELD.npz

FIELD.npz: potential (slices, y, x) [V Å], sampling [Å], thickness [Å], voltage [V], angle [mrad], defocus C10 [Å],
scan (2,) probes along y and x, reach [Å]. For every line on its input it scans once, eagerly or lazily as
the line says, and writes frames per second and per second of processor time. No noise; float32, FFTW, two threads.
"""

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import abtem
import dask
import numpy as np

abtem.config.set({"device": "cpu", "precision": "float32", "fftw.threads": 2})
abtem.config.set({"local_diagnostics.progress_bar": False})


def main() -> None:
    field = np.load(sys.argv[1])
    array = field["potential"].transpose(0, 2, 1).copy()
    potential = abtem.PotentialArray(
        array, slice_thickness=float(field["thickness"]), sampling=(float(field["sampling"]),) * 2
    )
    probe = abtem.Probe(
        energy=float(field["voltage"]), semiangle_cutoff=float(field["angle"]), C10=float(field["defocus"])
    )
    probe.grid.match(potential)
    reach, (ny, nx) = float(field["reach"]), map(int, field["scan"])
    start = potential.extent[0] / 2
    scan = abtem.GridScan(start=(start, start), end=(start + reach, start + reach), gpts=(nx, ny))
    detector = abtem.PixelatedDetector(max_angle=None)
    print("ready", flush=True)
    for line in sys.stdin:
        began, busy = time.perf_counter(), time.process_time()
        if line.strip() == "lazy":
            measured = probe.multislice(potential, scan=scan, detectors=detector, max_batch=16, lazy=True)
            with dask.config.set(scheduler="threads", num_workers=2):
                measured = measured.compute(progress_bar=False)
        else:
            measured = probe.multislice(potential, scan=scan, detectors=detector, max_batch=16, lazy=False)
        took, used = time.perf_counter() - began, time.process_time() - busy
        patterns = np.asarray(measured.array)
        assert patterns.shape == (nx, ny, array.shape[1], array.shape[2])
        assert abs(patterns[0, 0].sum() - 1) < 0.1
        print(nx * ny / took, nx * ny / used, flush=True)


if __name__ == "__main__":
    main()

"""Makes the reference patterns in abtem.npz with abTEM 1.0.11, in an environment of its own.

    python3 -m venv ABTEM && ABTEM/bin/pip install abtem==1.0.11
    ABTEM/bin/python make_reference.py

Three crystals, cut into slices by abTEM from atoms (Lobato's potentials); every aberration up to C56 is not zero;
the probe stands between pixels. abTEM works in double precision on the potentials as they are stored (float32).
Nothing of probeloop is used. SOURCE.json holds the hashes of this script and of what it made.
"""

import hashlib
import json
from pathlib import Path

import abtem
import ase
import numpy as np
from ase.build import bulk, mx2

N = 96
HERE = Path(__file__).parent
abtem.config.set({"precision": "float64", "device": "cpu", "local_diagnostics.progress_bar": False})


def strontium_titanate() -> ase.Atoms:
    a = 3.905
    cell = ase.Atoms(
        "SrTiO3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[a, a, a],
        pbc=True,
    )
    return cell * (5, 5, 4)


def molybdenum_disulphide() -> ase.Atoms:
    layer = mx2("MoS2", kind="2H", a=3.16, thickness=3.13, vacuum=1.6)
    made = abtem.orthogonalize_cell(layer) * (6, 4, 1)
    size = max(made.cell[0, 0], made.cell[1, 1])
    made.set_cell([size, size, made.cell[2, 2]])
    return made


def gold() -> ase.Atoms:
    return bulk("Au", cubic=True) * (5, 5, 2)


SAMPLES = {
    "srtio3": (strontium_titanate, 3.905, 200e3, 25.0),
    "mos2": (molybdenum_disulphide, 10.0, 80e3, 27.0),
    "gold": (gold, 4.08, 300e3, 22.0),
}
ABERRATIONS = {  # abTEM's notation: Å and rad
    "C10": -43.0, "C12": 21.0, "phi12": 0.4, "C21": 310.0, "phi21": 1.1, "C23": 260.0, "phi23": -0.3,
    "C30": 9.0e3, "C32": 5.0e3, "phi32": 0.7, "C34": 4.0e3, "phi34": 0.2, "C41": 1.5e5, "phi41": -1.9,
    "C43": 1.2e5, "phi43": 0.5, "C45": 1.1e5, "phi45": 0.15, "C50": 3.0e6, "C52": 2.5e6, "phi52": 1.3,
    "C54": 2.2e6, "phi54": -0.6, "C56": 2.0e6, "phi56": 0.35,
}  # fmt: skip
POSITIONS = np.array([[0.0371, 0.0893], [5.4217, 7.7791], [9.013, 3.3309]])  # (x, y) [Å] from the cell's corner


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    described = {}
    for name, (make, thickness, voltage, angle) in SAMPLES.items():
        rng = np.random.default_rng(7)
        atoms = make()
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        built = abtem.Potential(atoms, gpts=(N, N), slice_thickness=thickness, projection="infinite").build(
            lazy=False
        )
        stored = np.asarray(built.array, np.float32)  # (slices, x, y)
        potential = abtem.PotentialArray(
            stored.astype(np.float64), slice_thickness=built.slice_thickness, sampling=built.sampling
        )
        probe = abtem.Probe(energy=voltage, semiangle_cutoff=angle, aberrations=ABERRATIONS, soft=True)
        probe.grid.match(potential)
        patterns = []
        for x, y in POSITIONS:
            detector = abtem.PixelatedDetector(max_angle=None)
            measured = probe.multislice(potential, scan=abtem.CustomScan([[x, y]]), detectors=detector, lazy=False)
            patterns.append(np.squeeze(np.asarray(measured.array)).T)  # abTEM's axes are (x, y)
        whole = np.array(patterns)
        edge = (N - 66) // 2
        assert np.delete(whole, np.s_[edge : edge + 66], axis=1).max() < 1e-12 * whole.max()
        arrays[f"{name}_potential"] = stored.transpose(0, 2, 1).copy()  # (slices, y, x) [V Å]
        arrays[f"{name}_patterns"] = whole[:, edge : edge + 66, edge : edge + 66].astype(np.float32)
        arrays[f"{name}_numbers"] = atoms.numbers.astype(np.int16)
        arrays[f"{name}_places"] = atoms.positions.astype(np.float64)  # (x, y, z) [Å]
        described[name] = {
            "sampling": float(built.sampling[0]),
            "slice_thickness": [float(t) for t in built.slice_thickness],
            "voltage": voltage,
            "convergence_mrad": angle,
        }
        print(name, stored.shape, built.sampling, whole.sum(axis=(1, 2)), whole.max())
    np.savez_compressed(HERE / "abtem.npz", positions=POSITIONS, **arrays)
    source = {
        "abtem": abtem.__version__,
        "samples": described,
        "aberrations": ABERRATIONS,
        "sha256": {
            name: hashlib.sha256((HERE / name).read_bytes()).hexdigest()
            for name in ("make_reference.py", "abtem.npz")
        },
    }
    (HERE / "SOURCE.json").write_text(json.dumps(source, indent=1) + "\n")


if __name__ == "__main__":
    main()

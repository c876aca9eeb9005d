"""What a specimen in slices tells the spectrometer and the damage."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.mounted import AtomsAlongTheBeam
from probeloop.simulators.stem.scattering import ScatteringSettings
from probeloop.simulators.stem.specimen import StructureSettings
from probeloop.simulators.stem.world import World

from probeloop.data.errors import SettingsError

SMALL = {"pixels": 64, "pixel_angle": 3.0, "tile": 8, "convergence": 25.0, "pace": None}


def composition(name: str, **settings: object) -> AtomsAlongTheBeam:
    stem = StemSimulator(StemSettings(specimen=name, **SMALL, **settings))  # type: ignore[arg-type]
    stem.close()
    made = stem._mounted.composition
    assert isinstance(made, AtomsAlongTheBeam)
    return made


def test_a_specimen_is_counted_from_its_atoms() -> None:
    titanate = composition("srtio3")
    found = titanate.elements(0.0, 0.0)
    assert set(found) == {"Sr", "Ti", "O"}
    mean = np.mean([[each[n] for n in ("Sr", "Ti", "O")] for each in _over(titanate)], axis=0)
    assert mean == pytest.approx(mean[1] * np.array([1, 1, 3]), rel=0.1)
    cells = titanate.thickness(0.0, 0.0) / 3.905e-10
    assert mean[1] * 3.905e-10**2 == pytest.approx(cells, rel=0.1)


def _over(made: AtomsAlongTheBeam) -> list[dict[str, float]]:
    """Return what is at places all over two unit cells."""
    steps = np.linspace(0, 2 * 3.905e-10, 8, endpoint=False)
    return [dict.fromkeys(("Sr", "Ti", "O"), 0.0) | dict(made.elements(x, y)) for x in steps for y in steps]


def test_the_array_of_metal_has_its_modes_where_they_live() -> None:
    array = composition("plasmonic", structure=StructureSettings(side=2.0, gap=1.0, film=0.0))
    inside, rim, outside = ([m[2] for m in array.modes(x, y)] for x, y in ((0, 0), (1e-9, 0), (1.5e-9, 1.5e-9)))
    energies = [m[0] for m in array.modes(0, 0)]
    assert energies[0] == pytest.approx(15.0)
    assert energies[1] == pytest.approx(15.0 / np.sqrt(2))
    assert inside[0] > 5 * outside[0]  # the bulk plasmon
    assert rim[1] > 2 * inside[1]  # the surface plasmon


def test_radiolysis_takes_a_sliced_specimen_apart() -> None:
    sliced = ScatteringSettings(slices=2)
    stem = StemSimulator(
        StemSettings(specimen="srtio3", damage="radiolysis", critical_dose=1e22, scattering=sliced, **SMALL)  # type: ignore[arg-type]
    )
    try:
        world, damage = stem._mounted.field, stem._damage
        assert isinstance(world, World)
        assert damage is not None
        before = [field.copy() for field in world.medium.fields]
        stem._dose.lay(np.zeros((1, 2)), 1e5, 1e-10)
        damage.age()
        assert 0.5 < damage.crystallinity < 1
        for field, old in zip(world.medium.fields, before, strict=True):
            moved = np.abs(field - old) > 1e-3
            n = len(field)
            assert moved[n // 2 - 20 : n // 2 + 20, n // 2 - 20 : n // 2 + 20].any()
            assert not moved[:20, :20].any()  # where no electron went
    finally:
        stem.close()


def test_settings_of_a_specimen_are_checked() -> None:
    with pytest.raises(SettingsError, match="one layer"):
        composition("mos2", structure=StructureSettings(thickness=3.0))

"""Measurements at a place: switching loops by band excitation, and force curves."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import BEPS, Axis, Channel, DriverError, ForceCurve, display

from .specimen import Place, Specimen
from .switching import Broken, Loop, loop_at, response, spoil, switched, triangle
from .tip import SPRING

MOST_STEPS = 4096  # of a spectrum
_ACTIVE = 1.2e-10  # response per volt of drive, with the gain of the resonance [m/V]
_TRIGGER, _DEPTH = 500e-9, 150e-9  # highest [N], [m]
_GAP = 60e-9  # that a force curve begins at [m]
_SNAP = 0.8e-9  # where the surface pulls the tip in, nearer than it lets it go [m]
_MODULUS, _WORK = 60e9, 0.06  # of film on tip [Pa], of adhesion [J/m²]
_FORCE_NOISE = 0.25e-9  # [N] at 1 ms
FORCE_CHANNELS = (Channel("approach", "force", "N", "trace"), Channel("retract", "force", "N", "retrace"))
_KINDS: tuple[Broken, ...] = ("spikes", "no contact", "jump")


class SpectrumTruth(msgspec.Struct, frozen=True):
    """What a spectrum really is. position: on the specimen (x, y) [m]. broken: how it was spoilt, "" = it was not."""

    number: int
    position: tuple[float, float]
    place: Place
    loop: Loop
    broken: Broken
    in_contact: bool


def amplitude(drive: float) -> float:
    """Return the response of a fully poled place [m] to a drive [V]."""
    return _ACTIVE * drive


def waveform_of(kind: BEPS, usual: float) -> NDArray[np.float64]:
    """Return one cycle of the bias (n,) [V], a triangle where none is named; raises DriverError for a bad one."""
    wave = np.asarray(kind.waveform, np.float64) if kind.waveform else triangle(usual)
    if not 8 <= wave.size <= MOST_STEPS:
        raise DriverError(f"a waveform of {wave.size} steps", f"allowed: 8 to {MOST_STEPS}, or none for a triangle")
    if wave.size * kind.cycles > MOST_STEPS:
        most = MOST_STEPS // wave.size
        raise DriverError(f"{kind.cycles} cycles of {wave.size} steps", f"allowed: 1 to {most} cycles")
    if not np.ptp(wave):
        raise DriverError("a waveform that stands still", "give a cycle, or none for a triangle")
    return wave


def beps_seconds(kind: BEPS, steps: int) -> float:
    """Return how long it takes: a cycle that is not kept, those that are; off field, a read behind each pulse."""
    return steps * (kind.cycles + 1) * kind.pulse_time * (1 if kind.field == "on" else 2)


def beps_axes(
    kind: BEPS, wave: NDArray[np.float64]
) -> tuple[tuple[Channel, ...], Axis, dict[str, tuple[float, ...]]]:
    """Return channels, the axis of steps, and what was applied at each."""
    fields = ("off", "on") if kind.field == "both" else (kind.field,)
    channels = tuple(Channel(f"response_{field}_field", "piezoresponse", "m") for field in fields)
    n = wave.size * kind.cycles
    aux = {
        "bias": tuple(np.tile(wave, kind.cycles).tolist()),
        "cycle": tuple(np.repeat(np.arange(float(kind.cycles)), wave.size).tolist()),
    }
    if kind.field != "both":
        aux["field_on"] = (float(kind.field == "on"),) * n
    return channels, Axis("step", n, 1.0), aux


def beps(
    specimen: Specimen,
    kind: BEPS,
    wave: NDArray[np.float64],
    where: tuple[float, float],
    time: float,
    number: int,
    seed: int,
    *,
    in_contact: bool,
    noise: float,
    broken_share: float,
    phase: float,
) -> tuple[NDArray[np.complex64], SpectrumTruth]:
    """Measure loops at `where` (x, y) [m] of the specimen, (channels, steps) [m], and leave what they leave.

    noise: of the lock-in at 1 ms [m].
    """
    rng = np.random.default_rng([seed, 5, number])
    place = specimen.place(*where, time)
    loop = loop_at(place, kind.pulse_time)
    spread = noise * math.sqrt(1e-3 / kind.pulse_time)
    fields = _fields(kind)
    broken = _KINDS[int(rng.choice(3, p=(0.6, 0.2, 0.2)))] if rng.random() < broken_share else ""
    values = np.zeros((len(fields), wave.size * kind.cycles), np.complex128)
    if in_contact and specimen.piezoelectric:
        values = _loops(specimen, kind, wave, where, place, loop, phase)
        last = wave[int(np.flatnonzero(np.abs(wave) >= 0.999 * np.abs(wave).max())[-1])]
        specimen.pulse(*where, float(last), kind.pulse_time, time, kind.cycles + 1.0)
    values += spread * (rng.standard_normal(values.shape) + 1j * rng.standard_normal(values.shape))
    if broken:
        values = spoil(values, broken, rng, spread)
    return values.astype(np.complex64), SpectrumTruth(number, where, place, loop, broken, in_contact)


def _fields(kind: BEPS) -> tuple[bool, ...]:
    return (False, True) if kind.field == "both" else (kind.field == "on",)


def _loops(
    specimen: Specimen, kind: BEPS, wave: NDArray[np.float64], where: tuple[float, float], place: Place, loop: Loop,
    phase: float,
) -> NDArray[np.complex128]:  # fmt: skip
    """Return the loops of a place (channels, steps) [m], without noise."""
    row, column = specimen.index(*where)
    share = switched(loop, wave, kind.cycles, place.up)
    gain = amplitude(kind.drive) * float(specimen.strength[row, column]) * np.exp(1j * phase)
    return np.stack([gain * response(loop, wave, share, on) for on in _fields(kind)]).astype(np.complex128)


def expected_beps(
    specimen: Specimen, kind: BEPS, wave: NDArray[np.float64], places: NDArray[np.float64], phase: float
) -> NDArray[np.complex64]:
    """Return the loops (N, channels, steps) [m] at places (N, 2) [m] of the specimen as it is, without noise."""
    made = []
    for x, y in np.asarray(places, np.float64).tolist():
        place = specimen.place(x, y, 0.0)
        made.append(_loops(specimen, kind, wave, (x, y), place, loop_at(place, kind.pulse_time), phase))
    return np.stack(made).astype(np.complex64)


def check_force_curve(kind: ForceCurve) -> None:
    """Raise DriverError for what would break the tip, or can't be done."""
    if not 16 <= kind.n <= MOST_STEPS:
        raise DriverError(f"a force curve of {kind.n} points", f"allowed: 16 to {MOST_STEPS}")
    if kind.trigger_force is not None and not 0 < kind.trigger_force <= _TRIGGER:
        asked = display(kind.trigger_force, "N")
        raise DriverError(f"a trigger force of {asked}", f"allowed: above 0, to {display(_TRIGGER, 'N')}")
    if kind.depth is not None and not 0 < kind.depth <= _DEPTH:
        raise DriverError(f"a depth of {display(kind.depth, 'm')}", f"allowed: above 0, to {display(_DEPTH, 'm')}")
    if not 1e-9 <= kind.speed <= 1e-4:
        raise DriverError(f"a speed of {kind.speed:g} m/s", "allowed: 1e-9 to 1e-4 m/s")


def force_curve(
    kind: ForceCurve, radius: float, in_contact: bool, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Axis, float]:
    """Return force [N] on the way in and out, (2, n), the axis of the z piezo, and how long it takes [s].

    A DMT contact (Derjaguin, Muller and Toporov, J. Colloid Interface Sci. 53 (1975) 314) in series with the spring;
    the tip snaps in near the surface and leaves it at the force of adhesion. z grows towards the specimen; 0 is where
    the surface is.
    """
    adhesion = 2 * math.pi * radius * _WORK
    highest = kind.trigger_force or SPRING * (kind.depth or 20e-9)
    force = np.linspace(-adhesion, highest, 4000)
    pressed = ((force + adhesion) * 0.75 / (_MODULUS * math.sqrt(radius))) ** (2 / 3)
    z_of = force / SPRING + pressed  # of the piezo, at each force
    end = kind.depth if kind.depth is not None else float(z_of[-1])
    step = (end + _GAP) / (kind.n - 1)
    z = -_GAP + step * np.arange(kind.n)
    made = np.zeros((2, kind.n))
    if in_contact:
        touching = np.interp(z, z_of, force)
        made[0] = np.where(z > -_SNAP, touching, 0.0)
        made[1] = np.where(z > z_of[0], touching, 0.0)
    seconds = 2 * (end + _GAP) / kind.speed
    made += _FORCE_NOISE * min(30.0, math.sqrt(1e-3 * kind.n / seconds)) * rng.standard_normal(made.shape)
    axis = Axis("z", kind.n, step, -_GAP, "m")
    return made.astype(np.float32), axis, seconds + kind.dwell


def spectrum_bytes() -> int:
    """Return the size of the largest spectrum."""
    return 2 * MOST_STEPS * np.dtype(np.complex64).itemsize


def described(truth: SpectrumTruth) -> dict[str, Any]:
    """Return it as plain data."""
    return {
        "number": truth.number, "position": truth.position, "broken": truth.broken, "in_contact": truth.in_contact,
        "area": truth.loop.area, **msgspec.structs.asdict(truth.loop),
        "distance": truth.place.distance, "right_angle": truth.place.right_angle,
        "curvature": truth.place.curvature, "polarisation": truth.place.up, "in_plane": truth.place.lying,
    }  # fmt: skip

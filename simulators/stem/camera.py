"""Pixelated cameras: from the intensity on the sensor to what is read out.

ideal: every electron is counted once in the pixel it hits. counting: a hybrid-pixel counter, which counts an electron
in one pixel, at times in the next one; it misses the second of two that come too close, and its counters are full at
2^bits - 1. integrating: a sensor whose charge spreads over pixels and is digitised with dark level, dark current,
read-out noise and a gain that differs from pixel to pixel. Response as in the linear theory of detectors (McMullan
et al., Ultramicroscopy 109 (2009) 1126): noise of counting is white, that of an integrating sensor is blurred as the
signal is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import msgspec
import numba as nb
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Axis, DriverError, SetDetector, Settings, StreamSpec, quantity

from .noise import Stream, count_electrons, draw_counts, draw_normals, expected_counts

Detector = Literal["ideal", "counting", "integrating"]
BitDepth = Literal[1, 6, 8, 12, 16]


class CameraSettings(Settings):
    """What a camera that is not ideal does to a pattern.

    mtf: modulation transfer at the Nyquist frequency along a row. bit_depth: of a counter, or of the digitiser.
    dead_time: of a counting pixel after an electron. gain: counts per electron, integrating. gain_spread: rms of the
    gain, from pixel to pixel and, as the charge of single electrons varies, from electron to electron.
    dark_level: counts without charge. dark_current: counts per pixel and second. read_noise: rms counts. hot, dead:
    share of the pixels; a hot one has 1,000 times the dark current. gap: width of the cross between four chips.
    beam_stop: half angle of the shadow over the centre.
    """

    mtf: Annotated[float, quantity("", ge=0.05, le=1)] = 0.6
    bit_depth: BitDepth = 12
    dead_time: Annotated[float, quantity("s", ge=0, le=1e-3)] = 0.0
    gain: Annotated[float, quantity("counts/e", gt=0, le=1e4)] = 20.0
    gain_spread: Annotated[float, quantity("", ge=0, le=0.5)] = 0.05
    dark_level: Annotated[float, quantity("counts", ge=0, le=1e4)] = 100.0
    dark_current: Annotated[float, quantity("Hz", ge=0, le=1e6)] = 2.0
    read_noise: Annotated[float, quantity("counts", ge=0, le=1e3)] = 3.0
    hot: Annotated[float, quantity("", ge=0, le=0.1)] = 2e-4
    dead: Annotated[float, quantity("", ge=0, le=0.1)] = 2e-4
    gap: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    beam_stop: Annotated[float, quantity("mrad", ge=0, le=200)] = 0.0


class Sensor(Protocol):
    """What turns intensity into a frame.

    counts_per_electron, units: of what is read out. blind_is_zero: without a beam it reads zero.
    """

    counts_per_electron: float
    units: str
    blind_is_zero: bool

    def record(
        self, wave: NDArray[np.complex64], electrons: float, seconds: float, stream: Stream, out: NDArray[np.uint16]
    ) -> bool:
        """Write a frame into `out` (n, n); return whether a pixel saturated.

        wave: (n, n) amplitude in FFT order, its square summing to the share of `electrons` that the sensor gets.
        seconds: exposure. stream: names the frame's random numbers.
        """
        ...

    def set(self, command: SetDetector) -> None:
        """Set what is given of it, but for `inserted`; raises DriverError for what it doesn't have."""
        ...

    def truth(self) -> dict[str, Any]:
        """Return the maps of the pixels that are not as they should be."""
        ...


class IdealSensor:
    """Counts every electron where it hits, up to 65,535."""

    counts_per_electron = 1.0
    units = "e"
    blind_is_zero = True

    def record(
        self, wave: NDArray[np.complex64], electrons: float, seconds: float, stream: Stream, out: NDArray[np.uint16]
    ) -> bool:
        """Write Poisson counts."""
        return bool(count_electrons(wave, electrons, *stream, out) > 0)

    def set(self, command: SetDetector) -> None:
        """Refuse all but `inserted`."""
        _refuse_all_but(command, "inserted")

    def truth(self) -> dict[str, Any]:
        """Return nothing: all is well."""
        return {}


class RealSensor:
    """A counting or an integrating camera (see CameraSettings). Hot and dead pixels are drawn from the seed."""

    def __init__(
        self, kind: Literal["counting", "integrating"], settings: CameraSettings, pixels: int, angle: float, seed: int
    ) -> None:
        self.settings, self.kind, self.blind_is_zero = settings, kind, False
        self._counting = kind == "counting"
        self.counts_per_electron = 1.0 if self._counting else settings.gain
        self.units = "e" if self._counting else "counts"
        self.bit_depth: int = settings.bit_depth if self._counting else 16
        rng = np.random.default_rng([seed, 9])
        self.hot, self.dead = _faults(rng, pixels, settings.hot, settings.dead)
        self.gap = _shadow(pixels, angle, settings.gap, settings.beam_stop * 1e-3)
        spread = 0.0 if self._counting else settings.gain_spread
        self.pixel_gain = np.clip(1 + spread * rng.standard_normal((pixels, pixels)), 0.2, 2.0).astype(np.float32)
        self.pixel_gain[self.dead] = 0
        self._lit = np.where(self.gap, 0.0, 1.0).astype(np.float32)
        dark = 0.0 if self._counting else settings.dark_current
        hot_rate = 1e3 * max(settings.dark_current, 1.0)
        self.dark_rate = np.where(self.hot, hot_rate, dark).astype(np.float32)
        self.dark_rate[self.dead | self.gap] = 0
        fixed = 0.0 if self._counting else 0.5 * settings.read_noise
        self.pedestal = (settings.dark_level + fixed * rng.standard_normal((pixels, pixels))).astype(np.float32)
        self.pedestal[self.dead | self.gap] = 0
        self._noisy = (~(self.dead | self.gap)).astype(np.float32) * np.float32(settings.read_noise)

    def record(
        self, wave: NDArray[np.complex64], electrons: float, seconds: float, stream: Stream, out: NDArray[np.uint16]
    ) -> bool:
        """Write what is read out."""
        expected = np.empty(wave.shape, np.float32)
        expected_counts(wave, electrons, expected)
        expected *= self._lit
        drawn = np.empty(expected.size, np.float32)
        side = (1 - self.settings.mtf) / 4
        full = float(2**self.bit_depth - 1)
        if self._counting:
            seen = np.empty_like(expected)
            _blur(expected, side, seen)
            seen *= self._lit * self.pixel_gain
            seen += self.dark_rate * np.float32(seconds)
            if self.settings.dead_time and seconds:
                seen /= 1 + seen * np.float32(self.settings.dead_time / seconds)
            draw_counts(seen.ravel(), *stream, drawn)
            return bool(_digitise(drawn.reshape(wave.shape), full, out) > 0)
        draw_counts(expected.ravel(), *stream, drawn)
        normal = np.empty((2, expected.size), np.float32)
        draw_normals(*stream, normal.reshape(-1))
        charge = (drawn + self.settings.gain_spread * np.sqrt(drawn) * normal[0]).reshape(wave.shape)
        spread = np.empty_like(charge)
        _blur(charge, side, spread)
        spread *= self._lit * self.pixel_gain * np.float32(self.settings.gain)
        dark = self.dark_rate * np.float32(seconds)
        noise = np.sqrt(self._noisy**2 + dark) * normal[1].reshape(wave.shape)
        return bool(_digitise(spread + dark + self.pedestal + noise, full, out) > 0)

    def set(self, command: SetDetector) -> None:
        """Set the depth of the counters."""
        if not self._counting:
            _refuse_all_but(command, "inserted")
            return
        _refuse_all_but(command, "inserted", "bit_depth")
        if command.bit_depth is not None:
            if command.bit_depth > 16:
                raise DriverError(f"no counters of {command.bit_depth} bits", "1, 6, 8, 12 or 16")
            self.bit_depth = command.bit_depth

    def truth(self) -> dict[str, Any]:
        """Return hot, dead, gap (n, n) bool and pixel_gain (n, n)."""
        return {
            "hot_pixels": self.hot.copy(),
            "dead_pixels": self.dead.copy(),
            "camera_shadow": self.gap.copy(),
            "pixel_gain": self.pixel_gain.copy(),
        }


def make_sensor(detector: Detector, settings: CameraSettings, pixels: int, angle: float, seed: int) -> Sensor:
    """Return the sensor of that name. angle: [rad/px]."""
    return IdealSensor() if detector == "ideal" else RealSensor(detector, settings, pixels, angle, seed)


def pattern_spec(
    units: str, pixels: int, angle: float, nav: tuple[Axis, ...], exposure_ns: int, sync: Literal["pixel", "none"]
) -> StreamSpec:
    """Return what the frames of a camera of `pixels` by `pixels` are. angle: [rad/px]."""
    sig = tuple(Axis(name, pixels, angle, -(pixels // 2) * angle, "rad") for name in ("ky", "kx"))
    return StreamSpec(
        "camera", "frames", "<u2", nav, sig, units=units, origin="simulation", sync=sync, stamp="hardware",
        exposure_ns=exposure_ns,
    )  # fmt: skip


def _refuse_all_but(command: SetDetector, *known: str) -> None:
    given = [name for name in command.__struct_fields__ if getattr(command, name) is not None]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise DriverError(f"this camera has no {', '.join(unknown)} to set", f"it knows {', '.join(known)}")
    if not given:
        raise DriverError("nothing to set", f"this camera knows {', '.join(known)}")


def _faults(rng: np.random.Generator, pixels: int, hot: float, dead: float) -> tuple[Any, Any]:
    chance = rng.random((pixels, pixels))
    return chance < hot, chance > 1 - dead


def _shadow(pixels: int, angle: float, gap: int, beam_stop: float) -> NDArray[np.bool_]:
    """Return where no electron is seen: a cross of `gap` pixels between four chips, a disc over the centre."""
    at = np.arange(pixels) - pixels // 2
    low = -(gap // 2)
    line = (at >= low) & (at < low + gap)
    radius = np.hypot(at[:, None], at) * angle
    return np.asarray(line[:, None] | line[None, :] | (radius < beam_stop))


@nb.njit(nogil=True, cache=True)
def _blur(image: Any, side: Any, out: Any) -> None:
    """Write `image` (n, n), spread with the kernel (side, 1 - 2 side, side) along both axes, into `out`.

    Its transfer is (1 + m) / 2 + (1 - m) / 2 cos(pi f) with m = 1 - 4 side at Nyquist, f = 1. What leaves is lost.
    """
    n, m = image.shape
    middle = 1 - 2 * side
    rows = np.empty_like(image)
    for y in range(n):
        for x in range(m):
            value = middle * image[y, x]
            if x > 0:
                value += side * image[y, x - 1]
            if x + 1 < m:
                value += side * image[y, x + 1]
            rows[y, x] = value
    for y in range(n):
        for x in range(m):
            value = middle * rows[y, x]
            if y > 0:
                value += side * rows[y - 1, x]
            if y + 1 < n:
                value += side * rows[y + 1, x]
            out[y, x] = value


@nb.njit(nogil=True, cache=True)
def _digitise(values: Any, full: Any, out: Any) -> int:
    """Write rounded values between 0 and `full` into `out` (n, n) uint16; return how many were clipped above."""
    clipped = 0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            value = np.floor(values[y, x] + 0.5)
            if value > full:
                value = full
                clipped += 1
            out[y, x] = np.uint16(max(value, 0.0))
    return clipped

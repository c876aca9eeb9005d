"""Streams to try drop-ins on: blocks and scans that come from no instrument."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import Axis, Channel, StreamSpec
from ..data.calibration import Calibration, CalibrationSet
from ..data.frame import BlockFlag, FrameBlock, FrameBuffer
from ..data.scan import visit_order

Ending = Literal["complete", "partial", "aborted"]
STEP = 1e-9
KNOWN: dict[str, tuple[float, ...]] = {
    "scan_scale": (1.0,),
    "scan_orthogonality": (0.0,),
    "scan_detector_rotation": (0.1,),
    "scan_detector_flip": (1.0,),
    "pattern_centre": (8.0, 8.0),
    "detector_scale": (2e-3,),
    "convergence_angle": (4e-3,),
    "counts_per_electron": (1.0,),
    "beam_current": (1e-11,),
    "energy_dispersion": (0.5,),
    "zero_loss": (10.0,),
    "invols": (1e-7,),
    "spring_constant": (2.0,),
    "phase_offset": (0.0,),
    "bias_polarity": (1.0,),
}


def every_calibration() -> CalibrationSet:
    """Return one calibration of every kind, for patterns of 16 pixels."""
    return CalibrationSet(
        tuple(Calibration(id=f"test-{kind}", kind=kind, value=value) for kind, value in KNOWN.items())  # type: ignore[arg-type]
    )


def nav_axes(shape: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the scan axes of a map of (ny, nx), 1 nm a pixel."""
    return Axis("y", shape[0], STEP, 0.0, "m"), Axis("x", shape[1], STEP, 0.0, "m")


def example_specs(shape: tuple[int, int], larger: int = 0) -> dict[str, StreamSpec]:
    """Return one stream of every sort that instruments make, by name; larger: extra detector pixels [px]."""
    nav, size = nav_axes(shape), 16 + larger
    bias = tuple(float(v) for v in 5.0 * np.sin(2 * np.pi * np.arange(32 + larger) / (32 + larger)))
    lock_in = (Channel("piezoresponse", "piezoresponse", "a.u."), Channel("topography", "height", "m"))
    bent = (Channel("x", "deflection", "rad"), Channel("y", "deflection", "rad"))
    return {
        "patterns": StreamSpec("camera", "frames", "<u2", nav, (Axis("ky", size), Axis("kx", size)), units="e"),
        "patterns of reals": StreamSpec("camera", "frames", "<f4", nav, (Axis("ky", size), Axis("kx", size))),
        "a map": StreamSpec("haadf", "values", "<f4", nav, units="e"),
        "a map of channels": StreamSpec("surface", "values", "<f4", nav, channels=lock_in),
        "a map of deflections": StreamSpec("deflection", "values", "<f4", nav, channels=bent, units="rad"),
        "a complex map": StreamSpec("lockin", "values", "<c8", nav),
        "spectra": StreamSpec("eels", "spectra", "<f4", nav, (Axis("energy", 64 + larger, 0.5, -5.0, "eV"),)),
        "loops": StreamSpec("spectrum", "spectra", "<f8", nav, (Axis("step", 32 + larger),), aux={"bias": bias}),
    }


def frames_of(spec: StreamSpec, count: int, seed: int = 0) -> NDArray[Any]:
    """Return plausible data, (count, *frame_shape): counts, smooth loops, noise."""
    rng = np.random.default_rng(seed)
    shape = (count, *spec.frame_shape)
    dtype = spec.numpy_dtype
    if dtype.kind in "iu":
        return rng.poisson(3.0, shape).astype(dtype)
    if "bias" in spec.aux:
        bias = np.asarray(spec.aux["bias"])
        loop = np.tanh(bias - np.sign(np.gradient(bias)))
        return np.asarray(loop + 0.02 * rng.standard_normal(shape), dtype)
    made = 10.0 + rng.standard_normal(shape)
    return np.asarray(made + 1j * rng.standard_normal(shape) if dtype.kind == "c" else made, dtype)


def block_of(
    spec: StreamSpec,
    data: NDArray[Any],
    *,
    scan_index: NDArray[np.int64] | None = None,
    index: int = 0,
    generation: int = 1,
    flags: BlockFlag | None = None,
) -> FrameBlock:
    """Return a block of its own memory, read-only as a reader sees it, of (N, *frame_shape) data."""
    count = len(data)
    pixels = np.arange(count) if scan_index is None else scan_index
    buffer = FrameBuffer.allocate(spec, max(count, 1))
    buffer.data[:count] = data
    buffer.time_ns[:count] = 1_000_000 * (index + np.arange(count))
    buffer.scan_index[:count] = pixels
    width = spec.nav_shape[-1] if spec.nav else 1
    buffer.position[:count] = np.stack([pixels % width, pixels // width], axis=-1) * STEP
    buffer.dose[:count] = 10.0
    columns: list[Any] = [
        each[:count]
        for each in (buffer.data, buffer.time_ns, buffer.scan_index, buffer.position, buffer.dose, buffer.flags)
    ]
    for column in columns:
        column.flags.writeable = False
    marks = BlockFlag(0) if flags is None else flags
    return FrameBlock(spec, index, count, marks, generation, 0, -1, 0, 0, 0, *columns)


def scan_blocks(
    spec: StreamSpec,
    block_frames: int,
    *,
    generation: int = 1,
    order: Literal["raster", "serpentine"] = "raster",
    ending: Ending = "complete",
    first_index: int = 0,
    seed: int = 0,
) -> Iterator[FrameBlock]:
    """Yield a scan over the nav axes of `spec` in blocks of up to `block_frames`.

    partial: half of it, and no end. aborted: half of it, then an empty block that says so.
    """
    shape = spec.nav_shape
    visits = visit_order((shape[0], shape[1]), order)
    data = frames_of(spec, len(visits), seed)[visits]
    most = len(visits) if ending == "complete" else max(1, len(visits) // 2)
    for start in range(0, most, block_frames):
        stop = min(most, start + block_frames)
        flags = BlockFlag.SCAN_BEGIN if start == 0 else BlockFlag(0)
        if stop == len(visits):
            flags |= BlockFlag.SCAN_END
        yield block_of(spec, data[start:stop], scan_index=visits[start:stop], index=first_index + start,
                       generation=generation, flags=flags)  # fmt: skip
    if ending == "aborted":
        yield block_of(spec, data[:0], index=first_index + most, generation=generation,
                       flags=BlockFlag.SCAN_END | BlockFlag.ABORTED)  # fmt: skip


def poison(block: FrameBlock) -> None:
    """Overwrite a block's frames, as the bus does when the reader has let go of it."""
    raw: NDArray[Any] = block.data
    if raw.size:
        raw.flags.writeable = True
        raw.reshape(-1).view(np.uint8)[:] = 0xA5
        raw.flags.writeable = False


def renamed(spec: StreamSpec, name: str) -> StreamSpec:
    """Return the spec under another name."""
    return msgspec.structs.replace(spec, name=name)

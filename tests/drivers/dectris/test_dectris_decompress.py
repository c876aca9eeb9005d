"""Frames unpack to what an independent library packed; lies about lengths are refused before memory is taken."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from probeloop.drivers.dectris.decompress import DamagedError, Unpacker, Way, largest_packed
from probeloop.drivers.dectris.messages import Packed
from probeloop.simulators.servers.dectris_wire import bit_shuffled, pack

bitshuffle = pytest.importorskip("bitshuffle", reason="the independent packer: pip install bitshuffle")
SHAPES = [(16, 16), (24, 40), (3, 5), (61, 67), (128, 128)]


def frame(shape: tuple[int, int], bits: int, mean: float = 3.0, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).poisson(mean, shape).astype(f"<u{bits // 8}")


def by_bitshuffle(pixels: NDArray[Any], block: int = 0) -> bytes:
    """Return a frame packed by bitshuffle, in the framing of its HDF5 filter. block: [pixels], 0 = its own choice."""
    block = block or 8192 // pixels.itemsize
    return (
        struct.pack(">QI", pixels.nbytes, block * pixels.itemsize) + bitshuffle.compress_lz4(pixels, block).tobytes()
    )


WAYS: list[Way] = ["kernels"]
if Unpacker().way != "kernels":
    WAYS += ["library", "in_place"]


def unpacked(
    data: bytes, like: NDArray[Any], algorithm: str = "bslz4", md5: str = "", dtype: str = ""
) -> NDArray[Any]:
    packed = Packed(algorithm, like.itemsize, dtype or like.dtype.str, like.shape, data)  # type: ignore[arg-type]
    made, refused = [], []
    for way in WAYS:
        out = np.full_like(like, 99)
        try:
            Unpacker(way).unpack(packed, out, md5)
        except DamagedError as error:
            refused.append(error)
        made.append(out)
    if refused:
        assert len(refused) == len(WAYS), f"refused by some alone: {refused}"
        raise refused[0]
    assert all(np.array_equal(out, made[0]) for out in made)
    return made[0]


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_what_bitshuffle_packs_is_unpacked(bits: int) -> None:
    for shape in SHAPES:
        for mean in (0.05, 3.0, 200.0):
            pixels = frame(shape, bits, mean)
            for block in (0, 8, 4096):
                assert np.array_equal(unpacked(by_bitshuffle(pixels, block), pixels), pixels)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_what_the_server_packs_is_unpacked(bits: int) -> None:
    pixels = frame((61, 67), bits)
    for algorithm, bare in (("bslz4", False), ("lz4", False), ("lz4", True)):
        packed = pack(pixels, algorithm, bare=bare)
        got = unpacked(packed.data, pixels, "raw_lz4" if bare else algorithm, packed.md5)
        assert np.array_equal(got, pixels)


def test_the_server_shuffles_as_bitshuffle_does() -> None:
    for bits in (8, 16, 32):
        pixels = frame((16, 24), bits, 1000.0).reshape(-1)
        assert bit_shuffled(pixels).tobytes() == bitshuffle.bitshuffle(pixels, pixels.size).tobytes()


def test_pixels_that_are_masked_or_random_stay_as_they_are() -> None:
    noise = np.random.default_rng(1).integers(0, 1 << 16, (64, 64), np.uint16)
    noise[3] = 65535
    assert np.array_equal(unpacked(by_bitshuffle(noise), noise), noise)
    assert np.array_equal(unpacked(pack(noise, "lz4", bare=True).data, noise, "raw_lz4"), noise)
    assert len(by_bitshuffle(noise)) <= largest_packed(noise.nbytes)


def test_big_endian_pixels_are_turned() -> None:
    pixels = frame((16, 16), 16, 1000.0)
    assert np.array_equal(unpacked(by_bitshuffle(pixels.byteswap()), pixels, dtype=">u2"), pixels)


def test_pixels_that_are_not_packed_are_copied() -> None:
    pixels = frame((16, 16), 16)
    assert np.array_equal(unpacked(pixels.tobytes(), pixels, "none"), pixels)
    with pytest.raises(DamagedError, match="it has 510 bytes, a frame has 512"):
        unpacked(pixels.tobytes()[2:], pixels, "none")


def test_a_size_that_lies_is_refused_before_memory_is_taken() -> None:
    pixels = frame((128, 128), 16)
    good = by_bitshuffle(pixels)
    unpacked(good, pixels)
    tracemalloc.start()
    for claimed in (0, pixels.nbytes - 2, pixels.nbytes + 2, 1 << 40, (1 << 64) - 1):
        with pytest.raises(DamagedError, match="it says that it unpacks to"):
            unpacked(struct.pack(">Q", claimed) + good[8:], pixels)
    for block in (0, 3, 1 << 20, 0xFFFFFFFF):
        with pytest.raises(DamagedError, match="blocks of"):
            unpacked(good[:8] + struct.pack(">I", block) + good[12:], pixels)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 20


def test_too_many_bytes_and_too_few_are_refused() -> None:
    pixels = frame((16, 16), 16)
    good = by_bitshuffle(pixels)
    with pytest.raises(DamagedError, match="more than a frame"):
        unpacked(good + bytes(largest_packed(pixels.nbytes)), pixels)
    for length in (0, 5, 11, 12, 14, len(good) // 2, len(good) - 1):
        with pytest.raises(DamagedError):
            unpacked(good[:length], pixels)


def test_a_block_whose_length_lies_is_refused() -> None:
    pixels = frame((64, 64), 16)
    good = by_bitshuffle(pixels)
    for length in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        with pytest.raises(DamagedError, match="blocks are damaged"):
            unpacked(good[:12] + struct.pack(">I", length) + good[16:], pixels)


def test_a_flipped_bit_is_found_by_the_md5() -> None:
    pixels = frame((64, 64), 16)
    good = by_bitshuffle(pixels)
    md5 = hashlib.md5(good).hexdigest()
    assert np.array_equal(unpacked(good, pixels, md5=md5), pixels)
    with pytest.raises(DamagedError, match="md5"):
        unpacked(good[:-1] + bytes([good[-1] ^ 16]), pixels, md5=md5)


@given(st.binary(max_size=200), st.sampled_from(["bslz4", "lz4", "raw_lz4", "none"]), st.booleans())
def test_no_bytes_do_harm(data: bytes, algorithm: str, framed: bool) -> None:
    if framed:
        data = struct.pack(">QI", 128, 128) + data
    for way in WAYS:
        guarded = np.full((3, 8, 8), 7, "<u2")
        with contextlib.suppress(DamagedError):
            Unpacker(way).unpack(Packed(algorithm, 2, "<u2", (8, 8), data), guarded[1])  # type: ignore[arg-type]
        assert (guarded[[0, 2]] == 7).all()


@given(st.integers(0, 10_000), st.integers(1, 255), st.sampled_from(["bslz4", "lz4"]))
def test_a_changed_byte_is_refused_or_changes_pixels_of_this_frame_alone(at: int, by: int, algorithm: str) -> None:
    pixels = frame((16, 16), 16)
    data = bytearray(by_bitshuffle(pixels) if algorithm == "bslz4" else pack(pixels, "lz4").data)
    data[at % len(data)] ^= by
    for way in WAYS:
        guarded = np.full((3, 16, 16), 7, "<u2")
        with contextlib.suppress(DamagedError):
            Unpacker(way).unpack(Packed(algorithm, 2, "<u2", (16, 16), bytes(data)), guarded[1])  # type: ignore[arg-type]
        assert (guarded[[0, 2]] == 7).all()

"""Convolutions with fewer multiplications say what torch's own say, at every edge, in any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from probeloop.plugins.segment import network, winograd
from probeloop.plugins.segment.network import SLOPE, build, for_inference

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def pictures(count: int, channels: int, ny: int, nx: int) -> Any:
    return torch.randn(count, channels, ny, nx).bfloat16().to(memory_format=torch.channels_last)


def pair(taken: int, made: int) -> tuple[Any, Any]:
    """A convolution of float32, with weights that bfloat16 has, and that with fewer multiplications."""
    direct = torch.nn.Conv2d(taken, made, 3, padding=1).bfloat16().float().requires_grad_(False)
    return direct, winograd.winograd(direct).bfloat16()


def close(made: Any, exact: Any) -> bool:
    """To rounding: both the 16 sums and their products have 8 bits."""
    assert made.dtype == torch.bfloat16
    assert made.shape == exact.shape
    assert made.is_contiguous(memory_format=torch.channels_last)
    error = (made.float() - exact).abs()
    return bool(error.max() < 0.04) and bool(error.square().mean().sqrt() < 0.005)


@pytest.mark.parametrize("shape", [(2, 2), (1, 5), (5, 1), (8, 12), (7, 9), (6, 11), (33, 40)])
@pytest.mark.parametrize(("taken", "made"), [(16, 16), (32, 64), (64, 16)])
def test_it_is_the_convolution(shape: tuple[int, int], taken: int, made: int) -> None:
    direct, fewer = pair(taken, made)
    x = pictures(2, taken, *shape)
    before = x.clone()
    with torch.inference_mode():
        assert close(fewer(x), direct(x.float()))
    assert torch.equal(x, before)


@pytest.mark.parametrize("tap", [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)])
def test_each_pixel_sees_the_right_neighbour_exactly(tap: tuple[int, int]) -> None:
    direct = torch.nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    direct.weight.zero_()
    direct.bias.copy_(torch.arange(16))
    for i in range(16):
        direct.weight[i, (i + 3) % 16, tap[0], tap[1]] = 4.0  # whole numbers of 8 bits all the way
    x = torch.randint(-4, 5, (1, 16, 7, 10)).float()
    made = winograd.winograd(direct).bfloat16()(x.bfloat16().to(memory_format=torch.channels_last))
    assert torch.equal(made.float(), direct(x))
    assert float(made.max()) > 15


@pytest.mark.parametrize("shape", [(8, 8), (7, 5)])
def test_residual_and_rectifier_come_along(shape: tuple[int, int]) -> None:
    direct, fewer = pair(16, 32)
    x, residual = pictures(1, 16, *shape), pictures(1, 32, *shape)
    exact = torch.nn.functional.leaky_relu(direct(x.float()) + residual.float(), SLOPE)
    assert close(fewer(x, slope=SLOPE), torch.nn.functional.leaky_relu(direct(x.float()), SLOPE))
    made = fewer(x, residual, SLOPE)
    assert close(made, exact)
    assert -0.2 < float(made.float().min()) < 0  # without a rectifier -3
    assert made.data_ptr() == residual.data_ptr()


def test_strips_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fewer = pair(16, 16)
    x = pictures(1, 16, 21, 18)
    whole = fewer(x)
    for strip in (16, 7 * 16, 50 * 16):
        monkeypatch.setattr(winograd, "_STRIP", strip)
        monkeypatch.setattr(winograd, "_spare", [])
        assert torch.equal(fewer(x), whole)


def test_memory_left_by_another_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fewer = pair(16, 16)
    x = pictures(1, 16, 9, 10)
    monkeypatch.setattr(winograd, "_spare", [])
    first = fewer(x)
    (left,) = winograd._spare
    left[:] = 0x7FC0  # not a number
    assert torch.equal(fewer(x), first)
    assert winograd._spare[0] is left
    winograd._spare[0] = left[:, :100]  # too small
    assert torch.equal(fewer(x), first)


def test_pictures_in_several_threads_at_once() -> None:
    _, fewer = pair(32, 32)
    each = [pictures(1, 32, 40, 44) for _ in range(6)]
    with torch.inference_mode():
        alone = [fewer(x) for x in each]

    def run(x: Any) -> list[Any]:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return [fewer(x) for _ in range(5)]

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, each))
    assert all(torch.equal(made, exact) for several, exact in zip(together, alone, strict=True) for made in several)


def test_memory_of_any_order_is_taken() -> None:
    direct, fewer = pair(16, 16)
    x, residual = torch.randn(1, 16, 6, 8).bfloat16(), torch.randn(1, 16, 6, 8).bfloat16()
    assert close(fewer(x, residual), direct(x.float()) + residual.float())


def lived(filters: int) -> Any:
    made = build(filters).train()
    with torch.no_grad():
        made(torch.randn(2, 1, 32, 32))
    return made.eval()


def kinds(made: Any) -> list[str]:
    return [type(block.second).__name__ for scale in made.scales for block in scale]


def test_channels_and_processor_decide_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, bfloat, filters, finest, coarsest in [
        (True, True, 64, "Winograd", "Winograd"),
        (True, True, 16, "Direct", "Winograd"),
        (True, True, 4, "Direct", "Direct"),
        (True, False, 64, "Direct", "Direct"),
        (False, True, 64, "Direct", "Direct"),
    ]:
        monkeypatch.setattr(network, "bfloat_is_faster", lambda device, has=has: has)
        found = kinds(for_inference(build(filters), "cpu", bfloat))
        assert (found[0], found[-1]) == (finest, coarsest)


@pytest.mark.parametrize("shape", [(32, 32), (36, 44)])
def test_the_network_says_the_same(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "bfloat_is_faster", lambda device: True)
    plain = lived(64)
    fast = for_inference(plain, "cpu", True)
    x = torch.randn(1, 1, *shape)
    with torch.inference_mode():
        exact = torch.sigmoid(plain(x))
        made = torch.sigmoid(fast(x.bfloat16().to(memory_format=torch.channels_last)).float())
    assert "Winograd" in kinds(fast)
    assert float((made - exact).abs().max()) < 0.02

"""Figures of the report as inline SVG: maps with scale and colour bars, curves, patterns."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.units import display
from .png import colour, data_url, labelled, levels, scale, wheel

WIDTH, _ROOM = 240, 106  # of a picture, and for its colour bar
Over = Callable[[float, float], str]
PHASE = "rad of phase"  # an angle that is no direction: never in mrad
_INK, _FAINT, _ACCENT = "#1d2430", "#8a93a3", "#c8433a"


def number(value: float, units: str, span: float = 0.0) -> str:
    """Write a value for an axis: 3 digits and a prefix; more digits where `span` is small beside it.

    PHASE stays in rad.
    """
    if units == PHASE:
        return f"{value:.3g} rad"
    if units == "1/m":
        return f"{value * 1e-9:.3g} /nm"
    more = math.floor(math.log10(abs(value) / span)) if span > 0 and value else 0
    return html.escape(display(value, units, 3 + min(6, max(0, more))))


def picture(
    values: NDArray[Any], title: str, units: str = "", pixel: tuple[float, float] | None = None, name: str = "",
    points: NDArray[np.float64] | None = None, note: str = "", bar: str = "m", turn: float = 0.0,
    span: tuple[float, float] | None = None, over: Over | None = None,
) -> str:  # fmt: skip
    """Return a map (ny, nx) as a figure. pixel: (x, y) [bar], None = no scale bar. points: (N, 2) in pixels.

    name: of the colour scale; "signed" has 0 in its middle. turn: a whole turn of a phase, which is all shown. span:
    lowest and highest value shown, None = by the values. over: draws on top, given how large a pixel is (x, y).
    """
    values = np.asarray(values, np.float64)
    name = name or "viridis"
    if turn:
        values = np.mod(values + turn / 2, turn) - turn / 2
    low, high = (-turn / 2, turn / 2) if turn else span or levels(values)
    if name == "signed":
        high = max(abs(low), abs(high))
        low = -high
    return _figure(colour(values, low, high, name), title, pixel, note, bar, (low, high, units, name), points, over)


def vectors(
    x: NDArray[np.float64], y: NDArray[np.float64], title: str, units: str,
    pixel: tuple[float, float] | None = None, note: str = "",
) -> str:  # fmt: skip
    """Return a vector map (x to the right, y down) as a figure: direction as colour, length as brightness.

    The mean vector is taken out, which a beam off the centre gives; said in the caption with the longest shown.
    """
    mean = np.nanmean(x) if np.isfinite(x).any() else 0.0, np.nanmean(y) if np.isfinite(y).any() else 0.0
    x, y = x - mean[0], y - mean[1]
    length = np.hypot(x, y)
    most = float(np.percentile(length[np.isfinite(length)], 99.5)) if np.isfinite(length).any() else 0.0
    told = f"{note}, wheel: direction; brightest: {display(most, units, 3)}"
    told += f"; mean ({display(float(mean[0]), units, 2)}, {display(float(mean[1]), units, 2)}) taken out"
    return _figure(wheel(x, y, most or 1.0), title, pixel, told, "m", None, None)


def labels(values: NDArray[Any], title: str, pixel: tuple[float, float] | None, note: str, bar: str) -> str:
    """Return a map (ny, nx) of the numbers of things as a figure, each in a colour of its own."""
    return _figure(labelled(np.asarray(values, np.float64)), title, pixel, note, bar, None, None, key=False)


def _figure(
    pixels: NDArray[np.uint8], title: str, pixel: tuple[float, float] | None, note: str, bar: str,
    scale_of: tuple[float, float, str, str] | None, points: NDArray[np.float64] | None, over: Over | None = None,
    *, key: bool = True,
) -> str:  # fmt: skip
    ny, nx = pixels.shape[:2]
    aspect = ny / nx if pixel is None else ny * pixel[1] / (nx * pixel[0])
    height = max(40, min(420, round(WIDTH * aspect)))
    width = WIDTH if height < 420 else round(420 / aspect)
    body = [
        f'<image href="{data_url(pixels)}" width="{width}" height="{height}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    ]
    if points is not None:
        for x, y in points:
            at = (x + 0.5) * width / nx, (y + 0.5) * height / ny
            body.append(
                f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3" fill="none" stroke="#fff" stroke-width="1.4"/>'
            )
    if over is not None:
        body.append(over(width / nx, height / ny))
    if pixel is not None:
        body.append(_scale_bar(nx * pixel[0], width, height, bar))
    if key:
        body.append(_wheel(width + 12) if scale_of is None else _colour_bar(width + 12, height, *scale_of))
    shown = html.escape(title) + (f"<small>{html.escape(note)}</small>" if note else "")
    whole = width + _ROOM
    if scale_of is not None:  # numbers with a long unit
        whole = max(whole, width + 36 + round(6.2 * max(len(number(v, scale_of[2])) for v in scale_of[:2])))
    return (
        f'<figure><svg viewBox="0 0 {whole} {height + 2}" width="{whole}" height="{height + 2}" '
        f'role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg><figcaption>{shown}</figcaption></figure>'
    )


def _wheel(x: int) -> str:
    """Return the key of a vector map."""
    at = (np.arange(48) - 23.5) / 23.5
    right, down = np.broadcast_to(at, (48, 48)), np.broadcast_to(at[:, None], (48, 48))
    pixels = wheel(right, down, 1.0)
    pixels[np.hypot(right, down) > 1] = 255
    return f'<image href="{data_url(pixels)}" x="{x}" y="4" width="64" height="64"/>'


def _scale_bar(across: float, width: int, height: int, units: str) -> str:
    length = _nice(across / 4)
    size = width * length / across
    y = height - 14
    return (
        f'<rect x="10" y="{y - 19}" width="{size + 12:.1f}" height="27" rx="3" fill="#000" opacity="0.45"/>'
        f'<rect x="16" y="{y}" width="{size:.1f}" height="3.5" fill="#fff"/>'
        f'<text x="{16 + size / 2:.1f}" y="{y - 5}" fill="#fff" text-anchor="middle">{number(length, units)}</text>'
    )


def _colour_bar(x: int, height: int, low: float, high: float, units: str, name: str) -> str:
    url = data_url(np.ascontiguousarray(scale(name)[::-1][:, None, :]))
    middle = (low + high) / 2
    shown = ((high, 9.0), (middle, height / 2 + 4), (low, height - 1.0))
    labels = [(0.0 if abs(v) < 1e-3 * (high - low) else v, y) for v, y in shown if height > 90 or v != middle]
    text = "".join(
        f'<text x="{x + 18}" y="{y:.1f}" fill="{_INK}">{number(v, units, high - low)}</text>' for v, y in labels
    )
    return f'<image href="{url}" x="{x}" width="12" height="{height}" preserveAspectRatio="none"/>{text}'


def curves(x: NDArray[np.float64], ys: NDArray[Any], x_label: str, y_label: str, title: str, note: str = "") -> str:
    """Return curves (N, E) over x (E,): all of them faint, their median strong; a loop is drawn closed."""
    ys = np.asarray(ys, np.float64)
    width, height, left, bottom = 344, 230, 60, 40
    finite = ys[np.isfinite(ys)]
    if not finite.size:
        return ""
    power = 3 * math.floor(math.log10(float(np.abs(finite).max()) or 1.0) / 3)
    if power not in (-3, 0):  # ticks of few digits: the power of ten goes to the label
        ys, finite = ys / 10.0**power, finite / 10.0**power
        y_label = y_label.replace("[", f"[1e{power} ") if "[" in y_label else f"{y_label} / 1e{power}"
    (x0, x1), (y0, y1) = _padded(x), _padded(np.percentile(finite, (0.2, 99.8) if len(ys) > 3 else (0, 100)))

    def line(y: NDArray[Any], style: str) -> str:
        px = left + (x - x0) / (x1 - x0) * (width - left - 10)
        py = height - bottom - (np.clip(y, y0, y1) - y0) / (y1 - y0) * (height - bottom - 10)
        closed = "Z" if len(x) > 2 and abs(x[0] - x[-1]) < 0.1 * (x1 - x0) else ""
        path = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True) if math.isfinite(b))
        return f'<path d="M{path}{closed}" fill="none" {style}/>'

    few = ys[np.linspace(0, len(ys) - 1, min(len(ys), 60)).round().astype(int)]
    opacity = 0.9 if len(few) < 4 else 0.22
    body = [line(y, f'stroke="#31688e" stroke-width="1" opacity="{opacity}"') for y in few]
    if len(ys) > 3:
        body.append(line(np.nanmedian(ys, axis=0), f'stroke="{_ACCENT}" stroke-width="2.2"'))
    axes = _frame(width, height, left, bottom, (x0, x1), (y0, y1), x_label, y_label)
    shown = html.escape(title) + (f"<small>{html.escape(note)}</small>" if note else "")
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}">{axes}{"".join(body)}</svg>'
        f"<figcaption>{shown}</figcaption></figure>"
    )


def loops(x: NDArray[np.float64], ys: NDArray[Any], x_label: str, y_label: str, title: str) -> str:
    """Return five of many loops (N, E), from small to large area, each on its own scale."""
    ys = np.asarray(ys, np.float64)
    areas = np.abs(ys @ ((np.roll(x, -1) - np.roll(x, 1)) / 2))
    order = np.argsort(np.nan_to_num(areas))
    chosen = order[np.round(np.array([0.1, 0.35, 0.5, 0.7, 0.9]) * (len(order) - 1)).astype(int)]
    return "".join(
        curves(
            x,
            ys[i : i + 1],
            x_label,
            y_label,
            f"{title} {i + 1}",
            f"area: number {rank} of {len(ys)} from the smallest",
        )
        for i, rank in ((int(i), int(np.flatnonzero(order == i)[0]) + 1) for i in chosen)
    )


def _frame(
    width: int, height: int, left: int, bottom: int, xs: tuple[float, float], ys: tuple[float, float],
    x_label: str, y_label: str,
) -> str:  # fmt: skip
    right, low = width - 10, height - bottom
    made = [f'<path d="M{left},10V{low}H{right}" fill="none" stroke="{_FAINT}"/>']
    for value in _ticks(*xs):
        at = left + (value - xs[0]) / (xs[1] - xs[0]) * (right - left)
        made.append(f'<path d="M{at:.1f},10V{low}" stroke="#e7e9ee"/>')
        made.append(f'<text x="{at:.1f}" y="{low + 15}" text-anchor="middle" fill="{_INK}">{value:.4g}</text>')
    for value in _ticks(*ys):
        at = low - (value - ys[0]) / (ys[1] - ys[0]) * (low - 10)
        made.append(f'<path d="M{left},{at:.1f}H{right}" stroke="#e7e9ee"/>')
        made.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end" fill="{_INK}">{value:.3g}</text>')
    middle = (left + right) / 2
    made.append(
        f'<text x="{middle}" y="{height - 6}" text-anchor="middle" fill="{_FAINT}">{html.escape(x_label)}</text>'
    )
    centre = low / 2
    made.append(
        f'<text x="12" y="{centre}" transform="rotate(-90 12 {centre})" text-anchor="middle" '
        f'fill="{_FAINT}">{html.escape(y_label)}</text>'
    )
    return "".join(made)


def _ticks(low: float, high: float) -> Sequence[float]:
    step = _nice((high - low) / 4)
    first = math.ceil(low / step) * step
    return [round(first + i * step, 12 - math.floor(math.log10(step))) for i in range(int((high - first) / step) + 1)]


def _nice(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return float(next((n for n in (5, 2, 1) if n * power <= value), 1) * power)


def _padded(values: NDArray[Any]) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    pad = (high - low) * 0.04 or abs(low) * 0.1 or 0.5
    return low - pad, high + pad

"""The losses of a training as a picture: one line a stage, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760, 420, 64, 44, 20
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#7b4fa3", "#00798c", "#8c564b")


def curves(names: Sequence[str], losses: Sequence[Sequence[float]]) -> str:
    """Return an SVG of the losses, each smoothed over a fiftieth of its length, against the cycle."""
    lines = [(name, _smooth(np.asarray(each, np.float64))) for name, each in zip(names, losses, strict=True) if each]
    if not lines:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"/>'
    low = min(float(np.log10(each).min()) for _, each in lines)
    high = max(float(np.log10(each).max()) for _, each in lines)
    high = max(high, low + 0.05)
    most = max(len(each) for _, each in lines)
    across, down = _WIDTH - _LEFT - 120, _HEIGHT - _TOP - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<path d="M{_LEFT} {_TOP}V{_TOP + down}H{_LEFT + across}" fill="none" stroke="#444"/>',
        f'<text x="{_LEFT + across / 2}" y="{_HEIGHT - 8}" text-anchor="middle">cycle (batches)</text>',
        f'<text transform="translate(14 {_TOP + down / 2}) rotate(-90)" text-anchor="middle">cross entropy</text>',
    ]
    for value in np.linspace(low, high, 5):
        y = _TOP + down * (high - value) / (high - low)
        parts.append(f'<path d="M{_LEFT - 4} {y:.1f}h4" stroke="#444"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{10**value:.3f}</text>')
    for share in (0.0, 0.5, 1.0):
        x = _LEFT + across * share
        parts.append(f'<path d="M{x:.1f} {_TOP + down}v4" stroke="#444"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP + down + 17}" text-anchor="middle">{most * share:.0f}</text>')
    for i, (name, each) in enumerate(lines):
        colour = _COLOURS[i % len(_COLOURS)]
        xs = _LEFT + across * np.arange(1, len(each) + 1) / most
        ys = _TOP + down * (high - np.log10(each)) / (high - low)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        at = _TOP + 14 + 17 * i
        parts.append(f'<path d="M{_WIDTH - 112} {at - 4}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_WIDTH - 88}" y="{at}">{escape(name)}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return running means over a fiftieth of the length, as many points as 400 at most."""
    width = max(1, len(values) // 50)
    made = np.convolve(values, np.ones(width) / width, "valid")
    made = np.concatenate([np.full(len(values) - len(made), made[0]), made])
    step = max(1, len(made) // 400)
    kept: NDArray[np.float64] = np.maximum(made[::step], 1e-6)
    return np.repeat(kept, step)[: len(values)] if step > 1 else kept

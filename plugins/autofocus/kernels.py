"""The three sums that autofocus climbs on, for one trial lens."""

from __future__ import annotations

import math
from typing import Any

import numba as nb


@nb.njit(nogil=True, cache=True)
def aligned(re: Any, im: Any, offset: Any, qx: Any, qy: Any, lens: Any, out: Any) -> None:
    """Add to `out` (Q,) the part of the cross spectra (P, Q) that a lens (C10, C12a, C12b) [m] lines up.

    offset (P, 2): (x, y) between the two pixels [rad]; their images are shifted by H offset. q [1/m].
    """
    for p in range(re.shape[0]):
        bx, by = offset[p, 0], offset[p, 1]
        shift_x = 2 * math.pi * ((lens[0] + lens[1]) * bx + lens[2] * by)
        shift_y = 2 * math.pi * (lens[2] * bx + (lens[0] - lens[1]) * by)
        for i in range(re.shape[1]):
            phase = qx[i] * shift_x + qy[i] * shift_y
            out[i] += re[p, i] * math.cos(phase) + im[p, i] * math.sin(phase)


@nb.njit(nogil=True, cache=True)
def explained(values: Any, q: Any, k: Any, convergence: Any, lens: Any, out: Any) -> None:
    """Write -n log(1 - R^2) of the interference of each frequency into `out` (Q,); n: pixels with interference.

    values (Q, K). q (2, Q), k (2, K): (x, y) [rad]. lens: (C10, C12a, C12b) pi / wavelength [rad/rad^2].
    """
    limit = convergence * convergence
    c0, c1, c2 = lens[0], lens[1], lens[2]
    for i in range(values.shape[0]):
        qx, qy = q[0, i], q[1, i]
        own = c0 * (qx * qx + qy * qy) + c1 * (qx * qx - qy * qy) + 2 * c2 * qx * qy
        number, minus, plus, both = 0, 0, 0, 0
        minus_re = minus_im = plus_re = plus_im = power = 0.0
        for j in range(values.shape[1]):
            x, y = k[0, j], k[1, j]
            lower = (x - qx) ** 2 + (y - qy) ** 2 < limit
            upper = (x + qx) ** 2 + (y + qy) ** 2 < limit
            if not (lower or upper):
                continue
            shared = 2 * (c0 * (x * qx + y * qy) + c1 * (x * qx - y * qy) + c2 * (x * qy + y * qx))
            cosine, sine = math.cos(shared), math.sin(shared)
            value = values[i, j]
            re = value.real * cosine + value.imag * sine
            im = value.imag * cosine - value.real * sine
            power += re * re + im * im
            number += 1
            if lower:
                minus += 1
                minus_re += re
                minus_im += im
            if upper:
                plus += 1
                plus_re += re
                plus_im += im
            if lower and upper:
                both += 1
        norm = minus + plus - 2 * both * math.cos(2 * own)
        if number < 8 or power == 0.0 or norm < 1e-3 * number:
            out[i] = 0.0
            continue
        cosine, sine = math.cos(own), math.sin(own)
        re = (minus_re * cosine - minus_im * sine) - (plus_re * cosine + plus_im * sine)
        im = (minus_re * sine + minus_im * cosine) - (plus_im * cosine - plus_re * sine)
        share = min(0.999, (re * re + im * im) / (norm * power))
        out[i] = -number * math.log(1.0 - share)


@nb.njit(nogil=True, cache=True)
def shifted(values: Any, q: Any, k: Any, lens: Any, out: Any) -> None:
    """Write -K log(1 - R^2) of one image, shifted in every pixel by H k, into `out` (Q,).

    values (Q, K). q (2, Q): (x, y) [1/m]. k (2, K): (x, y) [rad]. lens: (C10, C12a, C12b) [m].
    """
    number = values.shape[1]
    for i in range(values.shape[0]):
        x = 2 * math.pi * ((lens[0] + lens[1]) * q[0, i] + lens[2] * q[1, i])
        y = 2 * math.pi * (lens[2] * q[0, i] + (lens[0] - lens[1]) * q[1, i])
        re = im = power = 0.0
        for j in range(number):
            phase = x * k[0, j] + y * k[1, j]
            cosine, sine = math.cos(phase), math.sin(phase)
            value = values[i, j]
            re += value.real * cosine + value.imag * sine
            im += value.imag * cosine - value.real * sine
            power += value.real * value.real + value.imag * value.imag
        if power == 0.0:
            out[i] = 0.0
            continue
        share = min(1.0 - 1e-9, (re * re + im * im) / (number * power))
        out[i] = -number * math.log(1.0 - share)

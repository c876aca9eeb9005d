"""Exact Gaussian processes, several side by side, each behind a feature network of its own or behind none.

The kernel is a radial basis function or Matern 5/2 with a length scale for each feature; behind a network that makes
it a deep kernel (Wilson, Hu, Salakhutdinov and Xing, AISTATS 2016). All parameters are learned together by the
marginal likelihood, with priors: a network alone lets it overfit (Ober, Rasmussen and van der Wilk, UAI 2021).
Members are trained on different subsets of the observations and predict from all of them; what each says of the
observations that it was not trained on shows how far it can be trusted. All is dense and exact, in float64, in one
batch of matrices.

What earlier measurements did to a place that was measured later is an error that all observations share: its
covariance is that of unknown weights, one for each column of `history`, and it is no part of what is predicted.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from .library import torch_library

Rows = NDArray[np.float64]
LENGTH = (0.05, 50.0)  # bounds of a length scale, in spreads of a feature
SCALE = (0.1, 10.0)  # of the signal's deviation, in spreads of the values
NOISE = (0.01, 2.0)  # of the noise's
WEAR = (0.001, 2.0)  # of the deviation of what one measurement right beside changes
_WEAR = 0.1  # middle of its prior
_JITTERS = (1e-8, 1e-6, 1e-4)
_HARD = 1e-12
_MEMORY = (0.9, 0.999)  # of Adam, for the slope and its square


class Singular(Exception):
    """A covariance matrix without a Cholesky factor, whatever the jitter."""


class Diverged(Exception):
    """A loss that is not finite, or ended far above where it began."""


class Shape(msgspec.Struct, frozen=True):
    """Of the model. inputs: features of a place. layers: widths of the network, () = none. members: side by side.

    steps, again: of Adam in a fit and in an update. rate: of Adam for the kernel; `network_rate` for the network.
    weight_decay: prior precision of the network's weights. noise_spread: of the noise's logarithm in
    its prior.
    """

    inputs: int
    layers: tuple[int, ...] = ()
    kernel: Literal["rbf", "matern"] = "rbf"
    members: int = 1
    steps: int = 80
    again: int = 10
    rate: float = 0.05
    network_rate: float = 0.01
    weight_decay: float = 1.0
    noise_spread: float = 1.5

    @property
    def outputs(self) -> int:
        """How many features the kernel sees."""
        return self.layers[-1] if self.layers else self.inputs


class Kernels:
    """The parameters of `shape.members` Gaussian processes, and what follows from them; tensors (m, ...) float64."""

    def __init__(self, shape: Shape, seed: int, some: Rows) -> None:
        """some: (k, inputs) features that are typical, by which the network's outputs are put to scale."""
        torch = torch_library()
        self.shape = shape
        self._torch = torch
        chance = torch.Generator().manual_seed(seed)
        m, widths = shape.members, (shape.inputs, *shape.layers)
        self.layers: list[tuple[Any, Any]] = []
        for taken, made in itertools.pairwise(widths):
            weight = torch.randn(m, taken, made, generator=chance, dtype=torch.float64) * math.sqrt(2.0 / taken)
            bias = 0.1 * torch.randn(m, 1, made, generator=chance, dtype=torch.float64)
            self.layers.append((weight, bias))
        if self.layers:
            self._put_to_scale(torch.from_numpy(some))
        middle = 0.0 if shape.layers else 0.5 + 0.5 * math.log(shape.inputs)
        self.length = _raw(torch.full((m, 1, shape.outputs), middle, dtype=torch.float64), LENGTH)
        self.scale = _raw(torch.zeros(m, 1, 1, dtype=torch.float64), SCALE)
        self.noise = _raw(torch.full((m, 1, 1), math.log(0.2), dtype=torch.float64), NOISE)
        self.mean = torch.zeros(m, 1, 1, dtype=torch.float64)
        self.wear = _raw(torch.full((m, 1, 1), math.log(_WEAR), dtype=torch.float64), WEAR)
        self._middle = middle

    def _put_to_scale(self, some: Any) -> None:
        """Let every output of the network have mean 0 and deviation 1 over these places."""
        made = self.features(some)
        deviation = made.std(dim=1, keepdim=True).clamp_min(1e-6)
        weight, bias = self.layers[-1]
        self.layers[-1] = (weight / deviation, (bias - made.mean(dim=1, keepdim=True)) / deviation)

    @property
    def parameters(self) -> list[Any]:
        """Every tensor that is learned."""
        network = [each for layer in self.layers for each in layer]
        return [*network, self.length, self.scale, self.noise, self.mean, self.wear]

    def features(self, x: Any) -> Any:
        """Return what the kernel sees, (m, n, outputs), of x (n, inputs) or (m, n, inputs)."""
        z = x if x.dim() == 3 else x.expand(self.shape.members, *x.shape)
        for i, (weight, bias) in enumerate(self.layers):
            z = self._torch.baddbmm(bias, z, weight)
            if i + 1 < len(self.layers):
                z = self._torch.relu(z)
        return z

    def covariance(self, a: Any, b: Any) -> Any:
        """Return the kernel (m, na, nb) between features a (m, na, q) and b (m, nb, q)."""
        torch, length = self._torch, _bounded(self.length, LENGTH)
        a, b = a / length, b / length
        squared = (a * a).sum(-1, keepdim=True) + (b * b).sum(-1)[:, None, :] - 2 * torch.bmm(a, b.mT)
        squared = squared.clamp_min(_HARD)
        strength = _bounded(self.scale, SCALE) ** 2
        if self.shape.kernel == "rbf":
            return strength * torch.exp(-0.5 * squared)
        distance = torch.sqrt(5.0 * squared)
        return strength * (1 + distance + distance * distance / 3) * torch.exp(-distance)

    def noises(self, sigma: Any) -> Any:
        """Return the variance (m, n) of observations whose own standard errors are sigma (m, n)."""
        return _bounded(self.noise, NOISE)[:, :, 0] ** 2 + sigma**2

    def worn(self, a: Any, b: Any) -> Any:
        """Return the covariance (m, na, nb) of what histories a (m, na, h) and b (m, nb, h) did to observations."""
        return _bounded(self.wear, WEAR) ** 2 * self._torch.bmm(a, b.mT)

    def variance(self) -> Any:
        """Return the kernel (m, 1) of a place with itself."""
        return _bounded(self.scale, SCALE)[:, :, 0] ** 2

    def length_scales(self) -> Any:
        """Return the length scales (m, 1, outputs), in spreads of the features."""
        return _bounded(self.length, LENGTH)

    def loss(self, x: Any, y: Any, sigma: Any, history: Any) -> tuple[float, Any]:
        """Return minus the log posterior in nats, summed over members, and a tensor that has its gradient.

        x (m, n, d), y and sigma (m, n), history (m, n, h). By the covariance K the gradient is (K^-1 - a a^T) / 2,
        a = K^-1 (y - mean) (Rasmussen and Williams 2006, eq. 5.9): written down, it costs half of what it does
        through the factors.
        """
        torch = self._torch
        z = self.features(x)
        covariance = self.covariance(z, z) + torch.diag_embed(self.noises(sigma)) + self.worn(history, history)
        off = y[:, :, None] - self.mean
        prior = self._prior().sum()
        with torch.no_grad():
            factor = cholesky(covariance)
            inverse = torch.cholesky_inverse(factor)
            solved = torch.bmm(inverse, off)
            value = 0.5 * (solved * off).sum() + torch.log(factor.diagonal(dim1=1, dim2=2)).sum()
            value = float(value + 0.5 * y.numel() * math.log(2 * math.pi) + prior)
            slope = 0.5 * (inverse - torch.bmm(solved, solved.mT))
        return value, (covariance * slope).sum() + (off * solved).sum() + prior

    def _prior(self) -> Any:
        """Return minus the log prior of every member (m,)."""
        spread = 0.7 if self.layers else 1.0
        logs = _log_bounded(self.length, LENGTH)
        made = 0.5 * (((logs - self._middle) / spread) ** 2).sum(dim=(1, 2))
        made = made + 0.5 * (_log_bounded(self.scale, SCALE) ** 2).sum(dim=(1, 2))
        made = made + 0.5 * (((_log_bounded(self.noise, NOISE) - math.log(0.2)) / self.shape.noise_spread) ** 2).sum(
            dim=(1, 2)
        )
        made = made + 0.5 * (self.mean**2).sum(dim=(1, 2))
        made = made + 0.5 * ((_log_bounded(self.wear, WEAR) - math.log(_WEAR)) ** 2).sum(dim=(1, 2))
        for weight, _ in self.layers:
            made = made + 0.5 * self.shape.weight_decay * (weight**2).sum(dim=(1, 2))
        return made

    def learn(self, x: Any, y: Any, sigma: Any, history: Any, steps: int, pace: float = 1.0) -> None:
        """Go `steps` steps of Adam at `pace` times its rates.

        Raises Singular or Diverged, and then the parameters are what they were.
        """
        torch, before = self._torch, [each.detach().clone() for each in self.parameters]
        try:
            self._learn(x, y, sigma, history, steps, pace)
        except (Singular, Diverged):
            self.set_parameters(before)
            raise
        if not all(bool(torch.isfinite(each).all()) for each in self.parameters):
            self.set_parameters(before)
            raise Diverged("a parameter is no number")

    def _learn(self, x: Any, y: Any, sigma: Any, history: Any, steps: int, pace: float) -> None:
        """Adam (Kingma and Ba, ICLR 2015), all parameters as one vector.

        torch's own loads its compiler at first use, a second and 70 MB, and takes longer than the rest of a step.
        """
        torch, every = self._torch, self.parameters
        sizes = [each.numel() for each in every]
        rates = [self.shape.network_rate] * (2 * len(self.layers)) + [self.shape.rate] * 5
        rate = pace * torch.cat([torch.full((n,), r, dtype=torch.float64) for n, r in zip(sizes, rates, strict=True)])
        vector = torch.cat([each.reshape(-1) for each in every]).requires_grad_()
        mean, square = torch.zeros_like(rate), torch.zeros_like(rate)
        first = last = math.nan
        for step in range(1, steps + 1):
            parts = vector.split(sizes)
            self.set_parameters([part.view(each.shape) for part, each in zip(parts, every, strict=True)])
            last, loss = self.loss(x, y, sigma, history)
            if not math.isfinite(last):
                raise Diverged(f"the loss is {last} at step {step}")
            first = last if step == 1 else first
            (slope,) = torch.autograd.grad(loss, vector)
            mean.lerp_(slope, 1 - _MEMORY[0])
            square.mul_(_MEMORY[1]).addcmul_(slope, slope, value=1 - _MEMORY[1])
            with torch.no_grad():
                deviation = (square / (1 - _MEMORY[1] ** step)).sqrt_().add_(1e-8)
                vector.sub_(rate * mean / ((1 - _MEMORY[0] ** step) * deviation))
        parts = vector.detach().split(sizes)
        self.set_parameters([part.view(each.shape) for part, each in zip(parts, every, strict=True)])
        if last > first + 0.1 * abs(first) + 10:
            raise Diverged(f"the loss rose from {first:.4g} to {last:.4g}")

    def member(self, j: int) -> Kernels:
        """Return member j alone, of parameters that are views of these."""
        alone = copy.copy(self)
        alone.set_parameters([each[j : j + 1] for each in self.parameters])
        alone.shape = msgspec.structs.replace(self.shape, members=1)
        return alone

    def set_parameters(self, parameters: list[Any]) -> None:
        """Put tensors in the place of `parameters`, in that order."""
        count = len(self.layers)
        self.layers = [(parameters[2 * i], parameters[2 * i + 1]) for i in range(count)]
        self.length, self.scale, self.noise, self.mean, self.wear = parameters[2 * count :]

    def at_bound(self) -> str:
        """Return in words when the length scales are at a bound of theirs, in the members' median."""
        logs = _log_bounded(self.length, LENGTH).detach().median(dim=0).values
        low, high = math.log(LENGTH[0]), math.log(LENGTH[1])
        margin = 0.03 * (high - low)
        if bool((logs > high - margin).all()):
            return "every length scale is at its upper bound: no feature matters to the prediction"
        if bool((logs < low + margin).all()):
            return "every length scale is at its lower bound: each observation stands alone"
        return ""


def cholesky(matrix: Any) -> Any:
    """Return the lower Cholesky factors of (m, n, n), with as little jitter as it takes; raises Singular."""
    torch = torch_library()
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not bool(info.any()):
        return factor
    size = matrix.detach().diagonal(dim1=1, dim2=2).mean(dim=1)
    if not bool(torch.isfinite(size).all()):
        raise Singular("the covariance holds what is no number")
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for jitter in _JITTERS:
        factor, info = torch.linalg.cholesky_ex(matrix + jitter * size[:, None, None] * eye)
        if not bool(info.any()):
            return factor
    raise Singular(f"the covariance of {matrix.shape[-1]} observations is singular")


def _log_bounded(raw: Any, bounds: tuple[float, float]) -> Any:
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return low + (high - low) * raw.sigmoid()


def _bounded(raw: Any, bounds: tuple[float, float]) -> Any:
    return _log_bounded(raw, bounds).exp()


def _raw(logs: Any, bounds: tuple[float, float]) -> Any:
    """Return the numbers whose bounded form has these logarithms."""
    low, high = math.log(bounds[0]), math.log(bounds[1])
    return ((logs - low) / (high - low)).logit()

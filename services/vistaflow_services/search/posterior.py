"""The predictions of several Gaussian processes over one set of points, computed together.

A suggestion asks thousands of times for the mean, deviation and slopes of the objective and of
every constraint at one point. Those processes share their points, so one set of distances and
a few stacked products serve them all.

    symbol     shape   unit         meaning
    X          (n, p)  1            rows of features at which the quantities were observed
    y          (m, n)  quantity's   observed values; z = (y - centre) / scale, without a unit
    l          (m, p)  1            length of each feature; r = |(x - x') / l|
    k(r)               1            Matern 5/2: (1 + q + q^2 / 3) exp(-q), q = sqrt(5) r
    g          (m,)    1            noise variance over process variance
    L L' = K   (n, n)  1            K = k(X, X) + g I, and W = L^-1
    b          (m,)    1            constant trend 1'K^-1 z / 1'K^-1 1
    s^2        (m,)    1            process variance (z - b)'K^-1 (z - b) / (n - 1)
    mean(x)    (m,)    quantity's   b + k(x, X) K^-1 (z - b), back on the scale of y
    sd(x)^2    (m,)    its square   s^2 (1 - |W k|^2 + (1 - 1'K^-1 k)^2 / 1'K^-1 1);
                                    of a new run s^2 g more
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from vistaflow_services.surrogates.families.gaussian_process import cholesky_with_jitter
from vistaflow_services.surrogates.surrogate import center_and_spread, magnitude_unit

Array = NDArray[np.float64]

_ROOT5 = float(np.sqrt(5.0))
_TINY = 1e-12
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """One fitted quantity: its values and the hyper-parameters learnt for them."""

    values: Array
    """What was observed at the rows (n,)."""

    log_lengths: Array
    """Log length of each feature (p,)."""

    log_noise: float
    """Log of the ratio of noise variance to process variance."""


class Posterior:
    """Matérn 5/2 processes with a constant trend over shared rows (n, p), one a quantity (m).

    Universal kriging: deviations carry the uncertainty of the constant (Santner, Williams
    and Notz, "The Design and Analysis of Computer Experiments", 2003, chapter 4).
    """

    def __init__(self, rows: Array, quantities: list[Quantity]) -> None:
        self.rows = rows
        self.quantities = quantities
        n, m = len(rows), len(quantities)
        self._inverse = np.array([np.exp(-quantity.log_lengths) for quantity in quantities])
        self._whiten = np.empty((m, n, n))
        self._weights = np.empty((m, n))
        self._pull = np.empty((m, n))
        self._base = np.empty((m, 1))
        self._mean = np.empty((m, 1))
        self._variance = np.empty((m, 1))
        self._unit = np.array([magnitude_unit(quantity.values) for quantity in quantities])
        for j, quantity in enumerate(quantities):
            values = quantity.values / self._unit[j]
            centre, scale = _standard(values)
            z = (values - centre) / scale
            scaled = rows * self._inverse[j]
            norms = np.sum(scaled * scaled, axis=1)
            squares = np.maximum(norms[:, None] + norms[None] - 2.0 * scaled @ scaled.T, 0.0)
            correlation = _matern(np.sqrt(squares))
            correlation[np.diag_indices(n)] = 1.0 + np.exp(quantity.log_noise)
            lower, _ = cholesky_with_jitter(correlation)
            whiten = np.tril(lapack.dtrtri(lower, lower=1)[0])
            ones = whiten.sum(axis=1)
            white = whiten @ z
            information = float(ones @ ones)
            constant = float(ones @ white) / information
            residual = white - constant * ones
            variance = max(float(residual @ residual) / max(1, n - 1), _TINY)
            self._whiten[j] = whiten
            self._weights[j] = scale * (whiten.T @ residual)
            self._pull[j] = whiten.T @ ones / information
            self._base[j] = 1.0 + 1.0 / information
            self._mean[j] = centre + scale * constant
            self._variance[j] = variance * scale**2

    def predict(self, inputs: Array, *, noise: bool = False) -> tuple[Array, Array]:
        """Mean and standard deviation, each (m, k), at rows (k, p).

        With `noise` the deviation is that of a new run, else that of the mean of many.
        """
        means = np.empty((len(self.quantities), len(inputs)))
        deviations = np.empty_like(means)
        for start in range(0, len(inputs), _CHUNK):
            part = slice(start, start + _CHUNK)
            for j in range(len(self.quantities)):
                a, b = inputs[part] * self._inverse[j], self.rows * self._inverse[j]
                squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2.0 * a @ b.T
                k = _matern(np.sqrt(np.maximum(squares, 0.0)))
                white = k @ self._whiten[j].T
                ratio = self._base[j] - 2.0 * k @ self._pull[j]
                ratio -= np.einsum("kn,kn->k", white, white) - (k @ self._pull[j]) ** 2 * (
                    1.0 / (self._base[j] - 1.0)
                )
                means[j, part] = self._mean[j] + k @ self._weights[j]
                ratio = np.maximum(ratio, _TINY)
                if noise:
                    ratio = ratio + np.exp(self.quantities[j].log_noise)
                deviations[j, part] = np.sqrt(self._variance[j] * ratio)
        return means * self._unit[:, None], deviations * self._unit[:, None]

    def gradient(self, point: Array) -> tuple[Array, Array, Array, Array]:
        """Mean (m,), deviation (m,) and the slopes of each (m, p), at one row (p,)."""
        apart = point - self.rows
        squared_inverse = self._inverse**2
        distance = np.sqrt(squared_inverse @ (apart * apart).T)
        decay = np.exp(-_ROOT5 * distance)
        k = (1.0 + _ROOT5 * distance + (5.0 / 3.0) * distance**2) * decay
        slope = -(5.0 / 3.0) * (1.0 + _ROOT5 * distance) * decay
        white = np.matmul(self._whiten, k[:, :, None])
        pulled = np.sum(self._pull * k, axis=1, keepdims=True)
        information = 1.0 / (self._base - 1.0)
        ratio = self._base - 2.0 * pulled - np.sum(white * white, axis=1)
        ratio += pulled**2 * information
        sd = np.sqrt(self._variance * np.maximum(ratio, _TINY))
        solved = np.matmul(white.transpose(0, 2, 1), self._whiten)[:, 0, :]
        inner = self._pull * (1.0 - pulled * information) + solved
        mean = self._mean[:, 0] + np.sum(k * self._weights, axis=1)
        dmean = ((slope * self._weights) @ apart) * squared_inverse
        dratio = -2.0 * ((slope * inner) @ apart) * squared_inverse
        dratio[ratio[:, 0] <= _TINY] = 0.0
        dsd = 0.5 * self._variance * dratio / sd
        unit = self._unit[:, None]
        return mean * self._unit, sd[:, 0] * self._unit, dmean * unit, dsd * unit

    def believing(self, inputs: Array) -> Self:
        """These processes as if their own means had been observed at rows (k, p)."""
        means, _ = self.predict(inputs)
        believed = [
            Quantity(
                values=np.append(quantity.values, mean),
                log_lengths=quantity.log_lengths,
                log_noise=quantity.log_noise,
            )
            for quantity, mean in zip(self.quantities, means, strict=True)
        ]
        return type(self)(np.vstack([self.rows, inputs]), believed)


def _standard(values: Array) -> tuple[float, float]:
    centre, spread = center_and_spread(values)
    return centre, spread or 1.0


def _matern(distance: Array) -> Array:
    scaled = _ROOT5 * distance
    return np.asarray((1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled), dtype=np.float64)

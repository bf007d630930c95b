"""Gaussian process regression in numpy and scipy: the model of choice for a smooth simulator.

    symbol         shape   unit     meaning
    X              (n, d)  1        features of the rows, in the unit cube
    z              (n,)    1        responses, centred and divided by their spread
    F              (n, q)  1        trend columns: 1, then X - 1/2, then (X - 1/2)^2
    l              (d,)    1        length of each feature; r = |(x - x') / l|
    k(r)                   1        correlation, `kernels.covariance`
    nu                     1        noise variance over process variance
    theta          (d+1,)  1        log l and log nu, what the likelihood is maximised over
    K = L L'       (n, n)  1        k(X, X) + nu I and its Cholesky factor
    Q R = L^-1 F   (n, q)  1        QR decomposition of the whitened trend
    beta           (q,)    1        trend coefficients (F'K^-1 F)^-1 F'K^-1 z
    w              (n,)    1        weights K^-1 (z - F beta)
    s^2                    1        process variance (z - F beta)'w / (n - q)
    P              (n, n)  1        K^-1 - K^-1 F (F'K^-1 F)^-1 F'K^-1, so that w = P z
    mean(x)                1        f(x)'beta + k(x)'w
    var(x)                 1        s^2 (1 - k'K^-1 k + |R^-T (f - F'K^-1 k)|^2); + s^2 nu for a run

Sources: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, sections 2.7 and
5.4; Santner, Williams and Notz, "The Design and Analysis of Computer Experiments", 2003, chapters 3
and 4 (universal kriging, restricted likelihood).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self, cast, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.surrogates.families.factors import (
    TINY,
    Factors,
    factor,
)
from vistaflow_services.surrogates.families.factors import (
    cholesky_with_jitter as cholesky_with_jitter,
)
from vistaflow_services.surrogates.families.kernels import (
    KernelName,
    covariance,
    covariance_and_slope,
)
from vistaflow_services.surrogates.surrogate import (
    Arrays,
    Floats,
    Integers,
    as_matrix,
    as_training,
    center_and_spread,
)

Trend = Literal[0, 1, 2]

MAX_ROWS = 1500
"""Most rows a process keeps: its matrices are then 18 MB each."""

MAX_LIKELIHOOD_ROWS = 500
"""Most rows the likelihood is maximised on; above, the lengths come from that many of them."""

_LOG_LENGTH_BOUNDS = (np.log(0.02), np.log(50.0))
_LOG_NOISE_BOUNDS = (np.log(1e-8), np.log(2.0))
_LENGTH_PRIOR_SD = 1.2
_NOISE_PRIOR = (np.log(1e-5), 3.0)


class GaussianProcess:
    """Gaussian process with a trend, one length per feature and learnt noise.

    Lengths and noise maximise the restricted likelihood times weak priors (lengths log-normal
    about 0.5 d^(1/4) of the unit cube, noise about 1e-5 of the process variance) by L-BFGS-B with
    analytic gradients from several starts. Trend coefficients and process variance are profiled
    out, and predictions carry the uncertainty of the trend (universal kriging; Santner, Williams
    and Notz, "The Design and Analysis of Computer Experiments", 2003, chapters 3 and 4).

    Rows beyond `MAX_ROWS` are thinned to that many by a seeded draw.
    """

    def __init__(
        self,
        *,
        kernel: KernelName = "matern52",
        trend: Trend = 0,
        noise: Literal["learn"] | float = "learn",
        starts: int = 3,
        seed: int = 0,
        max_iterations: int = 60,
    ) -> None:
        """Describes the process.

        Args:
            kernel: `rbf` for analytic responses, `matern52` for rougher ones.
            trend: 0 constant, 1 linear, 2 linear and squares. Lowered by `fit` when there are
                fewer than two rows a coefficient.
            noise: "learn", or the fixed ratio of noise variance to process variance.
            starts: Places the likelihood search starts from.
            seed: Decides the starts after the first, and the thinning.
            max_iterations: Of each search.
        """
        if kernel not in get_args(KernelName):
            raise ValueError(f"kernel must be one of {', '.join(get_args(KernelName))}")
        if trend not in get_args(Trend):
            raise ValueError("trend must be 0, 1 or 2")
        if noise != "learn" and not 0.0 <= float(noise) < np.inf:
            raise ValueError("noise must be 'learn' or a ratio >= 0")
        self.kernel: KernelName = kernel
        self.trend: Trend = trend
        self.noise: Literal["learn"] | float = noise
        self.starts = max(1, starts)
        self.seed = seed
        self.max_iterations = max_iterations
        self.X: Floats = np.empty((0, 0))
        """The rows learnt from (n, d)."""
        self._z: Floats = np.empty(0)
        self._center, self._scale = 0.0, 1.0
        self._log: Floats = np.empty(0)
        self._trend_columns_used: Integers = np.zeros(1, np.int64)
        self._factors: Factors | None = None
        self._inverse: Floats = np.empty(0)
        self.calibration = 1.0
        """By what deviations are multiplied: above 1 when cross-validation found them too small."""

    # -- learning ---------------------------------------------------------------------------

    @property
    def hyper_parameters(self) -> Floats:
        """Log lengths (d,) and the log of the noise ratio, as `fit(start=...)` takes them."""
        return self._log.copy()

    @property
    def lengths(self) -> Floats:
        """Length of each feature; large where the response hardly depends on it."""
        return np.asarray(np.exp(self._log[:-1]))

    @property
    def responses(self) -> Floats:
        """The responses learnt from (n,), one a row of `X`."""
        return self._z * self._scale + self._center

    @property
    def noise_sd(self) -> float:
        """Standard deviation of the learnt noise, in the units of the response."""
        variance = self._factors.variance if self._factors else 0.0
        return float(np.sqrt(np.exp(self._log[-1]) * variance) * self._scale)

    def fit(self, X: ArrayLike, y: ArrayLike, *, start: Floats | None = None) -> Self:
        """Learns from rows `X` (n, d) in the unit cube and responses `y` (n,).

        Args:
            X: Features, finite.
            y: Responses, finite; they may be constant, and n may be 1.
            start: `hyper_parameters` of an earlier fit, tried before the other starts.
        """
        rows, target = as_training(X, y)
        rng = np.random.default_rng(self.seed)
        if len(rows) > MAX_ROWS:
            chosen = np.sort(rng.permutation(len(rows))[:MAX_ROWS])
            rows, target = rows[chosen], target[chosen]
        self.X = rows
        self._center, spread = center_and_spread(target)
        # Such differences are rounding errors of the simulator, not a response.
        flat = spread == 0.0
        self._scale = max(1.0, abs(self._center)) if flat else spread
        self._z = np.zeros(len(rows)) if flat else (target - self._center) / self._scale
        self._choose_trend()
        default = self._default_start(rows.shape[1])
        if flat:
            self._log = default
        else:
            self._log = self._search([default] if start is None else [start, default], rng)
        self._prepare()
        return self

    def _default_start(self, d: int) -> Floats:
        noise = 1e-5 if self.noise == "learn" else max(float(self.noise), 1e-300)
        return np.append(np.full(d, np.log(0.5 * max(1.0, d / 4) ** 0.5)), np.log(noise))

    def _choose_trend(self) -> None:
        """Keeps the trend columns that the rows can tell apart, the constant first."""
        n, d = self.X.shape
        order = int(self.trend)
        while order and 1 + order * d > n // 2:
            order -= 1
        columns = _trend_columns(self.X)[:, : 1 + order * d]
        used = [0]
        if columns.shape[1] > 1:
            rest = columns[:, 1:] - columns[:, 1:].mean(0)
            _, upper, pivot = scipy.linalg.qr(rest, mode="economic", pivoting=True)
            size = np.abs(np.diag(upper))
            used += sorted(1 + pivot[: len(size)][size > 1e-8 * max(size[0], 1e-8)])
        self._trend_columns_used = np.asarray(used, np.int64)

    def _search(self, starts: list[Floats], rng: np.random.Generator) -> Floats:
        d = self.X.shape[1]
        if len(starts) < self.starts:
            # Noise taken for a response is a trap that only a noisy start leads out of.
            starts.append(np.append(starts[-1][:-1] + np.log(2.0), np.log(0.05)))
        while len(starts) < self.starts:
            lengths = rng.normal(np.log(0.5), 0.8, d)
            starts.append(np.append(lengths, rng.uniform(np.log(1e-7), np.log(1e-2))))
        rows, z = self.X, self._z
        if len(rows) > MAX_LIKELIHOOD_ROWS:
            chosen = np.sort(rng.permutation(len(rows))[:MAX_LIKELIHOOD_ROWS])
            rows, z = rows[chosen], z[chosen]
        trend = _trend_columns(rows)[:, self._trend_columns_used]
        fixed = starts[0][-1:] if self.noise == "learn" else self._default_start(d)[-1:]
        free = d + 1 if self.noise == "learn" else d
        bounds = [_LOG_LENGTH_BOUNDS] * d + [_LOG_NOISE_BOUNDS]
        low, high = np.asarray(bounds[:free]).T

        def objective(parameters: Floats) -> tuple[float, Floats]:
            full = parameters if free == d + 1 else np.append(parameters, fixed)
            value, slope = self._negative_log_posterior(full, rows, z, trend)
            return value, slope[:free]

        # The likelihood has several maxima; the first of equal ones wins, so that order decides.
        best: Floats | None = None
        best_value = np.inf
        for start in starts:
            result = scipy.optimize.minimize(
                objective,
                np.clip(start[:free], low, high),
                jac=True,
                method="L-BFGS-B",
                bounds=bounds[:free],
                options={"maxiter": self.max_iterations},
            )
            if best is None or result.fun < best_value:
                best, best_value = np.asarray(result.x), float(result.fun)
        assert best is not None
        return best if free == d + 1 else np.append(best, fixed)

    def _negative_log_posterior(
        self, log: Floats, rows: Floats, z: Floats, trend: Floats
    ) -> tuple[float, Floats]:
        """The negative logarithm of restricted likelihood times priors, and its gradient.

        With beta and s^2 at their optimum for theta, and without what does not depend on theta:

            value = (n - q) / 2 log s^2 + 1/2 log |K| + 1/2 log |F'K^-1 F|
                    + sum_j (log l_j - log m)^2 / (2 a^2) + (log nu - log m_nu)^2 / (2 a_nu^2)

        where 1/2 log |K| = sum log L_ii, 1/2 log |F'K^-1 F| = sum log |R_ii|, m = d^(1/4) / 2 and
        a = `_LENGTH_PRIOR_SD`, and m_nu and a_nu are those of `_NOISE_PRIOR`. Its gradient is

            d value / d theta_t = -1/2 sum_ik M_ik dK_ik / d theta_t + (derivative of the priors)
            M = w w' / s^2 - P

        since d log|K| = tr(K^-1 dK), d log|F'K^-1 F| = -tr((K^-1 - P) dK) and d(z'P z) = -w'dK w.
        For a length dK_ik / d log l_j = G_ik (x_ij - x_kj)^2 / l_j^2; for the noise dK / d log nu =
        nu I. The sum over i and k of (M G)_ik (x_ij - x_kj)^2, M G taken element by element, is
        2 (x_j^2)' (M G) 1 - 2 x_j' (M G) x_j, which needs no array (n, n, d).

        Args:
            log: theta (d + 1,): log lengths, then the log of the noise ratio.
            rows: X (n, d).
            z: Standardised responses (n,).
            trend: F (n, q).

        Returns:
            The value and its gradient (d + 1,); 1e10 and no slope where K cannot be factored, so
            that the line search turns back.
        """
        n, d = rows.shape
        inverse, noise = np.exp(-log[:d]), float(np.exp(log[d]))
        K, G = covariance_and_slope(self.kernel, rows, rows, inverse)
        K = K.copy()
        K[np.diag_indices(n)] = 1.0 + noise
        try:
            f = factor(K, z, trend)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(log)
        value = (
            0.5 * (n - trend.shape[1]) * np.log(f.variance)
            + float(np.log(np.diag(f.lower)).sum())
            + float(np.log(np.abs(np.diag(f.upper))).sum())
        )
        # K^-1 from L: only the lower triangle is computed, and mirrored.
        half, _ = scipy.linalg.lapack.dpotri(f.lower, lower=1)
        precision = np.tril(half) + np.tril(half, -1).T
        whitened = scipy.linalg.solve_triangular(
            f.lower, f.orthogonal, lower=True, trans=1, check_finite=False
        )
        # K^-1 F (F'K^-1 F)^-1 F'K^-1 = L^-T Q Q'L^-1: the trend is projected out of the precision.
        M = np.outer(f.weights, f.weights / f.variance) - precision + whitened @ whitened.T
        MG = M * G
        # Distances do not change with the origin; about the centre the two sums cancel less.
        centred = rows - 0.5
        quadratic = np.einsum("ij,ij->j", centred, MG @ centred)
        slope = np.empty_like(log)
        slope[:d] = -((centred**2).T @ MG.sum(1) - quadratic) * inverse**2
        slope[d] = -0.5 * float(np.trace(M)) * noise
        prior_mean = np.log(0.5) + 0.25 * np.log(d)
        z_length = (log[:d] - prior_mean) / _LENGTH_PRIOR_SD
        z_noise = (log[d] - _NOISE_PRIOR[0]) / _NOISE_PRIOR[1]
        value += 0.5 * float(z_length @ z_length) + 0.5 * float(z_noise**2)
        slope[:d] += z_length / _LENGTH_PRIOR_SD
        slope[d] += z_noise / _NOISE_PRIOR[1]
        return float(value), slope

    def _prepare(self) -> None:
        """Factors the covariance of all rows at the parameters found."""
        d = self.X.shape[1]
        self._inverse = np.exp(-self._log[:d])
        K = covariance(self.kernel, self.X, self.X, self._inverse).copy()
        K[np.diag_indices(len(K))] = 1.0 + np.exp(self._log[d])
        self._factors = factor(K, self._z, _trend_columns(self.X)[:, self._trend_columns_used])

    # -- answering --------------------------------------------------------------------------

    def _fitted(self) -> Factors:
        if self._factors is None:
            raise ValueError("the process has not been fitted")
        return self._factors

    def predict(self, X: ArrayLike, noise: bool = False) -> tuple[Floats, Floats]:
        """Mean and standard deviation (m,) at the rows `X` (m, d), trend uncertainty included.

        With `noise` the deviation is that of a new observation.
        """
        f = self._fitted()
        rows = as_matrix(X, self.X.shape[1])
        means, deviations = np.empty(len(rows)), np.empty(len(rows))
        extra = float(np.exp(self._log[-1])) if noise else 0.0
        for first in range(0, len(rows), 4096):  # bounds the memory of a large call
            part = slice(first, first + 4096)
            k = covariance(self.kernel, rows[part], self.X, self._inverse)
            trend = _trend_columns(rows[part])[:, self._trend_columns_used]
            white = scipy.linalg.solve_triangular(f.lower, k.T, lower=True, check_finite=False)
            gap = scipy.linalg.solve_triangular(f.upper, trend.T - f.trend.T @ white, trans=1)
            ratio = 1.0 - np.sum(white * white, 0) + np.sum(gap * gap, 0) + extra
            means[part] = trend @ f.coefficients + k @ f.weights
            deviations[part] = np.sqrt(f.variance * np.maximum(ratio, TINY))
        return means * self._scale + self._center, deviations * self._scale * self.calibration

    def gradient(self, x: ArrayLike) -> tuple[Floats, Floats, Floats, Floats]:
        """Mean, standard deviation (noise-free) and their gradients at `x`.

        For one point (d,) these are two numbers and two vectors (d,); for rows (m, d) they are
        (m,), (m,), (m, d), (m, d).
        """
        f = self._fitted()
        points = np.asarray(x, float)
        rows = as_matrix(points, self.X.shape[1])
        d = rows.shape[1]
        k, G = covariance_and_slope(self.kernel, rows, self.X, self._inverse)
        dk = -G[:, :, None] * (rows[:, None, :] - self.X[None]) * self._inverse**2
        trend, slopes = _trend_columns(rows)[:, self._trend_columns_used], self._trend_slopes(rows)
        white = scipy.linalg.solve_triangular(f.lower, k.T, lower=True, check_finite=False)
        gap = scipy.linalg.solve_triangular(f.upper, trend.T - f.trend.T @ white, trans=1)
        ratio = 1.0 - np.sum(white * white, 0) + np.sum(gap * gap, 0)
        sd = np.sqrt(f.variance * np.maximum(ratio, TINY))
        mean = trend @ f.coefficients + k @ f.weights
        dmean = np.einsum("mnd,n->md", dk, f.weights)
        dmean += np.einsum("mdq,q->md", slopes, f.coefficients)
        # ratio = 1 - k'K^-1 k + |R^-T (f - F'K^-1 k)|^2
        pull = scipy.linalg.solve_triangular(f.upper, gap)
        solved = scipy.linalg.solve_triangular(
            f.lower, white + f.trend @ pull, lower=True, trans=1, check_finite=False
        )
        dratio = 2.0 * np.einsum("mdq,qm->md", slopes, pull)
        dratio -= 2.0 * np.einsum("mnd,nm->md", dk, solved)
        dratio[ratio <= TINY] = 0.0
        dsd = 0.5 * f.variance * dratio / sd[:, None]
        widened = self._scale * self.calibration
        values = (mean * self._scale + self._center, sd * widened)
        gradients = (dmean * self._scale, dsd * widened)
        if points.ndim == 1:
            return values[0][0], values[1][0], gradients[0].reshape(d), gradients[1].reshape(d)
        return *values, *gradients

    def _trend_slopes(self, rows: Floats) -> Floats:
        """Derivatives of the trend columns (m, d, q)."""
        m, d = rows.shape
        slopes = np.zeros((m, d, 1 + 2 * d))
        feature = np.arange(d)
        slopes[:, feature, 1 + feature] = 1.0
        slopes[:, feature, 1 + d + feature] = 2.0 * (rows - 0.5)
        return slopes[:, :, self._trend_columns_used]

    def leave_out(self, folds: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        """Mean and deviation of each row predicted without its fold, in closed form.

        Lengths and noise stay those of all rows; trend and process are re-estimated without the
        fold (Ginsbourger and Schaerer, "Fast calculation of Gaussian process multiple-fold
        cross-validation residuals", 2021). Rows in no fold are predicted from all rows.
        """
        f = self._fitted()
        mean, sd = self.predict(self.X, noise=True)
        if len(self.X) <= len(self._trend_columns_used) + 1:
            return mean, sd
        precision = scipy.linalg.cho_solve((f.lower, True), np.eye(len(self.X)))
        whitened = scipy.linalg.solve_triangular(f.lower, f.orthogonal, lower=True, trans=1)
        projected = precision - whitened @ whitened.T
        pulled = projected @ self._z
        for fold in folds:
            rows = np.asarray(fold, np.int64)
            block = projected[np.ix_(rows, rows)]
            block = block + 1e-12 * np.trace(block) / len(rows) * np.eye(len(rows))
            inverse = np.linalg.inv(block)
            mean[rows] = (self._z[rows] - inverse @ pulled[rows]) * self._scale + self._center
            spread = np.maximum(np.diag(inverse) * f.variance, TINY)
            sd[rows] = np.sqrt(spread) * self._scale * self.calibration
        return mean, sd

    # -- keeping ----------------------------------------------------------------------------

    def to_arrays(self) -> Arrays:
        """The fitted process as arrays; its factors are made again by `from_arrays`."""
        self._fitted()
        return {
            "kernel": np.asarray(self.kernel),
            "trend": np.asarray(self.trend),
            "noise": np.asarray(np.nan if self.noise == "learn" else float(self.noise)),
            "search": np.asarray([self.starts, self.seed, self.max_iterations], np.int64),
            "rows": self.X,
            "responses": self._z,
            "standard": np.asarray([self._center, self._scale, self.calibration]),
            "log_parameters": self._log,
            "trend_columns": self._trend_columns_used,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The process that `to_arrays` wrote."""
        noise = float(arrays["noise"].item())
        starts, seed, iterations = (int(array) for array in arrays["search"])
        process = cls(
            kernel=cast(KernelName, str(arrays["kernel"].item())),
            trend=cast(Trend, int(arrays["trend"].item())),
            noise="learn" if np.isnan(noise) else noise,
            starts=starts,
            seed=seed,
            max_iterations=iterations,
        )
        process.X = np.asarray(arrays["rows"], np.float64)
        process._z = np.asarray(arrays["responses"], np.float64)
        process._center, process._scale, process.calibration = map(float, arrays["standard"])
        process._log = np.asarray(arrays["log_parameters"], np.float64)
        process._trend_columns_used = np.asarray(arrays["trend_columns"], np.int64)
        process._prepare()
        return process


def _trend_columns(rows: Floats) -> Floats:
    """Constant, linear and squared columns (n, 1 + 2 d), centred on the cube."""
    centred = rows - 0.5
    return np.hstack([np.ones((len(rows), 1)), centred, centred**2])

"""Ridge regression on a full polynomial: for few points and strong trends.

    symbol       shape   unit  meaning
    C            (n, q)  1     polynomial columns of the rows, centred and divided by their spread
    z            (n,)    1     responses, centred and divided by their spread
    U S V'       (n, r)  1     singular value decomposition of C, without vanishing values
    alpha                1     penalty times n
    shrink       (r,)    1     s^2 / (s^2 + alpha)
    coefficients (q,)    1     V (shrink / s) U'z, which minimise |z - C b|^2 + alpha |b|^2
    residual e   (n,)    1     z - U shrink U'z
    leverage h   (n,)    1     1 / n + sum_k U_ik^2 shrink_k
    PRESS                1     mean((e / (1 - h))^2), the leave-one-out error
    s_e^2                1     |e|^2 / (n - 1 - sum shrink)
    sd(x)^2              1     s_e^2 (1 + 1 / n + sum_k (c(x)'V)_k^2 / (s_k^2 + alpha))

Sources: Allen, "The relationship between variable selection and data augmentation", 1974; Golub,
Heath and Wahba, "Generalized cross-validation", 1979.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.surrogates.surrogate import (
    Arrays,
    Floats,
    as_matrix,
    as_training,
)

_PENALTIES = np.logspace(-8, 4, 49)
_CLEARLY_BETTER = 0.8
"""A curved surface must leave less than this part of the straight one's squared error."""


def polynomial_columns(X: Floats, degree: int) -> Floats:
    """Linear columns, and for degree 2 all squares and products, of rows centred on the cube."""
    centred = 2.0 * (X - 0.5)
    if degree == 1:
        return centred
    first, second = np.triu_indices(X.shape[1])
    return np.hstack([centred, centred[:, first] * centred[:, second]])


class PolynomialRidge:
    """Polynomial of degree 1 or 2 with a ridge penalty on its standardised columns.

    Degree and penalty minimise the leave-one-out error, which for ridge regression is known in
    closed form (Allen's PRESS; Golub, Heath and Wahba, "Generalized cross-validation", 1979). The
    deviation of a prediction is that of a new observation: residual variance with the effective
    degrees of freedom taken off, plus the posterior variance of the coefficients.
    """

    def __init__(
        self, *, degree: Literal[1, 2] | None = None, penalty: float | None = None
    ) -> None:
        """Describes the polynomial.

        Args:
            degree: 1 or 2; chosen by `fit` if None.
            penalty: Ridge penalty relative to n; chosen by `fit` if None.
        """
        if degree not in (None, 1, 2):
            raise ValueError("degree must be 1, 2 or None")
        if penalty is not None and not (np.isfinite(penalty) and penalty > 0):
            raise ValueError("penalty must be above 0")
        self.degree = degree
        self.penalty = penalty
        self._chosen = 1
        self._alpha = 1.0
        self._features = 0
        self._center, self._scale = 0.0, 1.0
        self._column_center: Floats = np.empty(0)
        self._column_scale: Floats = np.empty(0)
        self._coefficients: Floats = np.empty(0)
        self._directions: Floats = np.empty((0, 0))
        self._spectrum: Floats = np.empty(0)
        self._residual = 0.0
        self._rows = 0
        self._training: tuple[Floats, Floats] | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learns from rows `X` (n, d) in the unit cube and responses `y` (n,)."""
        rows, target = as_training(X, y)
        n = len(rows)
        self._rows, self._features = n, rows.shape[1]
        self._training = rows, target
        self._center = float(target.mean())
        self._scale = float(target.std()) or 1.0
        z = (target - self._center) / self._scale
        best, self._chosen = np.inf, self.degree or 1
        for degree in (1, 2) if self.degree is None else (self.degree,):
            columns = polynomial_columns(rows, degree)
            center = columns.mean(0)
            spread = columns.std(0)
            scale = np.where(spread > 1e-12, spread, 1.0)
            left, singular, right = np.linalg.svd((columns - center) / scale, full_matrices=False)
            significant = singular > 1e-10 * max(float(singular[0]), 1e-10)
            left, singular, right = left[:, significant], singular[significant], right[significant]
            along = left.T @ z
            # What no coefficient reaches. With as many directions as rows that is nothing, and
            # must be so exactly: residual and 1 - leverage both vanish, their ratio does not.
            saturated = len(singular) >= n - 1
            beyond = np.zeros(n) if saturated else z - left @ along
            free = np.zeros(n) if saturated else 1.0 - 1.0 / n - np.sum(left**2, 1)
            for penalty in _PENALTIES if self.penalty is None else (self.penalty,):
                alpha = float(penalty) * n
                shrink = singular**2 / (singular**2 + alpha)
                # 1 - shrink, computed so that it does not cancel where the penalty is small.
                held_back = alpha / (singular**2 + alpha)
                residual = beyond + left @ (held_back * along)
                left_out = residual / np.maximum(free + (left**2) @ held_back, 1e-14)
                press = float(np.mean(left_out**2))
                if press < best * (_CLEARLY_BETTER if degree > self._chosen else 1.0):
                    best = press
                    freedom = max(n - 1.0 - float(shrink.sum()), 1.0)
                    self._chosen, self._alpha = degree, alpha
                    self._column_center, self._column_scale = center, scale
                    self._coefficients = right.T @ (shrink / singular * along)
                    self._directions, self._spectrum = right, singular
                    self._residual = float(np.sum(residual**2)) / freedom
                    # A fit through every point tells nothing of its error; leaving out does.
                    if n <= len(center) + 1:
                        self._residual = max(self._residual, press)
        if n < 3:
            self._residual = max(self._residual, 1.0)
        return self

    def predict(self, X: ArrayLike, noise: bool = False) -> tuple[Floats, Floats]:
        """Mean and deviation (m,) of a new observation at the rows `X` (m, d)."""
        if not self._rows:
            raise ValueError("the polynomial has not been fitted")
        rows = as_matrix(X, self._features)
        columns = polynomial_columns(rows, self._chosen)
        columns = (columns - self._column_center) / self._column_scale
        along = columns @ self._directions.T
        posterior = 1.0 / self._rows + (along**2) @ (1.0 / (self._spectrum**2 + self._alpha))
        sd = np.sqrt(np.maximum(self._residual, 1e-24) * (1.0 + posterior))
        return columns @ self._coefficients * self._scale + self._center, sd * self._scale

    def leave_out(self, folds: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
        """Mean and deviation of each row predicted by a fit without its fold.

        Degree and penalty are chosen again without the fold.
        """
        if self._training is None:
            raise ValueError("only a polynomial fitted here, not a loaded one, can leave rows out")
        rows, target = self._training
        mean, sd = self.predict(rows)
        for fold in folds:
            out = np.asarray(fold, np.int64)
            training = np.setdiff1d(np.arange(len(rows)), out)
            again = PolynomialRidge(degree=self.degree, penalty=self.penalty)
            mean[out], sd[out] = again.fit(rows[training], target[training]).predict(rows[out])
        return mean, sd

    def to_arrays(self) -> Arrays:
        """The fitted polynomial as arrays."""
        return {
            "shape": np.asarray([self._features, self._chosen, self._rows], np.int64),
            "standard": np.asarray([self._center, self._scale, self._alpha, self._residual]),
            "column_center": self._column_center,
            "column_scale": self._column_scale,
            "coefficients": self._coefficients,
            "directions": self._directions,
            "spectrum": self._spectrum,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The polynomial that `to_arrays` wrote."""
        ridge = cls()
        ridge._features, ridge._chosen, ridge._rows = (int(array) for array in arrays["shape"])
        ridge._center, ridge._scale, ridge._alpha, ridge._residual = map(float, arrays["standard"])
        ridge._column_center = np.asarray(arrays["column_center"], np.float64)
        ridge._column_scale = np.asarray(arrays["column_scale"], np.float64)
        ridge._coefficients = np.asarray(arrays["coefficients"], np.float64)
        ridge._directions = np.asarray(arrays["directions"], np.float64)
        ridge._spectrum = np.asarray(arrays["spectrum"], np.float64)
        return ridge

"""Ensembles of trees: extremely randomised trees and gradient boosting.

Both are grown in groups, each group without one fold of the rows, and predict by the mean of the
groups. So every row has a prediction by trees that never saw it, at the cost of one fit, and the
deviations are scaled until 95 % of those residuals lie within 1.96 of them (CV+, Barber, Candès,
Ramdas and Tibshirani, "Predictive inference with the jackknife+", 2021).

    symbol     shape   unit  meaning
    z          (n,)    1     responses, centred and divided by their spread
    mean, raw  (n,)    1     prediction by the trees without the row's fold, and their spread
    floor              1     half the root mean square of z - mean
    factor             1     the 0.95 (n + 1) / n quantile of |z - mean| / sqrt(raw^2 + floor^2),
                             over 1.96
    sd         (n,)    1     factor sqrt(raw^2 + floor^2)
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vistaflow_services.surrogates.families.forest import (
    Forest,
    from_histogram_boosting,
    from_scikit_trees,
    from_xgboost,
)
from vistaflow_services.surrogates.surrogate import (
    Arrays,
    Floats,
    Integers,
    as_matrix,
    as_training,
    complement,
    make_folds,
)

_NORMAL_95 = 1.959963984540054


class GroupedTrees(ABC):
    """What both ensembles share: the groups, and deviations learnt from left-out rows."""

    def __init__(self, *, groups: int, seed: int) -> None:
        self.groups = groups
        self.seed = seed
        self._forests: list[Forest] = []
        self._bases: Floats = np.empty(0)
        self._features = 0
        self._standard = (0.0, 1.0)
        self._spread = (1.0, 1.0)
        self._group_count = groups
        self.out_of_fold: tuple[Floats, Floats] = (np.empty(0), np.empty(0))
        """Mean and deviation (n,) of each row learnt from, by the trees that never saw it."""

    @classmethod
    @abstractmethod
    def _blank(cls) -> Self:
        """One with the default settings."""

    @abstractmethod
    def _grow(self, X: Floats, z: Floats, seed: int) -> tuple[Forest, float]:
        """Trees on standardised responses, and the constant they add to."""

    @abstractmethod
    def _answers(self, leaves: list[Floats], bases: Floats) -> tuple[Floats, Floats]:
        """Mean and raw spread from the leaf values (n, trees) of some groups and their bases."""

    def fit(self, X: ArrayLike, y: ArrayLike, *, folds: Sequence[Integers] | None = None) -> Self:
        """Learns from rows `X` (n, d) and responses `y` (n,).

        Args:
            X: Features, finite.
            y: Responses, finite.
            folds: What each group is grown without; its own choice if None. Each row must be in
                one of them.
        """
        rows, target = as_training(X, y)
        rows = rows.astype(np.float32).astype(np.float64)  # what the trees compare
        n, self._features = rows.shape
        self._standard = float(target.mean()), float(target.std()) or 1.0
        z = (target - self._standard[0]) / self._standard[1]
        if n < 4:
            folds = [np.empty(0, np.int64)]
        elif folds is None:
            folds = make_folds(n, self.groups, self.seed)
        self._group_count = len(folds)
        grown = [
            self._grow(rows[training], z[training], self.seed + 1000 * number)
            for number, training in enumerate(complement(n, fold) for fold in folds)
        ]
        self._forests = [forest for forest, _ in grown]
        self._bases = np.asarray([base for _, base in grown])
        self._calibrate(rows, z, folds)
        return self

    def _calibrate(self, rows: Floats, z: Floats, folds: Sequence[Integers]) -> None:
        """Finds the floor of the spread and the factor that makes 95 % bands hold 95 %."""
        if not len(folds[0]):
            self._spread = (1.0, 1.0)
            self.out_of_fold = self.predict(rows)
            return
        mean, spread = np.empty(len(z)), np.empty(len(z))
        for number, fold in enumerate(folds):
            mean[fold], spread[fold] = self._raw(rows[fold], [number])
        residual = np.abs(z - mean)
        floor = max(0.5 * float(np.sqrt(np.mean(residual**2))), 1e-12)
        ratio = residual / np.sqrt(spread**2 + floor**2)
        rank = min(1.0, 0.95 * (len(z) + 1) / len(z))
        factor = max(float(np.quantile(ratio, rank)) / _NORMAL_95, 1e-6)
        self._spread = floor, factor
        center, scale = self._standard
        sd = factor * np.sqrt(spread**2 + floor**2)
        self.out_of_fold = mean * scale + center, sd * scale

    def _raw(self, rows: Floats, groups: list[int]) -> tuple[Floats, Floats]:
        leaves = [self._forests[group].leaves(rows) for group in groups]
        return self._answers(leaves, self._bases[groups])

    def predict(self, X: ArrayLike, noise: bool = False) -> tuple[Floats, Floats]:
        """Mean and deviation (m,) of a new observation at the rows `X` (m, d)."""
        if not self._forests:
            raise ValueError("the trees have not been fitted")
        rows = as_matrix(X, self._features)
        mean, spread = np.empty(len(rows)), np.empty(len(rows))
        for first in range(0, len(rows), 4096):  # bounds the memory of a large call
            part = slice(first, first + 4096)
            mean[part], spread[part] = self._raw(rows[part], list(range(len(self._forests))))
        floor, factor = self._spread
        sd = factor * np.sqrt(spread**2 + floor**2)
        return mean * self._standard[1] + self._standard[0], sd * self._standard[1]

    def to_arrays(self) -> Arrays:
        """The fitted trees as arrays."""
        arrays: Arrays = {
            "shape": np.asarray([self._features, len(self._forests), self.seed], np.int64),
            "standard": np.asarray([*self._standard, *self._spread]),
            "bases": self._bases,
        }
        for number, forest in enumerate(self._forests):
            arrays |= forest.to_arrays(f"group{number}_")
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The trees that `to_arrays` wrote."""
        features, groups, seed = (int(array) for array in arrays["shape"])
        center, scale, floor, factor = (float(value) for value in cast(Floats, arrays["standard"]))
        trees = cls._blank()
        trees.groups, trees.seed, trees._features = groups, seed, features
        trees._standard, trees._spread = (center, scale), (floor, factor)
        trees._bases = np.asarray(arrays["bases"], np.float64)
        trees._forests = [Forest.from_arrays(arrays, f"group{group}_") for group in range(groups)]
        return trees


class ExtraTrees(GroupedTrees):
    """Extremely randomised trees (Geurts, Ernst and Wehenkel, 2006); spread is between trees."""

    def __init__(
        self,
        *,
        trees: int = 300,
        min_samples_leaf: int = 1,
        max_features: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Describes the ensemble.

        Args:
            trees: Trees in all, over the groups (ten of them by default).
            min_samples_leaf: Fewest rows in a leaf.
            max_features: Part of the features tried at a split.
            seed: Makes growing repeatable.
        """
        super().__init__(groups=10, seed=seed)
        self.trees = trees
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features

    @classmethod
    def _blank(cls) -> Self:
        return cls()

    def _grow(self, X: Floats, z: Floats, seed: int) -> tuple[Forest, float]:
        from sklearn.ensemble import ExtraTreesRegressor

        model = ExtraTreesRegressor(
            max(1, self.trees // self._group_count),
            min_samples_leaf=self.min_samples_leaf,
            max_features=self.max_features,
            random_state=seed % 2**31,
            n_jobs=1,
        )
        return from_scikit_trees(model.fit(X, z).estimators_), 0.0

    def _answers(self, leaves: list[Floats], bases: Floats) -> tuple[Floats, Floats]:
        every = np.hstack([leave + base for leave, base in zip(leaves, bases, strict=True)])
        return every.mean(1), every.std(1)


class GradientBoosting(GroupedTrees):
    """Gradient-boosted trees; spread is between five boosters on different rows.

    Grown by XGBoost where it is installed, else by scikit-learn. All features stay eligible in
    every tree (with two features, sampling columns would leave one), and leaves may be small: the
    usual 20 rows a leaf fail on designs with few levels.
    """

    def __init__(
        self,
        *,
        rounds: int = 400,
        learning_rate: float = 0.05,
        max_depth: int = 4,
        subsample: float = 0.8,
        min_samples_leaf: int = 2,
        penalty: float = 1.0,
        seed: int = 0,
        engine: str = "auto",
    ) -> None:
        """Describes the ensemble.

        Args:
            rounds: Trees of each booster.
            learning_rate: How much of each tree is added.
            max_depth: Greatest depth of a tree.
            subsample: Part of the rows each tree sees (XGBoost only).
            min_samples_leaf: Fewest rows in a leaf.
            penalty: Ridge penalty on leaf values.
            seed: Makes growing repeatable.
            engine: `xgboost`, `scikit-learn`, or `auto`: the first that is installed.
        """
        super().__init__(groups=5, seed=seed)
        if engine not in ("auto", "xgboost", "scikit-learn"):
            raise ValueError("engine must be auto, xgboost or scikit-learn")
        self.rounds = rounds
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.subsample = subsample
        self.min_samples_leaf = min_samples_leaf
        self.penalty = penalty
        self.engine = engine

    @classmethod
    def _blank(cls) -> Self:
        return cls()

    def _grow(self, X: Floats, z: Floats, seed: int) -> tuple[Forest, float]:
        engine = self.engine
        if engine == "auto":
            engine = "xgboost" if importlib.util.find_spec("xgboost") else "scikit-learn"
        return (
            self._grow_xgboost(X, z, seed) if engine == "xgboost" else self._grow_scikit(X, z, seed)
        )

    def _grow_xgboost(self, X: Floats, z: Floats, seed: int) -> tuple[Forest, float]:
        import xgboost

        settings: dict[str, Any] = {
            "objective": "reg:squarederror",
            "tree_method": "hist",
            "max_bin": 256,
            "eta": self.learning_rate,
            "max_depth": self.max_depth,
            "subsample": self.subsample,
            "min_child_weight": self.min_samples_leaf,
            "lambda": self.penalty,
            "base_score": 0.0,
            "nthread": 1,
            "seed": seed % 2**31,
            "verbosity": 0,
        }
        rows = xgboost.DMatrix(X, label=z, nthread=1)
        return from_xgboost(xgboost.train(settings, rows, self.rounds)), 0.0

    def _grow_scikit(self, X: Floats, z: Floats, seed: int) -> tuple[Forest, float]:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        model = HistGradientBoostingRegressor(
            learning_rate=self.learning_rate,
            max_iter=self.rounds,
            max_depth=self.max_depth,
            min_samples_leaf=self.min_samples_leaf,
            l2_regularization=self.penalty,
            early_stopping=False,
            random_state=seed % 2**31,
        )
        with threadpool_limits(1):  # its sums depend on the number of threads
            model.fit(X, z)
        return from_histogram_boosting(model), float(np.ravel(model._baseline_prediction)[0])

    def _answers(self, leaves: list[Floats], bases: Floats) -> tuple[Floats, Floats]:
        boosters = np.stack([leave.sum(1) for leave in leaves]) + bases[:, None]
        return boosters.mean(0), boosters.std(0)

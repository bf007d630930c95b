"""A fitted ensemble of regression trees as plain arrays, whichever library grew it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.surrogates.surrogate import Arrays, Floats, Integers

_LEAF = -1


@dataclass(frozen=True, kw_only=True)
class Forest:
    """Trees of one ensemble, their nodes laid end to end.

    A row goes left at a node when float32(feature) <= threshold. Keeping the arrays instead of a
    library's object means that loading executes nothing and works with any version.
    """

    feature: Integers
    """Feature tested at each node; -1 at a leaf."""
    threshold: Floats
    """What it is compared with."""
    left: Integers
    """Node to go to when the feature is at most the threshold; a leaf's own number at a leaf."""
    right: Integers
    """Node to go to otherwise; a leaf's own number at a leaf."""
    value: Floats
    """What a leaf adds."""
    roots: Integers
    """First node of each tree."""

    def leaves(self, X: Floats) -> Floats:
        """The leaf value of each row in each tree (n, trees)."""
        rows = np.asarray(X, np.float32).astype(np.float64)
        node = np.repeat(self.roots[None], len(rows), 0)
        index = np.arange(len(rows))[:, None]
        while True:
            feature = self.feature[node]
            inner = feature != _LEAF
            if not inner.any():
                return np.asarray(self.value[node])
            goes_left = rows[index, np.where(inner, feature, 0)] <= self.threshold[node]
            node = np.where(goes_left, self.left[node], self.right[node])

    def to_arrays(self, prefix: str) -> Arrays:
        """The ensemble as arrays whose names begin with `prefix`."""
        return {
            f"{prefix}feature": self.feature.astype(np.int32),
            f"{prefix}threshold": self.threshold,
            f"{prefix}left": self.left.astype(np.int32),
            f"{prefix}right": self.right.astype(np.int32),
            f"{prefix}value": self.value,
            f"{prefix}roots": self.roots.astype(np.int32),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], prefix: str) -> Self:
        """The ensemble that `to_arrays` wrote; refused if a node leads out of it."""
        forest = cls(
            feature=np.asarray(arrays[f"{prefix}feature"], np.int64),
            threshold=np.asarray(arrays[f"{prefix}threshold"], np.float64),
            left=np.asarray(arrays[f"{prefix}left"], np.int64),
            right=np.asarray(arrays[f"{prefix}right"], np.int64),
            value=np.asarray(arrays[f"{prefix}value"], np.float64),
            roots=np.asarray(arrays[f"{prefix}roots"], np.int64),
        )
        size = len(forest.feature)
        own = np.arange(size)
        leaf = forest.feature == _LEAF
        # Children come after their parent, so that every walk ends.
        ends = all(
            bool(np.all((child < size) & np.where(leaf, child == own, child > own)))
            for child in (forest.left, forest.right)
        )
        if not ends or np.any(forest.roots < 0) or np.any(forest.roots >= size):
            raise ValueError("the trees of the model lead nowhere")
        return forest


def grow_together(trees: list[Forest]) -> Forest:
    """One ensemble of all the trees, in order."""
    offsets = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    return Forest(
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        left=np.concatenate(
            [tree.left + offset for tree, offset in zip(trees, offsets, strict=False)]
        ),
        right=np.concatenate(
            [tree.right + offset for tree, offset in zip(trees, offsets, strict=False)]
        ),
        value=np.concatenate([tree.value for tree in trees]),
        roots=np.concatenate(
            [tree.roots + offset for tree, offset in zip(trees, offsets, strict=False)]
        ),
    )


def _tree(
    feature: NDArray[Any], threshold: Floats, left: NDArray[Any], right: NDArray[Any], value: Floats
) -> Forest:
    own = np.arange(len(feature))
    leaf = np.asarray(left) < 0
    return Forest(
        feature=np.where(leaf, _LEAF, feature).astype(np.int64),
        threshold=np.where(leaf, 0.0, threshold),
        left=np.where(leaf, own, left).astype(np.int64),
        right=np.where(leaf, own, right).astype(np.int64),
        value=np.where(leaf, value, 0.0),
        roots=np.zeros(1, np.int64),
    )


def from_scikit_trees(estimators: list[Any]) -> Forest:
    """The trees of a scikit-learn forest (`estimators_`)."""
    return grow_together(
        [
            _tree(
                tree.tree_.feature,
                np.asarray(tree.tree_.threshold, np.float64),
                tree.tree_.children_left,
                tree.tree_.children_right,
                np.asarray(tree.tree_.value, np.float64).reshape(-1),
            )
            for tree in estimators
        ]
    )


def from_histogram_boosting(model: Any) -> Forest:
    """The trees of a scikit-learn `HistGradientBoostingRegressor`, without its base value."""
    trees = []
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            _tree(
                nodes["feature_idx"],
                nodes["num_threshold"].astype(np.float64),
                np.where(leaf, -1, nodes["left"].astype(np.int64)),
                np.where(leaf, -1, nodes["right"].astype(np.int64)),
                nodes["value"].astype(np.float64),
            )
        )
    return grow_together(trees)


def from_xgboost(booster: Any) -> Forest:
    """The trees of an XGBoost booster out of its own JSON, without its base score.

    XGBoost goes left when the feature is below the threshold, so the threshold becomes the next
    smaller single-precision number.
    """
    learner = json.loads(bytes(booster.save_raw(raw_format="json")))["learner"]
    trees = []
    for tree in learner["gradient_booster"]["model"]["trees"]:
        left = np.asarray(tree["left_children"], np.int64)
        condition = np.asarray(tree["split_conditions"], np.float32)
        trees.append(
            _tree(
                np.asarray(tree["split_indices"], np.int64),
                np.nextafter(condition, np.float32(-np.inf)).astype(np.float64),
                left,
                np.asarray(tree["right_children"], np.int64),
                condition.astype(np.float64),
            )
        )
    return grow_together(trees)

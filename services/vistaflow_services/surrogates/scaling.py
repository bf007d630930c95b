"""The scaler: fitted on the training rows of one dataset, and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import ConflictError, InvalidError
from vistaflow_services.surrogates.dataset import Dataset
from vistaflow_services.surrogates.surrogate import Floats, center_and_spread
from vistaflow_services.surrogates.transforms import Transform


class FeatureScale(StrEnum):
    """What the unit interval of a feature is."""

    SPACE = "space"
    """The parameter's range."""
    TRAINING = "training"
    """From the smallest to the largest value of the training rows."""


@dataclass(frozen=True, kw_only=True)
class ResponseScale:
    """How one response is standardised, after its transform."""

    transform: Transform
    center: float
    """Mean over the training rows."""
    scale: float
    """Standard deviation over the training rows."""


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """Scales features to the unit cube and responses to mean 0 and deviation 1."""

    dataset_sha256: str
    """The digest of the one dataset it belongs to."""
    fitted_on: int
    """Training rows it was fitted on."""
    features: FeatureScale
    low: tuple[float, ...]
    """What becomes 0, by feature."""
    span: tuple[float, ...]
    """What becomes 1 above it."""
    responses: dict[str, ResponseScale]

    def inputs(self, features: Floats) -> Floats:
        """Scaled features (n, p)."""
        return np.asarray((features - np.asarray(self.low)) / np.asarray(self.span))

    def check(self, dataset: Dataset) -> None:
        """Raises `ConflictError` unless `dataset` is the one the scaler was fitted on."""
        if dataset.digest != self.dataset_sha256:
            raise ConflictError(
                f"the scaler was fitted on dataset {self.dataset_sha256[:12]}, this is "
                f"{dataset.digest[:12]}; run Scale on it",
                reason="SCALER_MISMATCH",
            )

    def standardise(self, dataset: Dataset, response: str) -> Floats:
        """A response of its dataset, transformed and standardised (n,); nan where missing."""
        self.check(dataset)
        how = self.responses[response]
        return (dataset.modelled(response) - how.center) / how.scale

    def to_dict(self) -> dict[str, Any]:
        """The scaler as JSON-able values."""
        return {
            "format": 1,
            "dataset_sha256": self.dataset_sha256,
            "fitted_on": self.fitted_on,
            "features": {
                "scale": str(self.features),
                "low": list(self.low),
                "span": list(self.span),
            },
            "responses": {
                name: {
                    "transform": str(response.transform),
                    "center": response.center,
                    "scale": response.scale,
                }
                for name, response in self.responses.items()
            },
        }

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> Scaler:
        """The scaler of which `to_dict` returned the fields."""
        if description.get("format") != 1:
            raise InvalidError(f"scaler format {description.get('format')!r} is not known here")
        return Scaler(
            dataset_sha256=description["dataset_sha256"],
            fitted_on=description["fitted_on"],
            features=FeatureScale(description["features"]["scale"]),
            low=tuple(description["features"]["low"]),
            span=tuple(description["features"]["span"]),
            responses={
                name: ResponseScale(
                    transform=Transform(response["transform"]),
                    center=response["center"],
                    scale=response["scale"],
                )
                for name, response in description["responses"].items()
            },
        )


def fit_scaler(
    dataset: Dataset,
    rows: NDArray[np.bool_] | None = None,
    features: FeatureScale = FeatureScale.SPACE,
) -> Scaler:
    """Fits a scaler on training rows.

    Args:
        dataset: The dataset it will belong to.
        rows: Which rows to learn from; all training rows if None.
        features: What the unit interval of a feature is.

    Raises:
        ConflictError: If one of the rows is held out for the test.
        InvalidError: If there is no training row, or a response is constant over them.
    """
    chosen = dataset.training if rows is None else np.asarray(rows, np.bool_)
    held_out = chosen & ~dataset.training
    if held_out.any():
        row_ids = ", ".join(str(row_id) for row_id in dataset.row_ids[held_out][:5].tolist())
        raise ConflictError(
            f"a scaler learns from training rows only; {int(held_out.sum())} of these are held "
            f"out for the test (row ids {row_ids})",
            reason="TEST_ROWS",
        )
    if not chosen.any():
        raise InvalidError("the dataset has no training rows")
    responses = {}
    for name in dataset.responses:
        center, spread = center_and_spread(dataset.modelled(name)[chosen & dataset.present(name)])
        if not spread > 0:
            raise InvalidError(f"`{name}` is the same in every training row")
        responses[name] = ResponseScale(
            transform=dataset.transforms[name], center=center, scale=spread
        )
    inputs = dataset.features[chosen]
    if features is FeatureScale.SPACE:
        low, span = np.zeros(inputs.shape[1]), np.ones(inputs.shape[1])
    else:
        low, span = inputs.min(0), np.ptp(inputs, axis=0)
        span = np.where(span > 0, span, 1.0)
    return Scaler(
        dataset_sha256=dataset.digest,
        fitted_on=int(chosen.sum()),
        features=features,
        low=tuple(low.tolist()),
        span=tuple(span.tolist()),
        responses=responses,
    )

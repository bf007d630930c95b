"""A model: the one chain from raw points to predictions with units."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vistaflow_services.core.errors import ConflictError
from vistaflow_services.decks.space import Choice, Space
from vistaflow_services.surrogates.choice import FAMILIES, Scores, family_of
from vistaflow_services.surrogates.features import check_points, model_features
from vistaflow_services.surrogates.scaling import Scaler
from vistaflow_services.surrogates.storage import (
    arrays_from_bytes,
    arrays_to_bytes,
    read_folder,
    to_json,
    write_folder,
)
from vistaflow_services.surrogates.surrogate import Floats, Surrogate
from vistaflow_services.surrogates.transforms import Prediction, Transform, backward

_FORMAT = 1
_MODEL = "model.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class ResponseModel:
    """The surrogate of one response."""

    name: str
    surrogate: Surrogate
    """Fitted to the transformed and standardised response."""
    scores: Scores = field(default_factory=dict)
    """Cross-validation figures by family; `rmse` in the response's unit, or in decades."""
    unit: str = ""

    @property
    def family(self) -> str:
        """The family that was chosen."""
        return family_of(self.surrogate)


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """Space, scaler and a surrogate a response: raw points in, predictions with units out."""

    space: Space
    scaler: Scaler
    responses: tuple[ResponseModel, ...]
    deck_id: str = ""
    """The deck it stands for."""
    held: Mapping[str, Choice] = field(default_factory=dict)
    """Values of the parameters that did not vary in training."""

    @property
    def response_names(self) -> list[str]:
        """What it predicts."""
        return [response.name for response in self.responses]

    def transform(self, response: str) -> Transform:
        """How a response is laid out for its surrogate."""
        return self.scaler.responses[response].transform

    def predictions(
        self, points: Sequence[Mapping[str, Any]], *, extrapolate: bool = False
    ) -> dict[str, Prediction]:
        """Each response at raw points: mean, deviation, median and 95 % interval.

        The deviation is that of a new simulation. For a response modelled in its logarithm mean
        and deviation are the moments of the log-normal prediction; its median is the better guess
        of a single outcome.

        Args:
            points: A value for each parameter, by name.
            extrapolate: Whether numbers may lie outside the ranges the model was trained over.

        Raises:
            InvalidError: With violations such as `points[3].length`.
        """
        if not points:
            return {name: _nothing() for name in self.response_names}
        checked = check_points(self.space, points, extrapolate=extrapolate, held=self.held)
        return self.predict_features(model_features(self.space, checked)[0])

    def predict_features(self, features: Floats) -> dict[str, Prediction]:
        """`predictions` at rows of `Space.features`, unchecked: for loops over many points."""
        inputs = self.scaler.inputs(features)
        predictions = {}
        for response in self.responses:
            how = self.scaler.responses[response.name]
            mean, sd = response.surrogate.predict(inputs, noise=True)
            predictions[response.name] = backward(
                how.transform, mean * how.scale + how.center, sd * how.scale
            )
        return predictions

    def predict(
        self, points: Sequence[Mapping[str, Any]], *, extrapolate: bool = False
    ) -> dict[str, tuple[Floats, Floats]]:
        """Mean and standard deviation (n,) by response, in its unit; see `predictions`."""
        predictions = self.predictions(points, extrapolate=extrapolate)
        return {name: (prediction.mean, prediction.sd) for name, prediction in predictions.items()}

    def save(self, folder: Path) -> str:
        """Writes the model; returns the SHA-256 of its manifest, which `load` should be given."""
        files = {
            f"response.{response.name}.npz": arrays_to_bytes(response.surrogate.to_arrays())
            for response in self.responses
        }
        files[_MODEL] = to_json(
            {
                "format": _FORMAT,
                "space": self.space.to_dict(),
                "scaler": self.scaler.to_dict(),
                "deck_id": self.deck_id,
                "held": dict(self.held),
                "responses": [
                    {
                        "name": response.name,
                        "unit": response.unit,
                        "family": response.family,
                        "scores": response.scores,
                    }
                    for response in self.responses
                ],
            }
        )
        return write_folder(folder, files)

    @classmethod
    def load(cls, folder: Path, sha256: str | None = None) -> Model:
        """Reads a model back.

        Args:
            folder: Where `save` wrote.
            sha256: What `save` returned. Without it a changed file is still noticed, a changed
                manifest is not.

        Raises:
            NotFoundError: If files are gone.
            ConflictError: If they are not what was saved. Nothing of them was used then.
        """
        files = read_folder(folder, sha256)
        description = json.loads(files[_MODEL])
        unknown = {entry["family"] for entry in description["responses"]} - set(FAMILIES)
        if description.get("format") != _FORMAT or unknown:
            raise ConflictError("the model was saved by another version", reason="MODEL_FORMAT")
        return cls(
            space=Space.from_dict(description["space"]),
            scaler=Scaler.from_dict(description["scaler"]),
            deck_id=description["deck_id"],
            held=description["held"],
            responses=tuple(
                ResponseModel(
                    name=entry["name"],
                    unit=entry["unit"],
                    scores=entry["scores"],
                    surrogate=FAMILIES[entry["family"]].from_arrays(
                        arrays_from_bytes(files[f"response.{entry['name']}.npz"])
                    ),
                )
                for entry in description["responses"]
            ),
        )


def _nothing() -> Prediction:
    empty = np.empty(0)
    return Prediction(mean=empty, sd=empty, median=empty, low95=empty, high95=empty)

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
        return [each.name for each in self.responses]

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
        found = {}
        for each in self.responses:
            how = self.scaler.responses[each.name]
            mean, sd = each.surrogate.predict(inputs, noise=True)
            found[each.name] = backward(
                how.transform, mean * how.scale + how.center, sd * how.scale
            )
        return found

    def predict(
        self, points: Sequence[Mapping[str, Any]], *, extrapolate: bool = False
    ) -> dict[str, tuple[Floats, Floats]]:
        """Mean and standard deviation (n,) by response, in its unit; see `predictions`."""
        found = self.predictions(points, extrapolate=extrapolate)
        return {name: (each.mean, each.sd) for name, each in found.items()}

    def save(self, folder: Path) -> str:
        """Writes the model; returns the SHA-256 of its manifest, which `load` should be given."""
        files = {
            f"response.{each.name}.npz": arrays_to_bytes(each.surrogate.to_arrays())
            for each in self.responses
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
                        "name": each.name,
                        "unit": each.unit,
                        "family": each.family,
                        "scores": each.scores,
                    }
                    for each in self.responses
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
        told = json.loads(files[_MODEL])
        unknown = {each["family"] for each in told["responses"]} - set(FAMILIES)
        if told.get("format") != _FORMAT or unknown:
            raise ConflictError("the model was saved by another version", reason="MODEL_FORMAT")
        return cls(
            space=Space.from_dict(told["space"]),
            scaler=Scaler.from_dict(told["scaler"]),
            deck_id=told["deck_id"],
            held=told["held"],
            responses=tuple(
                ResponseModel(
                    name=each["name"],
                    unit=each["unit"],
                    scores=each["scores"],
                    surrogate=FAMILIES[each["family"]].from_arrays(
                        arrays_from_bytes(files[f"response.{each['name']}.npz"])
                    ),
                )
                for each in told["responses"]
            ),
        )


def _nothing() -> Prediction:
    empty = np.empty(0)
    return Prediction(mean=empty, sd=empty, median=empty, low95=empty, high95=empty)

"""The model of all that a study knows, published beside its result.

The model that a kit trains before its optimisation knows the design only: it is at its worst where
the optimum lies, because the design has no points there and the study has most of its own.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.space import Choice, Space
from vistaflow_services.optimize.domain import Trial
from vistaflow_services.surrogates.choice import Scores, choose_family
from vistaflow_services.surrogates.dataset import DesignRows, held_parameters
from vistaflow_services.surrogates.manifest import TrainingTable, publish_model
from vistaflow_services.surrogates.model import Model, ResponseModel
from vistaflow_services.surrogates.preparation import Preparation, prepare
from vistaflow_services.surrogates.scaling import fit_scaler

FAMILY = "gp"
"""The family that a study's own surrogates are of."""

FOLDS = 5
"""Folds of the cross-validation that checks its deviations."""


def train_last_model(
    trials: Sequence[Trial],
    space: Space,
    units: Mapping[str, str],
    *,
    deck_id: str,
    families: Mapping[str, str],
    seed: int,
    fixed: Mapping[str, Choice] | None = None,
) -> Model:
    """A model of some responses, trained on every run that succeeded.

    Args:
        trials: The design's, the study's own, and those that verified the best.
        space: Where they lie.
        units: The unit of each response to model.
        deck_id: The deck that was run.
        families: By response another family to choose from beside the Gaussian process.
        seed: Makes it repeatable.
        fixed: Values of parameters that were held.

    Raises:
        InvalidError: Too few rows to learn from.
    """
    ran = [trial for trial in trials if trial.responses]
    rows = DesignRows(
        row_ids=np.array([trial.number for trial in ran], np.int64),
        points=tuple(trial.point for trial in ran),
        responses={
            name: np.array([(trial.responses or {})[name] for trial in ran]) for name in units
        },
        failures=(None,) * len(ran),
    )
    how = Preparation(responses=tuple(units), test_fraction=0.0, seed=seed)
    dataset, _ = prepare(rows, space, how, dict(units), cell_count(space, fixed))
    scaler = fit_scaler(dataset)
    inputs = scaler.inputs(dataset.features)
    models = []
    for name in dataset.responses:
        candidates = dict.fromkeys((FAMILY, families.get(name, FAMILY)))
        surrogate, standardised = choose_family(
            inputs, scaler.standardise(dataset, name), tuple(candidates), FOLDS, seed
        )
        scale = scaler.responses[name].scale
        scores: Scores = {
            family: {**figures, "rmse": figures["rmse"] * scale}
            for family, figures in standardised.items()
        }
        models.append(
            ResponseModel(name=name, surrogate=surrogate, unit=units.get(name, ""), scores=scores)
        )
    return Model(
        space=space,
        scaler=scaler,
        responses=tuple(models),
        deck_id=deck_id,
        held=held_parameters(dataset),
    )


def publish_last_model(
    attempt: Attempt,
    trials: Sequence[Trial],
    space: Space,
    units: Mapping[str, str],
    *,
    deck_id: str,
    before: Model | None,
    seed: int,
    fixed: Mapping[str, Choice],
) -> dict[str, Any] | None:
    """Trains the model and writes it beside the attempt's result.

    Returns:
        What `MlService` needs to serve it; None where there are too few rows. What else goes wrong
        is written into the job's log: it does not take the study's result with it.
    """
    families = {response.name: response.family for response in before.responses} if before else {}
    try:
        model = train_last_model(
            trials, space, units, deck_id=deck_id, families=families, seed=seed, fixed=fixed
        )
        table = TrainingTable(
            deck_id=deck_id,
            responses=[
                {"name": response.name, "unit": response.unit} for response in model.responses
            ],
            transforms={
                response.name: str(model.transform(response.name)) for response in model.responses
            },
        )
        return publish_model(attempt, model, table)
    except InvalidError as error:
        print(f"no model of the study: {error.message}", file=sys.stderr, flush=True)
        return None
    except Exception:
        traceback.print_exc()
        print("no model of the study: it could not be trained", file=sys.stderr, flush=True)
        return None

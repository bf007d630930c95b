"""What the ML jobs publish: each job writes it, later jobs and the services read it.

The results of ML_PREPROCESS, ML_SCALE and ML_TRAIN hold the keys of `TrainingTable`, passed on from
job to job, and those of their own dataclasses. A study that publishes its last model lists it as
ML_TRAIN does, without the dataset.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vistaflow_services.core.results import FILES, ONE_FILE, Manifest, PublishedFile

if TYPE_CHECKING:
    from vistaflow_services.core.work.attempt import Attempt
    from vistaflow_services.surrogates.model import Model


@dataclass(frozen=True, kw_only=True)
class PublishedDataset(PublishedFile):
    """A `dataset.parquet`."""

    digest: str | None = None
    """The hash of its values, by which a scaler knows it."""


@dataclass(frozen=True, kw_only=True)
class TrainingTable(Manifest):
    """The rows to learn from, and where they are from; None where another version left it out."""

    dataset: PublishedDataset | None = field(default=None, metadata={"read": PublishedDataset.read})
    design_id: str | None = None
    deck_id: str | None = None
    deck_uri: str | None = None
    space: Mapping[str, Any] | None = None
    """As `Space.to_dict` writes it."""
    responses: Sequence[Mapping[str, str]] | None = None
    """The `name` and `unit` of each response."""
    transforms: Mapping[str, str] | None = None
    """By response, the scale on which it is modelled: a `Transform`."""
    split: Mapping[str, int] | None = None
    """Rows by part: `train`, `test`."""
    constants: Mapping[str, Any] | None = None
    """Responses that never vary, and their values."""
    whole_space: bool | None = None
    """Whether every point of the space was run."""


@dataclass(frozen=True, kw_only=True)
class PreparationManifest(Manifest):
    """What ML_PREPROCESS did to the rows."""

    rows: int
    dropped: Any
    outliers: Mapping[str, Any]
    """By response, the `count` of outliers and the first of their `row_ids`."""
    constant_parameters: Any
    notes: Sequence[str]
    test_fraction: float
    seed: int
    features: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ScalerManifest(Manifest):
    """What ML_SCALE fitted on the training rows."""

    scaler: PublishedFile = field(metadata=ONE_FILE)
    fitted_on: int = 0
    """Rows."""
    center: Mapping[str, float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelManifest(Manifest):
    """Where a model lies."""

    model: PublishedFile = field(metadata=ONE_FILE)
    """Its folder; the hash is that of the manifest in it."""
    model_id: str = ""
    """The job that published it."""


@dataclass(frozen=True, kw_only=True)
class ModelReport(Manifest):
    """How a model was trained, and what cross-validation says of it."""

    kit_id: int
    created_at: str
    """In the form of RFC 3339."""
    families: Mapping[str, str]
    """By response, the family chosen."""
    cv: Mapping[str, Mapping[str, Mapping[str, float]]]
    """By response and family, the figures of the cross-validation."""
    held_parameters: Mapping[str, Any]
    training_rows: int
    details: Mapping[str, Mapping[str, Any]] | None = None
    """By response, what is worth knowing of its surrogate."""
    folds: int | None = None
    seed: int | None = None
    hyperparameters: Mapping[str, Any] | None = None


def publish_model(
    attempt: Attempt, model: Model, table: TrainingTable, **details: Any
) -> dict[str, Any]:
    """Writes a model into an attempt's folder; answers the result that describes it.

    Args:
        attempt: The job that trained it.
        model: What it trained.
        table: What it was trained on.
        details: More of its `ModelReport`.
    """
    folder = attempt.folder / "model"
    digest = model.save(folder)
    described = attempt.artifacts.describe(folder)
    manifest = ModelManifest(
        model=PublishedFile(uri=described["uri"], sha256=digest, bytes=described["bytes"]),
        model_id=attempt.job_id,
    )
    report = ModelReport(
        kit_id=attempt.kit_id,
        created_at=datetime.datetime.now(datetime.UTC).isoformat(),
        families={response.name: response.family for response in model.responses},
        cv={response.name: response.scores for response in model.responses},
        held_parameters=dict(model.held),
        training_rows=model.scaler.fitted_on,
        **details,
    )
    return {**manifest.to_dict(), **report.to_dict(), **table.to_dict()}


@dataclass(frozen=True, kw_only=True)
class ModelTestManifest(Manifest):
    """What ML_TEST measured on the rows held out."""

    model_id: str
    rows: int
    metrics: Mapping[str, Mapping[str, Any]]
    """By response: figures, their intervals under `ci`, the calibration."""
    units: Mapping[str, str]
    families: Mapping[str, str]
    warnings: Sequence[str]
    residuals: PublishedFile = field(metadata=ONE_FILE)
    """A row a test row: simulated, predicted, residual of each response."""
    plots: tuple[PublishedFile, ...] = field(metadata=FILES)

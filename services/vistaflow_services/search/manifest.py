"""What studies publish: the OPTIMIZE job writes it, the service reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from vistaflow_services.core.results import (
    FILES,
    NULLABLE,
    ONE_FILE,
    Manifest,
    PublishedFile,
)


@dataclass(frozen=True, kw_only=True)
class StudyManifest(Manifest):
    """What the results of both kinds of study hold."""

    kind: str
    """`design` or `model`."""
    study_id: str = ""
    """The job that published it."""
    kit_id: int = 0
    seed: int = 0
    trials: PublishedFile = field(metadata=ONE_FILE)
    """Its `trials.parquet`."""
    plots: tuple[PublishedFile, ...] = field(metadata=FILES)


@dataclass(frozen=True, kw_only=True)
class ConstraintRecord(Manifest):
    """How far a trial meets a constraint. JSON has null for NaN and infinities."""

    text: str
    value: float | None = field(metadata=NULLABLE)
    """The left side."""
    limit: float | None = field(metadata=NULLABLE)
    """The right side."""
    met: bool
    miss: float | None = field(metadata=NULLABLE)
    """By how much it is missed; null if that has no bound."""
    unit: str = ""

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Self:
        """The record; version 0.1.0 wrote no `miss`, which the two sides give."""
        if "miss" not in result:
            value, limit = result["value"], result["limit"]
            miss = None if value is None or limit is None else abs(value - limit)
            result = {**result, "miss": miss}
        return super().read(result)


def _constraints(entries: Sequence[Mapping[str, Any]]) -> tuple[ConstraintRecord, ...]:
    return tuple(map(ConstraintRecord.read, entries))


@dataclass(frozen=True, kw_only=True)
class TrialRecord(Manifest):
    """One trial of a study of a design."""

    number: int
    origin: str
    """Such as `doe`."""
    point: Mapping[str, Any]
    simulated: Mapping[str, float]
    """The responses."""
    objective: float | None = field(metadata=NULLABLE)
    feasible: bool
    constraints: tuple[ConstraintRecord, ...] = field(metadata={"read": _constraints})


@dataclass(frozen=True, kw_only=True)
class BestRecord(TrialRecord):
    """The best trial."""

    verified: bool = False
    """Whether it was run again."""
    found_at: Mapping[str, Any] | None = None
    """The `number` and `origin` of the trial that first had its point."""
    predicted: Mapping[str, Mapping[str, float] | None]
    """By response `mean` and `sd`, as the study expected them before the run."""
    noise: Mapping[str, float] = field(default_factory=dict)
    """By response, the standard deviation of the simulator."""
    run_count: int = 1
    """Runs whose means its responses are."""
    model_predicted: Mapping[str, Mapping[str, float]] | None = None
    """By response `mean` and `sd`, as the kit's own model predicts them."""


def _trial(entry: Mapping[str, Any] | None) -> TrialRecord | None:
    return None if entry is None else TrialRecord.read(entry)


@dataclass(frozen=True, kw_only=True)
class DesignStudyManifest(Manifest):
    """What a study of a design found."""

    goals: str
    direction: str = ""
    objective: str = ""
    deck_id: str = ""
    budget: int = 0
    batch_size: int = 0
    stop_reason: str = "budget"
    parameters: Sequence[Mapping[str, str]] = ()
    responses: Sequence[Mapping[str, str]]
    """The `name` and `unit` of each."""
    best: BestRecord = field(metadata={"read": BestRecord.read})
    doe_best: TrialRecord | None = field(default=None, metadata={**NULLABLE, "read": _trial})
    """The best trial of the design that the study began with."""
    improvement: float | None = field(default=None, metadata=NULLABLE)
    notes: Sequence[str] = ()
    at_bounds: Sequence[Mapping[str, Any]] = ()
    """Parameters of the best point at an end of their range: `name`, `value`, `low`, `high` and
    `end`, which is `lower` or `upper`."""
    evaluations: Mapping[str, Any]
    """Runs: `total`, `simulated`, `cached`, `failed`."""
    last_model: Mapping[str, Any] | None = field(default=None, metadata=NULLABLE)
    """The model of all runs, as ML_TRAIN publishes one."""
    blocking: Any = None
    """Where no trial is feasible: the constraints that are missed most."""


@dataclass(frozen=True, kw_only=True)
class TuningRecord(Manifest):
    """One trial of a study of a model."""

    number: int
    settings: Mapping[str, Any]
    rmse: float | None = field(metadata=NULLABLE)
    """By cross-validation, in standard deviations."""


@dataclass(frozen=True, kw_only=True)
class TuningManifest(Manifest):
    """What a study of a model's settings found."""

    family: str
    responses: Sequence[str] = ()
    folds: int = 0
    best: TuningRecord = field(metadata={"read": TuningRecord.read})
    default: TuningRecord | None = field(default=None, metadata={"read": TuningRecord.read})
    """The trial of the default settings."""
    hyperparameters: Mapping[str, Any]
    trial_count: int
    pruned_count: int = 0
    failed_count: int
    rows: int = 0
    """Rows that were learned from."""

"""What pictures are drawn of: the points of a kit, its model, limits and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import ConflictError
from vistaflow_services.core.registry_client import struct_to_dict
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.decks.expressions import Constraint, Goals, parse_goals
from vistaflow_services.decks.space import Parameter, Point, Space
from vistaflow_services.designs import table
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.optimize.inputs import model_folder
from vistaflow_services.optimize.trials import PARAMETER, RESPONSE, named, read_trials
from vistaflow_services.surrogates.features import model_features
from vistaflow_services.surrogates.model import Model
from vistaflow_services.surrogates.transforms import Prediction

_FINISHED = common_pb2.STATUS_FINISHED
_KINDS = {
    common_pb2.JOB_TYPE_DOE: "DOE",
    common_pb2.JOB_TYPE_ML_TRAIN: "ML_TRAIN",
    common_pb2.JOB_TYPE_OPTIMIZE: "OPTIMIZE",
}

MOST_POINTS = 2_000
"""Points that are drawn; of more, the first."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One job of the kit."""

    name: str
    status: str
    """Such as `FINISHED`."""
    started: datetime | None = None
    ended: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kit as far as pictures show it."""

    kit_id: int
    name: str
    date: str
    """When it last changed, such as `2026-01-31`."""
    stages: Sequence[Stage] = ()
    space: Space | None = None
    """None until a design is finished."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    """Of responses, by name; in the deck's order."""
    points: Sequence[Point] = ()
    responses: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Values by name, of each point; not a number where the run failed."""
    feasible: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Which points meet every constraint."""
    failed: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    goals: Goals | None = None
    best: Point | None = None
    model: Model | None = None

    @property
    def free(self) -> list[Parameter]:
        """The parameters that vary."""
        parameters = self.space.parameters if self.space else ()
        return [parameter for parameter in parameters if parameter.name not in self.fixed]

    @property
    def constraints(self) -> Sequence[Constraint]:
        """The constraints of the goals."""
        return self.goals.constraints if self.goals else ()

    @property
    def drawn_responses(self) -> list[str]:
        """The responses of the goals, or all where there are no goals."""
        names = self.goals.names if self.goals else frozenset(self.units)
        return [name for name in self.units if name in names] or list(self.units)

    @cached_property
    def centre(self) -> Point:
        """Where slices meet: the best point, or else the middle of the space."""
        if self.best is not None:
            return dict(self.best)
        assert self.space is not None
        middle = {p.name: p.decode(np.array([0.5])).tolist()[0] for p in self.space.parameters}
        return {**middle, **self.fixed}

    def column(self, name: str) -> NDArray[Any]:
        """A parameter at every point."""
        return np.array([point[name] for point in self.points])

    def predict(self, points: Sequence[Mapping[str, Any]]) -> dict[str, Prediction]:
        """What the model predicts at points of the space."""
        assert self.model is not None
        return self.model.predict_features(model_features(self.model.space, points)[0])

    def limit_of(self, response: str) -> list[float]:
        """The limits that constraints set on a response alone."""
        return [
            float(constraint.right.evaluate({}))
            for constraint in self.constraints
            if str(constraint.left) == response and not constraint.right.names
        ]


def subject_of(kit: registry_pb2.Kit, artifacts: ArtifactStore) -> Subject:
    """What a kit has published so far.

    Raises:
        NotFoundError: A file of it is gone.
    """
    results = {
        kind: struct_to_dict(job.result)
        for job in kit.jobs
        if job.status == _FINISHED
        for kind in (_KINDS.get(job.job_type, ""),)
        if kind
    }
    subject = Subject(
        kit_id=kit.kit_id,
        name=kit.name,
        date=kit.updated_at.ToDatetime().strftime("%Y-%m-%d"),
        stages=[_stage(job) for job in kit.jobs],
    )
    if "DOE" not in results:
        return subject
    manifest = DesignManifest.read(results["DOE"])
    space = Space.from_dict(manifest.space)
    study = results.get("OPTIMIZE", {})
    text = study.get("goals") or struct_to_dict(kit.spec).get("goals") or ""
    goals = None
    if text:
        goals = parse_goals(text, responses=list(manifest.units), parameters=space.numeric_names)
    if "trials" in study:
        file = PublishedFile.read(study["trials"])
        rows, _ = read_trials(artifacts.verified(file.uri, file.sha256), limit=MOST_POINTS)
        points = [{**manifest.fixed, **named(row, PARAMETER)} for row in rows]
        values = [named(row, RESPONSE) for row in rows]
        failed = [row["failure"] is not None for row in rows]
    else:
        path = artifacts.verified(manifest.design.uri, manifest.design.sha256)
        columns = table.read_columns(path, space)
        points = space.points(columns)[:MOST_POINTS]
        rows = list(table.iterate_rows(path, limit=MOST_POINTS))
        values = [named(row, RESPONSE) for row in rows]
        failed = [row["failure"] is not None for row in rows]
    responses = {
        name: np.array([value.get(name, np.nan) for value in values], np.float64)
        for name in manifest.units
    }
    down = np.array(failed, np.bool_) | ~np.isfinite(np.column_stack([*responses.values()])).any(
        axis=1
    )
    trained = study.get("last_model") or results.get("ML_TRAIN")
    best = study.get("best", {}).get("point")
    return Subject(
        kit_id=subject.kit_id,
        name=subject.name,
        date=subject.date,
        stages=subject.stages,
        space=space,
        fixed=manifest.fixed,
        units=manifest.units,
        points=points,
        responses=responses,
        failed=down,
        feasible=_feasible(goals, points, responses, down),
        goals=goals,
        best=None if best is None else _canonical(space, best),
        model=None if trained is None else Model.load(*model_folder(trained, artifacts)),
    )


def need_model(subject: Subject) -> None:
    """Refuses a picture of the model where there is none.

    Raises:
        ConflictError: Nothing was trained yet.
    """
    if subject.model is None:
        raise ConflictError(
            f"kit {subject.kit_id} has no model yet: this picture is drawn from it",
            reason="NO_MODEL",
        )


def need_points(subject: Subject) -> None:
    """Refuses a picture of points where there are none.

    Raises:
        ConflictError: No design is finished.
    """
    if not subject.points:
        raise ConflictError(
            f"kit {subject.kit_id} has no points yet: its design is not finished",
            reason="NO_POINTS",
        )


def _feasible(
    goals: Goals | None,
    points: Sequence[Point],
    responses: Mapping[str, NDArray[np.float64]],
    failed: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    met = ~failed
    for constraint in goals.constraints if goals else ():
        values = {
            name: responses[name] if name in responses else np.array([p[name] for p in points])
            for name in constraint.names
        }
        met = met & np.broadcast_to(constraint.met(values), met.shape)
    return met


def _canonical(space: Space, point: Mapping[str, Any]) -> Point:
    values = {}
    for parameter in space.parameters:
        value, _ = parameter.canonical(point[parameter.name])
        values[parameter.name] = point[parameter.name] if value is None else value
    return values


def _stage(job: Any) -> Stage:
    def moment(name: str) -> datetime | None:
        return getattr(job, name).ToDatetime() if job.HasField(name) else None

    status = common_pb2.Status.Name(job.status).removeprefix("STATUS_")
    return Stage(
        name=job.name, status=status, started=moment("started_at"), ended=moment("finished_at")
    )

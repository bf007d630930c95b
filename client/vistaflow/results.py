"""What the stages return: decks, studies, trials. Frozen values, as in `models`.

Each keeps the message it was made from as `pb`. Fields of the message that a class does not list
are attributes of its objects, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from vistaflow import _html
from vistaflow._rows import COLUMNS, short_repr
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.models import Prediction, struct_dict

__all__ = [
    "Comparison",
    "Constraint",
    "Deck",
    "Parameter",
    "Response",
    "Study",
    "Trial",
]


class _FromMessage:
    """A value whose message answers for the attributes that the value lacks."""

    if not TYPE_CHECKING:  # so that a misspelt attribute is an error for a type checker

        def __getattr__(self, name: str) -> Any:
            if name == "pb" or name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.pb, name)


@dataclass(frozen=True, kw_only=True)
class Parameter(_FromMessage):
    """A parameter of a deck."""

    name: str
    unit: str
    low: float | None
    """Lower end of the range; None for a parameter with choices."""
    high: float | None
    choices: tuple[Any, ...]
    """The values to choose from; empty for a range."""
    description: str
    pb: common_pb2.Parameter = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Response(_FromMessage):
    """A quantity that a simulator returns."""

    name: str
    unit: str
    description: str
    pb: common_pb2.Response = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Deck(_FromMessage):
    """A simulator's files with their parameters and responses."""

    deck_id: str
    name: str
    version: str
    simulator: str
    description: str
    parameters: tuple[Parameter, ...]
    responses: tuple[Response, ...]
    constraints: tuple[str, ...]
    """Constraints between its parameters, such as `h <= b`."""
    timeout: timedelta
    """The longest one run may take."""
    shipped: bool
    """Whether it is part of vistaflow."""
    noisy: bool
    """Whether two runs of one point may differ."""
    created_at: datetime | None
    pb: ingestion_pb2.Deck = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "name", "version", "simulator", "deck_id")

    def _repr_html_(self) -> str:
        parameters = [
            (
                parameter.name,
                ", ".join(map(_html.number, parameter.choices))
                or f"{_html.number(parameter.low)} … {_html.number(parameter.high)}",
                parameter.unit,
                parameter.description,
            )
            for parameter in self.parameters
        ]
        responses = [(part.name, part.unit, part.description) for part in self.responses]
        return (
            _html.heading(f"deck {self.name} {self.version}", self.simulator)
            + _html.table(("parameter", "range", "unit", "description"), parameters)
            + _html.table(("response", "unit", "description"), responses)
        )


@dataclass(frozen=True, kw_only=True)
class Trial(_FromMessage):
    """One point of a study."""

    number: int
    """Its number in the study, from 0."""
    origin: str
    """`doe`, `infill`, `verify`, or `default` and `tuned` for hyper-parameters."""
    parameters: Mapping[str, Any] = field(metadata={COLUMNS: True})
    """Values by name, in the units of the deck."""
    responses: Mapping[str, float] = field(metadata={COLUMNS: True})
    """Simulated values by name; empty if the run failed."""
    objective: float | None
    """The objective as written; None if the run failed."""
    feasible: bool
    """Whether every constraint is met."""
    failure: str
    """How the run failed, such as `TIMEOUT`; empty if it did not."""
    message: str = ""
    """The reason of the failure."""
    log: str = ""
    """The end of what the failed run printed."""
    run_time: timedelta | None = None
    """How long its run took; None if that is not known."""
    cached: bool = False
    """Whether the point store had its run."""
    source: str = ""
    """Where the design took it from, such as `kit 31`; empty if it was run for the kit."""
    pb: optimize_pb2.Trial = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "number", "origin", "objective", "feasible", "failure")


@dataclass(frozen=True, kw_only=True)
class Comparison(_FromMessage):
    """One response at the best point, predicted and simulated, in the response's unit."""

    response: Response
    predicted: Prediction
    """What the model predicted before the run."""
    simulated: float
    """The mean of the verifying runs."""
    noise: float
    """Standard deviation of one run; 0 unless the simulator is noisy."""
    run_count: int
    """Verifying runs."""
    pb: optimize_pb2.ResponseComparison = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Constraint(_FromMessage):
    """A constraint at the best point."""

    text: str
    """The constraint as written."""
    value: float
    """The value of its left side, in `unit`."""
    limit: float
    """The value of its right side, in `unit`."""
    met: bool
    miss: float
    """How far it is missed, in `unit`; infinite where a side has no value."""
    unit: str
    pb: optimize_pb2.ConstraintResult = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Study(_FromMessage):
    """The result of an optimisation."""

    study_id: str
    kit_id: int
    goals: str
    best: Trial
    """The best point, verified by the simulator."""
    design_best: Trial | None
    """The best point of the design it started from; None if none is feasible."""
    comparisons: tuple[Comparison, ...]
    constraints: tuple[Constraint, ...]
    """The constraints at the best point."""
    evaluation_count: int
    """Points in all, those of the design included."""
    simulated_count: int
    """Runs of the simulator for the study."""
    cached_count: int
    """Points found in the point store."""
    failed_count: int
    """Runs that failed."""
    stop_reason: str
    """Why it ended, such as `budget` or `tolerance`."""
    hyperparameters: Mapping[str, Any]
    """Of a tuning study: the best ones."""
    notes: tuple[str, ...]
    model_id: str
    """The model of all points; empty if there is none."""
    model_row_count: int
    pb: optimize_pb2.Study = field(repr=False, compare=False)

    def __repr__(self) -> str:
        return short_repr(self, "study_id", "kit_id", "goals", "best", "stop_reason")

    def _repr_html_(self) -> str:
        units = {part.response.name: part.response.unit for part in self.comparisons}
        comparisons = [
            (
                part.response.name,
                _html.number(part.predicted.mean),
                _html.number(part.predicted.standard_deviation),
                _html.number(part.simulated),
                units[part.response.name],
            )
            for part in self.comparisons
        ]
        constraints = [
            (part.text, _html.number(part.value), "met" if part.met else _miss(part))
            for part in self.constraints
        ]
        best = [(name, _html.number(value)) for name, value in self.best.parameters.items()]
        return "".join(
            (
                _html.heading(f"study {self.study_id}", self.goals),
                _html.table(("parameter", "best"), best),
                _html.table(("response", "predicted", "± 1 sd", "simulated", "unit"), comparisons),
                _html.table(("constraint", "value", ""), constraints),
                _html.pictures(plot.uri for plot in self.pb.plots),
            )
        )


def _miss(constraint: Constraint) -> str:
    if not math.isfinite(constraint.miss):
        return "missed by an undefined amount"
    return f"missed by {_html.number(constraint.miss)} {constraint.unit}".rstrip()


def deck_of(message: ingestion_pb2.Deck) -> Deck:
    """The deck of a message."""
    created = message.HasField("created_at")
    return Deck(
        deck_id=message.deck_id,
        name=message.name,
        version=message.version,
        simulator=message.simulator,
        description=message.description,
        parameters=tuple(map(_parameter_of, message.parameters)),
        responses=tuple(map(_response_of, message.responses)),
        constraints=tuple(message.constraints),
        timeout=message.timeout.ToTimedelta(),
        shipped=message.shipped,
        noisy=message.noisy,
        created_at=message.created_at.ToDatetime(tzinfo=UTC) if created else None,
        pb=message,
    )


def trial_of(message: optimize_pb2.Trial) -> Trial:
    """The trial of a message."""
    return Trial(
        number=message.number,
        origin=message.origin,
        parameters=struct_dict(message.parameters),
        responses=dict(sorted(message.responses.items())),
        objective=message.objective if message.HasField("objective") else None,
        feasible=message.feasible,
        failure=message.failure,
        message=message.message,
        log=message.log,
        run_time=message.run_duration.ToTimedelta() if message.HasField("run_duration") else None,
        cached=message.cached,
        source=message.source,
        pb=message,
    )


def study_of(message: optimize_pb2.Study) -> Study:
    """The study of a message."""
    has_design = message.HasField("design_best")
    return Study(
        study_id=message.study_id,
        kit_id=message.kit_id,
        goals=message.goals,
        best=trial_of(message.best),
        design_best=trial_of(message.design_best) if has_design else None,
        comparisons=tuple(
            Comparison(
                response=_response_of(part.response),
                predicted=prediction_of(part.predicted, part.response.unit),
                simulated=part.simulated,
                noise=part.noise,
                run_count=part.run_count,
                pb=part,
            )
            for part in message.comparisons
        ),
        constraints=tuple(
            Constraint(
                text=part.text,
                value=part.value,
                limit=part.limit,
                met=part.met,
                miss=part.miss,
                unit=part.unit,
                pb=part,
            )
            for part in message.constraints
        ),
        evaluation_count=message.evaluation_count,
        simulated_count=message.simulated_count,
        cached_count=message.cached_count,
        failed_count=message.failed_count,
        stop_reason=message.stop_reason,
        hyperparameters=struct_dict(message.hyperparameters),
        notes=tuple(message.notes),
        model_id=message.model_id,
        model_row_count=message.model_row_count,
        pb=message,
    )


def prediction_of(message: ml_pb2.Prediction, unit: str) -> Prediction:
    """The prediction of a message, whose unit is that of its response."""
    return Prediction(
        mean=message.mean,
        standard_deviation=message.standard_deviation,
        low95=message.low95,
        high95=message.high95,
        unit=unit,
    )


def _parameter_of(message: common_pb2.Parameter) -> Parameter:
    return Parameter(
        name=message.name,
        unit=message.unit,
        low=message.low if message.HasField("low") else None,
        high=message.high if message.HasField("high") else None,
        choices=tuple(
            choice.string_value
            if choice.WhichOneof("kind") == "string_value"
            else choice.number_value
            for choice in message.choices
        ),
        description=message.description,
        pb=message,
    )


def _response_of(message: common_pb2.Response) -> Response:
    return Response(
        name=message.name, unit=message.unit, description=message.description, pb=message
    )

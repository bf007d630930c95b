"""Between the protos and the domain, and from a plan to the jobs of a kit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import any_pb2, json_format, struct_pb2
from google.protobuf.message import Message

from vistaflow._rpc.structs import whole
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.decks.cells import cell_count
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Choice
from vistaflow_services.designs.recipe import (
    DEFAULT_LEVELS,
    Generator,
    default_generator,
    max_size,
)
from vistaflow_services.pipeline.domain import STAGES, KitPlan, modelled

COLLECT: Final = "collect"
DESIGN: Final = "design"
PREPROCESS: Final = "preprocess"
SCALE: Final = "scale"
TRAIN: Final = "train"
TEST: Final = "test"
OPTIMIZE: Final = "optimize"
"""The names of a kit's jobs."""


def with_defaults(spec: pb.KitSpec, deck: Deck) -> pb.KitSpec:
    """The spec as it will run: defaults filled in, the deck pinned by its id."""
    full = pb.KitSpec()
    full.CopyFrom(spec)
    if not full.deck.archive:
        full.deck.name = deck.digest
    full.project = spec.project or "default"
    varied = deck.space.dimension - sum(
        parameter.HasField("fixed") for parameter in spec.design.parameters
    )
    design = full.design
    if full.reuse.only:
        pass  # it makes no points
    elif not design.generator:
        word = default_generator(design.size).name
        design.generator = doe_pb2.Generator.Value(f"GENERATOR_{word}")
    if design.generator == doe_pb2.GENERATOR_FULL_FACTORIAL:
        design.levels = design.levels or DEFAULT_LEVELS
    elif not design.size and not full.reuse.only:
        design.size = max(10, min(max_size(Generator.LHS_ESE), 10 * varied))
        held = {
            parameter.name: value
            for parameter in design.parameters
            if parameter.HasField("fixed") and parameter.name in deck.space.names
            # A value that its parameter cannot have is reported when the plan is examined.
            for value, problem in (deck.space[parameter.name].canonical(_plain(parameter.fixed)),)
            if value is not None and not problem
        }
        design.size = min(design.size, cell_count(deck.space, held) or design.size)
    design.seed = design.seed or spec.seed
    full.evaluation.SetInParent()
    if not full.ml.HasField("test_fraction"):
        full.ml.test_fraction = 0.2
    full.ml.folds = full.ml.folds or 5
    full.stop_after = spec.stop_after or common_pb2.JOB_TYPE_OPTIMIZE
    full.optimize.budget = full.optimize.budget or 5 * max(1, varied)
    full.max_attempts = spec.max_attempts or 5
    return full


def plan_of(spec: pb.KitSpec, deck: Deck) -> KitPlan:
    """The plan of a spec whose defaults are filled in."""
    design = spec.design
    return KitPlan(
        name=spec.name,
        project=spec.project,
        labels=dict(spec.labels),
        deck=deck,
        ranges={
            parameter.name: _range(parameter)
            for parameter in design.parameters
            if not parameter.HasField("fixed")
        },
        fixed={
            parameter.name: _choice(parameter.fixed, deck, parameter.name)
            for parameter in design.parameters
            if parameter.HasField("fixed")
        },
        constraints=tuple(design.constraints),
        generator=enum_word(doe_pb2.Generator.Name(design.generator), "GENERATOR_").lower(),
        size=design.size,
        levels=design.levels or DEFAULT_LEVELS,
        parameter_levels=dict(design.parameter_levels),
        include_default=design.include_default,
        known_only=spec.reuse.only,
        failure_policy=_policy(spec.evaluation.failure_policy),
        max_failed_fraction=(
            spec.evaluation.max_failed_fraction
            if spec.evaluation.HasField("max_failed_fraction")
            else None
        ),
        responses=tuple(spec.ml.responses),
        log_responses=tuple(spec.ml.log_responses),
        test_fraction=spec.ml.test_fraction,
        folds=spec.ml.folds,
        goals=spec.goals,
        budget=spec.optimize.budget,
        batch_size=spec.optimize.batch_size,
        tolerance=spec.optimize.tolerance,
        stop_after=enum_word(common_pb2.JobType.Name(spec.stop_after), "JOB_TYPE_"),
        seed=spec.seed,
        max_attempts=spec.max_attempts,
    )


def _policy(number: doe_pb2.FailurePolicy.ValueType) -> str:
    """A failure policy's name; empty for none, its number for one that does not exist."""
    if number not in doe_pb2.FailurePolicy.values():
        return str(number)
    word = enum_word(doe_pb2.FailurePolicy.Name(number), "FAILURE_POLICY_").lower()
    return "" if word == "unspecified" else word


def jobs_of(
    spec: pb.KitSpec,
    plan: KitPlan,
    reuse: doe_pb2.ReuseSpec | None = None,
    *,
    prefix: str = "",
) -> list[registry_pb2.NewJob]:
    """The jobs of a kit, in order, each with the spec of its stage.

    Args:
        spec: The kit.
        plan: The same with its deck read.
        reuse: The known points that its design takes.
        prefix: What the names of its jobs begin with, in a kit that has others.
    """
    collect, design, preprocess, scale, train, test, optimize = (
        f"{prefix}{name}" for name in (COLLECT, DESIGN, PREPROCESS, SCALE, TRAIN, TEST, OPTIMIZE)
    )
    responses = list(modelled(plan))
    specs: list[tuple[str, list[str], Message]] = [
        (collect, [], ingestion_pb2.CollectDecksSpec(sources=[spec.deck])),
        (
            design,
            [collect],
            doe_pb2.DoeSpec(
                deck=collect,
                design=spec.design,
                evaluation=spec.evaluation,
                reuse=reuse if reuse is not None and reuse.ByteSize() else None,
            ),
        ),
        (
            preprocess,
            [design],
            ml_pb2.PreprocessSpec(
                design=design,
                responses=responses,
                test_fraction=plan.test_fraction,
                seed=plan.seed,
                outliers=spec.ml.outliers,
                log_responses=spec.ml.log_responses,
            ),
        ),
        (scale, [preprocess], ml_pb2.ScaleSpec(dataset=preprocess)),
        (
            train,
            [preprocess, scale],
            ml_pb2.TrainSpec(
                scaler=scale, families=spec.ml.families, folds=plan.folds, seed=plan.seed
            ),
        ),
        (test, [preprocess, scale, train], ml_pb2.TestSpec(model=train)),
        (
            optimize,
            [collect, design, train, test],
            optimize_pb2.OptimizeDesignSpec(
                design=design,
                model=train,
                goals=plan.goals,
                budget=plan.budget,
                batch_size=plan.batch_size,
                tolerance=plan.tolerance,
                seed=plan.seed,
            ),
        ),
    ]
    jobs = []
    for order, (stage, (name, depends_on, message)) in enumerate(
        zip(STAGES, specs, strict=True), start=1
    ):
        if not plan.reaches(stage):
            break
        packed = any_pb2.Any()
        packed.Pack(message)
        jobs.append(
            registry_pb2.NewJob(
                name=name,
                job_type=common_pb2.JobType.Value(f"JOB_TYPE_{stage}"),
                current_order=order,
                depends_on=depends_on,
                spec=packed,
                max_attempts=plan.max_attempts,
            )
        )
    return jobs


def spec_record(spec: pb.KitSpec, deck: Deck) -> struct_pb2.Struct:
    """What the registry keeps of the kit as a whole; the deck is named, not carried."""
    fields: dict[str, Any] = json_format.MessageToDict(spec, preserving_proto_field_name=True)
    fields["deck"] = {"name": deck.name, "version": deck.version, "deck_id": deck.digest}
    units = {parameter.name: parameter.unit for parameter in deck.space.parameters}
    fields["units"] = units | {response.name: response.unit for response in deck.responses}
    record = struct_pb2.Struct()
    record.update(fields)
    return record


def enum_word(name: str, prefix: str) -> str:
    """An enum value's name without its prefix."""
    return name.removeprefix(prefix)


def _range(override: common_pb2.ParameterOverride) -> Mapping[str, Any]:
    changes: dict[str, Any] = {}
    if override.HasField("low"):
        changes["low"] = override.low
    if override.HasField("high"):
        changes["high"] = override.high
    if override.choices:
        changes["choices"] = [_plain(choice) for choice in override.choices]
    return changes


def _choice(value: struct_pb2.Value, deck: Deck, name: str) -> Choice:
    plain = _plain(value)
    if name in deck.space.names:
        canonical, problem = deck.space[name].canonical(plain)
        if canonical is not None and not problem:
            return canonical
    return plain


def _plain(value: struct_pb2.Value) -> Choice:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return whole(value.number_value)
    return value.string_value if kind == "string_value" else str(value)

"""How long the runs of a kit may take, by what the point store knows of its deck."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import median

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Point
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.recipe import Generator, Recipe, Region
from vistaflow_services.pipeline.domain import KitPlan
from vistaflow_services.simulators.points import PointStore, point_key

MOST_LOOKED_UP = 1000
"""Largest design whose points are looked up in the store: making a larger one takes too long."""

DEFAULT_BATCH = 4
"""Runs proposed at a time, where the kit does not say how many."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a kit costs."""

    run_count: int
    """Runs at most, without those that are stored."""
    known_count: int
    """Points of the design that are stored."""
    run_seconds: float | None
    """What one run takes; None if none of the deck is stored."""
    seconds: float | None
    """What all of them take."""


def estimate(
    plan: KitPlan, *, simulation_count: int, seed: int, store: PointStore, cores: int
) -> Estimate:
    """What a kit without mistakes costs.

    Args:
        plan: The kit.
        simulation_count: Simulator runs it makes at most.
        seed: Of its design.
        store: The stored points.
        cores: That one job keeps busy.
    """
    seconds = store.run_seconds(plan.deck)
    known = 0
    if seconds and plan.reaches("DOE") and simulation_count - plan.budget <= MOST_LOOKED_UP:
        # A design that cannot be made is its job's to refuse, with what it tried.
        with suppress(ServiceError):
            points = {point_key(point): point for point in _design(plan, seed)}
            known = len(store.get_many(plan.deck, points))
    runs = max(0, simulation_count - known)
    if not seconds:
        return Estimate(run_count=runs, known_count=0, run_seconds=None, seconds=None)
    infill = min(plan.budget, runs) if plan.reaches("OPTIMIZE") else 0
    # The runs of a batch are made at once; the next batch waits for the last of them.
    batch = plan.batch_size or min(cores, DEFAULT_BATCH)
    rounds = math.ceil((runs - infill) / cores) + math.ceil(infill / batch) * math.ceil(
        batch / cores
    )
    one = median(seconds)
    return Estimate(run_count=runs, known_count=known, run_seconds=one, seconds=one * rounds)


def _design(plan: KitPlan, seed: int) -> list[Point]:
    """The points of the design as its job will make them; none of known points alone."""
    if plan.known_only:
        return []
    space = plan.deck.space.narrow(plan.ranges)
    constraints = [parse_constraint(text, space.numeric_names) for text in plan.constraints]
    space = replace(space, constraints=(*space.constraints, *constraints))
    is_factorial = plan.generator == Generator.FULL_FACTORIAL
    recipe = Recipe(
        generator=Generator(plan.generator),
        size=0 if is_factorial else plan.size,
        seed=seed,
        levels=plan.levels if is_factorial else 0,
        parameter_levels=plan.parameter_levels,
        include_default=plan.include_default,
    )
    design = generate(recipe, Region(space=space, fixed=plan.fixed))
    return plan.deck.space.points(design.columns)


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Makes the estimates of answers."""

    store: PointStore
    cores: int
    """That one job keeps busy."""
    limit_hours: float
    """Above which a caller is to confirm; 0: never."""

    def message(self, plan: KitPlan, simulation_count: int, seed: int) -> pb.RunEstimate:
        """The estimate of a kit without mistakes."""
        cost = estimate(
            plan, simulation_count=simulation_count, seed=seed, store=self.store, cores=self.cores
        )
        message = pb.RunEstimate(
            run_count=cost.run_count, known_count=cost.known_count, core_count=self.cores
        )
        if cost.run_seconds is not None and cost.seconds is not None:
            message.run_duration.FromTimedelta(timedelta(seconds=cost.run_seconds))
            message.duration.FromTimedelta(timedelta(seconds=cost.seconds))
        if self.limit_hours:
            message.confirmation_limit.FromTimedelta(timedelta(hours=self.limit_hours))
        return message

"""What a kit costs, by what the store knows of its deck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.pipeline.test_domain import PLAN  # type: ignore[import-not-found]
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.recipe import Generator, Recipe, Region
from vistaflow_services.pipeline.config import Config
from vistaflow_services.pipeline.domain import KitPlan, examine
from vistaflow_services.pipeline.estimate import Estimate, Estimates, estimate
from vistaflow_services.simulators import Outcome
from vistaflow_services.simulators.points import PointStore, point_key

HOUR = 3600.0


def cost_of(plan: KitPlan, store: PointStore) -> Estimate:
    runs = examine(plan).simulation_count
    return estimate(plan, simulation_count=runs, seed=7, store=store, cores=2)


def store_design(folder: Path, size: int, *, known: int) -> PointStore:
    """A store that knows some points of the design of that size, each a run of an hour."""
    recipe = Recipe(generator=Generator.LHS_ESE, size=size, seed=7)
    points = PLAN.deck.space.points(generate(recipe, Region(space=PLAN.deck.space)).columns)
    responses = {"cost": 1.0, "tau": 1.0}
    store = PointStore(folder)
    store.put_many(
        PLAN.deck,
        {
            point_key(point): Outcome(point=point, responses=responses, seconds=HOUR)
            for point in points[:known]
        },
    )
    return store


def test_the_time_of_a_deck_that_was_never_run_is_not_known(tmp_path: Path) -> None:
    cost = cost_of(PLAN, PointStore(tmp_path))
    assert cost == Estimate(run_count=61, known_count=0, run_seconds=None, seconds=None)


def test_points_in_the_store_cost_nothing(tmp_path: Path) -> None:
    store = store_design(tmp_path, 40, known=30)

    # 10 points and the run that verifies, 2 at a time; then 10 batches of 2.
    assert cost_of(PLAN, store) == Estimate(
        run_count=31, known_count=30, run_seconds=HOUR, seconds=16 * HOUR
    )
    # Of another design no point is known, but how long a run takes is.
    assert cost_of(replace(PLAN, size=50), store).known_count == 0
    assert cost_of(replace(PLAN, stop_after="DOE", size=50), store).seconds == 25 * HOUR


def test_a_batch_takes_as_many_turns_as_it_has_runs_for_a_core(tmp_path: Path) -> None:
    store = store_design(tmp_path, 40, known=40)
    assert cost_of(replace(PLAN, batch_size=4), store).seconds == 11 * HOUR
    assert cost_of(replace(PLAN, batch_size=1), store).seconds == 21 * HOUR


def test_the_limit_is_the_operators(tmp_path: Path) -> None:
    store = store_design(tmp_path, 40, known=40)

    def message(hours: float) -> tuple[int, bool]:
        made = Estimates(store=store, cores=2, limit_hours=hours).message(PLAN, 61, 7)
        return made.duration.seconds, made.HasField("confirmation_limit")

    assert message(8) == (11 * HOUR, True)
    assert message(0) == (11 * HOUR, False)
    with pytest.raises(ValueError, match="confirmation_hours is at least 0"):
        Config(confirmation_hours=-1)


def test_a_design_that_cannot_be_made_is_estimated_without_known_points(tmp_path: Path) -> None:
    store = store_design(tmp_path, 40, known=40)
    impossible = replace(PLAN, constraints=["h >= 1.999999", "l <= 0.100001"])

    cost = estimate(impossible, simulation_count=61, seed=7, store=store, cores=2)

    assert (cost.known_count, cost.run_count) == (0, 61)

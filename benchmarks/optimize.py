"""How close a study comes to the optimum, against Optuna's TPE and random search, at equal runs.

    python benchmarks/optimize.py [--seeds 5]

Every searcher may run the simulator 15 times a parameter; ours spends 10 of them on a design, as
kits do by default, or 5. Regret is the distance to the known optimum, as a part of the optimum, in
the median over seeds; infinite where no point was feasible. Processor time is the searcher's, for
each run.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import optuna

from vistaflow_services.decks.deck import shipped_deck
from vistaflow_services.decks.space import Point
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.recipe import Generator, Recipe, Region
from vistaflow_services.optimize.domain import Problem, StudyPlan, check_goals, made_trial
from vistaflow_services.optimize.study import Study
from vistaflow_services.simulators import function_simulator

RUNS_PER_PARAMETER = 15
BATCH = 2


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shipped deck whose optimum is known."""

    deck: str
    goals: str
    optimum: float


CASES = (
    Case(deck="branin", goals="minimize y", optimum=0.397887),
    Case(
        deck="welded_beam",
        goals="minimize cost; tau <= 13600; sigma <= 30000; deflection <= 0.25; pc >= 6000",
        optimum=1.724852,
    ),
    Case(deck="hartmann6", goals="minimize y", optimum=-3.322368),
)


class Bench:
    """A case as every searcher meets it: points in, worth out, each run counted."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.deck = shipped_deck(case.deck)
        self.space = self.deck.space
        goals = check_goals(
            case.goals, responses=self.deck.response_names, parameters=self.space.names
        )
        self.problem = Problem(space=self.space, goals=goals)
        self.runs = RUNS_PER_PARAMETER * self.space.dimension

    def evaluate(self, points: list[Point]) -> list[dict[str, float]]:
        return [
            dict(outcome.responses) for outcome in function_simulator.compute(self.deck, points)
        ]

    def regret(self, point: Point, responses: dict[str, float]) -> float:
        worth = self.problem.assess(point, responses)
        if not (worth.feasible and self.space.feasible([point])[0]):
            return math.inf
        return (worth.objective - self.case.optimum) / abs(self.case.optimum)


def own(per_parameter: int, bench: Bench, seed: int) -> float:
    size = per_parameter * bench.space.dimension
    recipe = Recipe(generator=Generator.LHS_ESE, size=size, seed=seed)
    points = generate(recipe, Region(space=bench.space)).points()
    trials = [
        made_trial(bench.problem, number, "doe", point, responses)
        for number, (point, responses) in enumerate(
            zip(points, bench.evaluate(points), strict=True)
        )
    ]
    study = Study(
        problem=bench.problem,
        plan=StudyPlan(goals=bench.case.goals, seed=seed),
        budget=bench.runs - size,
        batch_size=BATCH,
        evaluate=lambda asked: function_simulator.compute(bench.deck, list(asked)),
        trials=trials,
        responses=bench.deck.response_names,
    )
    best = study.run().best
    assert sum(trial.origin != "verify" for trial in study.trials) <= bench.runs
    assert best is not None
    assert best.responses is not None
    return bench.regret(dict(best.point), dict(best.responses))


def sampler(make: Callable[[int], optuna.samplers.BaseSampler]) -> Callable[[Bench, int], float]:
    def search(bench: Bench, seed: int) -> float:
        regrets = []
        study = optuna.create_study(sampler=make(seed))
        for _ in range(bench.runs):
            trial = study.ask()
            point: Point = {
                parameter.name: trial.suggest_float(
                    parameter.name, parameter.low or 0.0, parameter.high or 0.0
                )
                for parameter in bench.space.parameters
            }
            (responses,) = bench.evaluate([point])
            worth = bench.problem.assess(point, responses)
            limits = [float(constraint.violation(point)) for constraint in bench.space.constraints]
            limits += [
                (left - right) / abs(right)
                for left, right in bench.problem.observe(point, responses).sides
            ]
            trial.set_user_attr("limits", limits)
            study.tell(trial, worth.objective)
            regrets.append(bench.regret(point, responses))
        return min(regrets)

    return search


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constraints_func=lambda trial: trial.user_attrs["limits"]
    )


SEARCHERS: dict[str, Callable[[Bench, int], float]] = {
    "vistaflow, design of 10 d": partial(own, 10),
    "vistaflow, design of 5 d": partial(own, 5),
    "optuna tpe": sampler(tpe),
    "random": sampler(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # What Optuna 5 has in place of `constraints_func` the oldest one we allow does not.
    warnings.filterwarnings("ignore", message=".*constraints_func", category=FutureWarning)
    print(f"optimize: medians and worst of {seeds} seeds; ratios to random search")
    for case in CASES:
        bench = Bench(case)
        results = {}
        for name, search in SEARCHERS.items():
            begun = time.process_time()
            regrets = [search(bench, seed) for seed in range(seeds)]
            spent = (time.process_time() - begun) / seeds / bench.runs
            results[name] = (statistics.median(regrets), max(regrets), spent)
        title = f"{case.deck}, {bench.runs} runs"
        print(f"\n{title:28}{'regret':>10}{'ratio':>9}{'worst':>10}{'CPU a run':>12}")
        base = results["random"][0]
        for name, (regret, worst, spent) in results.items():
            ratio = regret / base if math.isfinite(base) else math.nan
            print(f"  {name:26}{regret:>10.2%}{ratio:>9.4f}{worst:>10.2%}{spent * 1e3:>10.1f}ms")


if __name__ == "__main__":
    main()

"""What an OPTIMIZE job does: optimises a design against the simulator, or tunes a model.

Points that were run are kept in the point store, and what is asked next depends on the seed and
on what was answered alone: another attempt replays what this one ran and ends with the same best.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Final

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vistaflow._spans import span_text
from vistaflow.api.optimize.v1 import optimize_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.core.work.pictures import draw_pictures
from vistaflow_services.decks.deck import Deck, Policy
from vistaflow_services.decks.space import Point
from vistaflow_services.designs.journal import discard, journal_of
from vistaflow_services.optimize import plots, specs
from vistaflow_services.optimize.domain import (
    DEFAULT_BATCH,
    RUNS_PER_PARAMETER,
    Problem,
    StudyPlan,
    Trial,
    at_bounds,
    best_trial,
    blocking,
    check_goals,
    constants_of,
    miss_scale,
    notes_on,
)
from vistaflow_services.optimize.inputs import (
    Design,
    find_manifest,
    model_folder,
    open_design,
)
from vistaflow_services.optimize.last_model import publish_last_model
from vistaflow_services.optimize.study import Study, StudyResult
from vistaflow_services.optimize.suggestion import predicted_best
from vistaflow_services.optimize.trials import trial_table, write_trials
from vistaflow_services.optimize.tuning_job import tune
from vistaflow_services.search.manifest import (
    BestRecord,
    ConstraintRecord,
    DesignStudyManifest,
    StudyManifest,
    TrialRecord,
)
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.outcome import Outcome, reasons_of, reasons_text
from vistaflow_services.simulators.pace import Pace
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.run import run_point
from vistaflow_services.surrogates.model import Model

POINTS = "points"
"""The folder of the artifact store that holds every point ever run."""


def run(attempt: Attempt) -> dict[str, Any]:
    """Runs one OPTIMIZE job, of a design or of a model by its spec.

    Returns:
        The study's manifest, JSON-able.

    Raises:
        JobError: A reference names nothing, no run succeeded, or no point is possible.
        InvalidError: The spec does not fit the deck; each mistake names its field.
    """
    # One thread: sums come in one order, so that a replay is the same to the last bit.
    with threadpool_limits(limits=1):
        manifest = tune(attempt) if isinstance(attempt.spec, pb.TuneModelSpec) else _study(attempt)
    published = attempt.publish(manifest)
    discard(attempt)
    return published


PRELOAD: Final = ("vistaflow_services.optimize.plots",)
"""What the process that attempts are forked from imports beforehand."""

JOBS: dict[str, Callable[[Attempt], dict[str, Any]]] = {"OPTIMIZE": run}


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """A study ready to run."""

    plan: StudyPlan
    design: Design
    problem: Problem
    trials: list[Trial]
    budget: int
    batch_size: int
    model: Model | None


def _study(attempt: Attempt) -> dict[str, Any]:
    setting = _prepare(attempt)
    with attempt.part("infill") as figures:
        result = _search(attempt, setting)
        figures.update({"runs": setting.budget, "stop_reason": result.stop_reason})
    if result.best is None and any(trial.responses for trial in result.trials):
        raise JobError(
            f"`{setting.problem.objective}` has no value at any point that ran, so there is no "
            "best point",
            reason="UNDEFINED_OBJECTIVE",
            hint="look at the responses in the trials; a logarithm, a root or a division may have "
            "no value there",
        )
    if result.best is None:
        raise JobError(
            "no run of the design or the study succeeded, so there is no best point",
            reason="ALL_FAILED",
            hint="look at the failures in the trials; narrow the ranges or repair the deck",
        )
    with attempt.part("report") as figures:
        manifest = _report(attempt, setting, result)
        figures.update({"best": manifest["best"]})
    return manifest


def _prepare(attempt: Attempt) -> _Setting:
    spec = attempt.unpack(pb.OptimizeDesignSpec)
    plan = specs.study_plan(spec)
    inputs, artifacts = attempt.inputs, attempt.artifacts
    design = open_design(
        find_manifest(spec.design, "design", "design", inputs, artifacts), artifacts
    )
    numeric = [parameter.name for parameter in design.space.parameters if parameter.is_numeric]
    goals = check_goals(plan.goals, responses=design.deck.response_names, parameters=numeric)
    units = {response.name: response.unit for response in design.deck.responses}
    problem = Problem(space=design.space, goals=goals, fixed=design.fixed, units=units)
    model = None
    if spec.model:
        manifest = find_manifest(spec.model, "model", "model", inputs, artifacts)
        model = Model.load(*model_folder(manifest, artifacts))
    free = design.space.dimension - len(design.fixed)
    return _Setting(
        plan=plan,
        design=design,
        problem=problem,
        trials=design.trials(problem),
        budget=plan.budget or RUNS_PER_PARAMETER * free,
        batch_size=plan.batch_size or min(attempt.workers, DEFAULT_BATCH),
        model=model,
    )


def _search(attempt: Attempt, setting: _Setting) -> StudyResult:
    deck = setting.design.deck
    policy = deck.failure_policy
    if policy.policy is not Policy.ABORT:
        # A failed run teaches the search where not to go; a made-up value would mislead it.
        search_policy = policy.policy if policy.policy is Policy.RETRY else Policy.CONTINUE
        policy = replace(policy, policy=search_policy, max_failed_fraction=1.0)
    scratch = attempt.folder / ".scratch"
    store = PointStore(attempt.artifacts.root / POINTS)
    executor: Executor = local_executor(attempt.workers)
    pace = Pace()

    def simulate(points: Sequence[Point]) -> list[Outcome]:
        return evaluate(
            deck, points, store=store, executor=executor, scratch_root=scratch, policy=policy
        )

    def simulate_anew(points: Sequence[Point]) -> list[Outcome]:
        """Runs points without the store, which would return the stored results."""
        runs = [executor.submit(run_point, deck, point, scratch_root=scratch) for point in points]
        return [run.result() for run in runs]

    journal = journal_of(attempt)
    written = 0

    def on_round(completed: int, message: str) -> None:
        nonlocal written
        new = study.trials[written:]
        written = len(study.trials)
        journal.write(
            trial_table(
                new,
                parameters=setting.problem.space.names,
                responses=deck.response_names,
                scale=miss_scale(study.trials),
            )
        )
        left = pace.left(completed, setting.budget - completed)
        text = f"{span_text(left)} left, {message}" if left > 0 else message
        attempt.progress("infill", completed, setting.budget, unit="runs", message=text)

    study = Study(
        problem=setting.problem,
        plan=setting.plan,
        budget=setting.budget,
        batch_size=setting.batch_size,
        evaluate=simulate,
        on_round=on_round,
        suggestions=_first_suggestions(setting),
        trials=list(setting.trials),
        responses=deck.response_names,
        limits=setting.design.limits(),
        noisy=deck.noisy,
        # A named function has no noise and needs no proof.
        evaluate_anew=None if deck.simulator == "function" else simulate_anew,
    )
    on_round(0, study.message())
    try:
        return study.run()
    except InvalidError as error:
        raise JobError(
            error.message, reason="NO_FEASIBLE_POINT", hint="loosen a constraint or widen a range"
        ) from error
    finally:
        journal.close()
        executor.shutdown(cancel_futures=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _first_suggestions(setting: _Setting) -> list[Point]:
    """The first points to try: what the trained model proposes, and the best imported point."""
    points = []
    if setting.model is not None:
        points = predicted_best(
            setting.problem,
            setting.model,
            setting.plan.seed,
            miss_scale(setting.trials),
            constants_of(setting.trials),
        )
    imported = setting.design.imported(setting.problem)
    best = best_trial(imported, setting.problem.objective.sign)
    return points + ([dict(best.point)] if best else [])


def _report(attempt: Attempt, setting: _Setting, result: StudyResult) -> dict[str, Any]:
    """Writes the trials, the pictures and the last model; returns the manifest of the study."""
    deck, problem = setting.design.deck, setting.problem
    best = result.best
    assert best is not None
    table = attempt.folder / "trials.parquet"
    with attempt.artifacts.writing(table) as temporary:
        write_trials(
            temporary,
            result.trials,
            parameters=problem.space.names,
            responses=deck.response_names,
        )
    study = StudyManifest(
        kind="design",
        study_id=attempt.job_id,
        kit_id=attempt.kit_id,
        seed=setting.plan.seed,
        trials=PublishedFile(**attempt.artifacts.describe(table)),
        plots=PublishedFile.read_all(_plots(attempt, setting, result)),
    )
    design_best = result.design_best
    blocked = None
    if not best.feasible:
        tried = [trial for trial in result.trials if trial.origin != "verify"]
        blocked = blocking(tried, problem)[:20]
    manifest = DesignStudyManifest(
        goals=setting.plan.goals,
        direction=problem.objective.direction,
        objective=str(problem.objective.expression),
        deck_id=deck.digest,
        budget=setting.budget,
        batch_size=setting.batch_size,
        stop_reason=result.stop_reason,
        parameters=[
            {"name": parameter.name, "unit": parameter.unit}
            for parameter in problem.space.parameters
        ],
        responses=[{"name": response.name, "unit": response.unit} for response in deck.responses],
        best=BestRecord(
            **_record(best, problem),
            verified=result.run_count > 0,
            found_at=_found_at(best, result.trials),
            predicted=_predicted(result.forecast),
            noise=dict(result.noise),
            run_count=result.run_count,
            model_predicted=_model_predicted(setting.model, best),
        ),
        doe_best=None if design_best is None else TrialRecord(**_record(design_best, problem)),
        improvement=(
            # The best reading of a noisy design is better than its point.
            None
            if any(result.noise.values())
            else _improvement(best, design_best, problem.objective.sign)
        ),
        notes=[
            *notes_on(result.trials, problem),
            *_noise_notes(deck, result),
            *_failure_notes(result.trials),
        ],
        at_bounds=at_bounds(problem, best.point),
        evaluations=_evaluations(result.trials),
        last_model=publish_last_model(
            attempt,
            result.trials,
            problem.space,
            _modelled_units(setting),
            deck_id=deck.digest,
            before=setting.model,
            fixed=problem.fixed,
            seed=setting.plan.seed,
        ),
        blocking=blocked,
    )
    return {**study.to_dict(), **manifest.to_dict()}


def _model_predicted(model: Model | None, best: Trial) -> dict[str, dict[str, float]] | None:
    """What the kit's own model predicts of the best point."""
    if model is None:
        return None
    predictions = model.predict([best.point], extrapolate=True)
    return {
        name: {"mean": float(mean[0]), "sd": float(sd[0])}
        for name, (mean, sd) in predictions.items()
    }


def _modelled_units(setting: _Setting) -> dict[str, str]:
    """The units of the responses that the last model has: those trained before and the goals'."""
    before = setting.model.response_names if setting.model else []
    names = {*before, *setting.problem.goals.names}
    return {
        response.name: response.unit
        for response in setting.design.deck.responses
        if response.name in names
    }


def _noise_notes(deck: Deck, result: StudyResult) -> list[str]:
    """What a reader should know of the simulator's noise, if it has any."""
    units = {response.name: response.unit for response in deck.responses}
    if not result.run_count:
        return ["all verifying runs of the best point failed: its values are not verified"]
    noise = {name: sd for name, sd in result.noise.items() if sd > 0}
    if not noise:
        return []
    amounts = ", ".join(
        f"`{name}` by {sd:.3g} {units[name]}".rstrip() for name, sd in noise.items()
    )
    declare = "" if deck.noisy else "; declare `noisy: true` in the deck"
    return [
        f"the simulator is noisy: runs of one point vary, {amounts} (1 sd). The best point is the "
        f"one with the best expected value, and its values are means of {result.run_count} "
        f"verifying runs{declare}"
    ]


def _failure_notes(trials: Sequence[Trial]) -> list[str]:
    """Why runs failed."""
    reasons = reasons_of([trial.failure for trial in trials], [trial.message for trial in trials])
    count = sum(reason.count for reason in reasons)
    return [f"{count} of {len(trials)} runs failed: {reasons_text(reasons)}"] if count else []


def _record(trial: Trial, problem: Problem) -> dict[str, Any]:
    """The fields of a trial's record."""
    assessment = trial.assessment
    return {
        "number": trial.number,
        "origin": trial.origin,
        "point": dict(trial.point),
        "simulated": dict(trial.responses or {}),
        "objective": assessment.objective if assessment else None,
        "feasible": trial.feasible,
        "constraints": tuple(
            ConstraintRecord(
                text=assessed.text,
                value=assessed.value,
                limit=assessed.limit,
                met=assessed.met,
                miss=assessed.miss,
                unit=problem.unit_of(constraint),
            )
            for constraint, assessed in zip(
                problem.goals.constraints,
                assessment.constraints if assessment else (),
                strict=False,
            )
        ),
    }


def _found_at(best: Trial, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trial that first had the best point."""
    first = next(trial for trial in trials if trial.point == best.point)
    return {"number": first.number, "origin": first.origin}


def _predicted(forecast: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {name: {"mean": mean, "sd": sd} for name, (mean, sd) in forecast.items()}


def _improvement(best: Trial, before: Trial | None, sign: float) -> float | None:
    """Share of the design's best feasible objective that was gained; None without one."""
    if before is None or not (before.feasible and best.feasible):
        return None
    assert before.assessment is not None
    assert best.assessment is not None
    gained = sign * (before.assessment.objective - best.assessment.objective)
    return gained / abs(before.assessment.objective) if before.assessment.objective else None


def _evaluations(trials: Sequence[Trial]) -> dict[str, int]:
    """How many points were known, run for the study, found in the store, and failed."""
    infill = [trial for trial in trials if trial.origin == "infill"]
    return {
        "total": sum(trial.origin != "verify" for trial in trials),
        "design": sum(trial.origin == "doe" for trial in trials),
        "infill": len(infill),
        "simulated": sum(not trial.cached for trial in trials if trial.origin != "doe"),
        "cached": sum(trial.cached for trial in infill),
        "failed": sum(trial.failure is not None for trial in trials if trial.origin != "verify"),
        "feasible": sum(trial.feasible for trial in trials if trial.origin != "verify"),
    }


def _plots(attempt: Attempt, setting: _Setting, result: StudyResult) -> list[dict[str, Any]]:
    responses = setting.design.deck.responses
    units = {response.name: response.unit for response in responses}
    names = [response.name for response in responses]
    return draw_pictures(
        attempt,
        {
            "convergence.png": lambda: plots.plot_convergence(setting.problem, result.trials),
            "predicted.png": lambda: plots.plot_comparison(result.trials, names, units),
        },
    )

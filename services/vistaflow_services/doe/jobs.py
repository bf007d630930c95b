"""What a DOE job does: makes a design, runs it, and tells what came of it.

Everything written lies under the attempt's own prefix and counts only once the
job's result names it. Points that were run are kept in the point store, so that
another attempt goes on where this one stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.jobs import Attempt, JobError, plain
from vistaflow_services.core.pictures import draw_pictures
from vistaflow_services.decks.deck import Deck, FailurePolicy
from vistaflow_services.decks.space import Columns
from vistaflow_services.doe import evaluation, plots, references, specs, table
from vistaflow_services.doe.domain import Design, Region
from vistaflow_services.doe.generators import generate
from vistaflow_services.doe.quality import assess
from vistaflow_services.doe.table import Results
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.outcome import Outcome
from vistaflow_services.simulators.points import PointStore

POINTS = "points"
"""The folder of the artifact store that holds every point ever run."""

MOST_COVERED = 50
"""Parameters whose coverage is told in the result; of more it is in `quality.json` only."""


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A design ready to run, new or made by another job, and what is published of it."""

    deck: Deck
    deck_uri: str
    region: Region
    columns: Columns
    about: dict[str, Any]
    """The part of the manifest that says how it was made."""


def run(attempt: Attempt) -> dict[str, Any]:
    """Runs one DOE job.

    Returns:
        The design's manifest, JSON-able: where its rows and pictures lie, how it was
        made, its quality, how many runs failed.

    Raises:
        JobError: All runs failed, or more than the policy allows, or a reference names nothing.
        InvalidError: The spec does not fit the deck; each mistake names its field.
    """
    spec = attempt.unpack(pb.DoeSpec)
    specs.check_spec(spec)
    made = _designed(attempt, spec) if spec.HasField("design") else _given(attempt, spec)
    results = Results.not_run(_count(made.columns), made.deck.response_names)
    if spec.HasField("evaluation"):
        policy = specs.policy_of(spec.evaluation, made.deck)
        results = _simulated(attempt, made, policy)
    manifest = _summarized(attempt, made, results, evaluated=spec.HasField("evaluation"))
    written = attempt.folder / references.MANIFEST
    attempt.artifacts.write(written, json.dumps(manifest, allow_nan=False).encode())
    return manifest


PRELOAD: Final = ("vistaflow_services.doe.plots",)
"""What the process that attempts are forked from imports beforehand."""

JOBS: dict[str, Callable[[Attempt], dict[str, Any]]] = {"DOE": run}


def _designed(attempt: Attempt, spec: pb.DoeSpec) -> _Made:
    """Makes the design that the spec asks for."""
    with attempt.part("generate") as told:
        found = references.find_deck(spec.deck, attempt.inputs, attempt.artifacts)
        recipe, region = specs.plan(spec.design, found.deck)
        attempt.progress("generate", 0, recipe.size, unit="points", message=str(recipe.generator))
        design = generate(recipe, region)
        attempt.progress("generate", len(design), len(design), unit="points")
        about = _about(attempt, design)
        told.update({name: about[name] for name in ("generator", "size", "seed", "dropped_count")})
    return _Made(
        deck=found.deck,
        deck_uri=found.uri,
        region=region,
        columns=design.columns,
        about=about,
    )


def _given(attempt: Attempt, spec: pb.DoeSpec) -> _Made:
    """Opens the design that another job made."""
    found = references.find_design(spec.design_id, attempt.inputs, attempt.artifacts)
    deck = references.deck_of(found.manifest, attempt.artifacts)
    if spec.deck:
        named = references.find_deck(spec.deck, attempt.inputs, attempt.artifacts).deck
        if named.digest != deck.digest:
            raise JobError(
                f"the design is for the deck `{deck.name}` {deck.digest[:12]}, not for "
                f"`{named.name}` {named.digest[:12]}",
                reason="OTHER_DECK",
                hint="leave the deck out to use the design's own",
            )
    kept = ("generator", "version", "seed", "size", "feasible_count", "candidate_count")
    about = {name: found.manifest[name] for name in (*kept, "dropped_count", "quality", "recipe")}
    about["parent_design_id"] = found.manifest["design_id"]
    return _Made(
        deck=deck,
        deck_uri=found.manifest["deck_uri"],
        region=found.region,
        columns=table.read_columns(found.rows, found.region.space),
        about=about,
    )


def _about(attempt: Attempt, design: Design) -> dict[str, Any]:
    """How a new design was made and how good it is."""
    quality = assess(design)
    told = quality.to_dict()
    written = attempt.artifacts.write(
        attempt.folder / "quality.json", json.dumps(told, allow_nan=False).encode()
    )
    if design.region.dimension > MOST_COVERED:
        told = {name: value for name, value in told.items() if name != "coverage"}
    recipe = design.recipe
    return {
        "generator": str(recipe.generator),
        "version": design.version,
        "seed": recipe.seed,
        "size": len(design),
        "feasible_count": len(design),
        "candidate_count": design.candidate_count,
        "dropped_count": design.dropped_count,
        "quality": {**told, "file": written},
        "recipe": {
            "size": recipe.size,
            "levels": recipe.levels,
            "parameter_levels": dict(recipe.parameter_levels),
            "include_default": recipe.include_default,
        },
    }


def _simulated(attempt: Attempt, made: _Made, policy: FailurePolicy) -> Results:
    """Runs every point on all cores; those that were run before are not run again."""
    points = made.region.space.points(made.columns)
    names = made.deck.response_names
    seen: list[Outcome] = []
    counts: Counter[str] = Counter()

    def on_outcome(index: int, outcome: Outcome) -> None:
        seen.append(outcome)
        counts["failed"] += not outcome.ok
        counts[f"of {len(points)} found in the store"] += outcome.cached
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        attempt.progress("simulate", len(seen), len(points), unit="runs", message=told)

    scratch = attempt.folder / ".scratch"
    with attempt.part("simulate") as told:
        told.update({"deck": made.deck.name, "simulator": made.deck.simulator})
        attempt.progress("simulate", 0, len(points), unit="runs")
        executor = local_executor(attempt.workers)
        try:
            outcomes = evaluate(
                made.deck,
                points,
                store=PointStore(attempt.artifacts.root / POINTS),
                executor=executor,
                scratch_root=scratch,
                on_outcome=on_outcome,
                policy=policy,
            )
            results = evaluation.results_of(outcomes, names)
            refused = evaluation.too_many_failed(results, policy)
        except JobError as error:
            results = evaluation.results_of(seen, names)
            refused = error.message + evaluation.most_common_failure(results)
        finally:
            executor.shutdown(cancel_futures=True)
            shutil.rmtree(scratch, ignore_errors=True)
        told.update(_counts(results))
        if refused:
            raise JobError(
                refused,
                reason="RUNS_FAILED",
                hint=evaluation.hint_of(results),
                details={"run": len(results.failures), **_counts(results)},
            )
    return results


def _summarized(
    attempt: Attempt, made: _Made, results: Results, *, evaluated: bool
) -> dict[str, Any]:
    """Writes the rows and the pictures, and tells all of it as the job's result."""
    with attempt.part("summarize") as told:
        deck = made.deck
        about = {
            "design_id": attempt.job_id,
            "deck_id": deck.digest,
            "deck_name": deck.name,
            "space": made.region.space.to_dict(),
            "fixed": dict(made.region.fixed),
            "responses": [{"name": each.name, "unit": each.unit} for each in deck.responses],
            **made.about,
        }
        rows = attempt.folder / "design.parquet"
        with attempt.artifacts.writing(rows) as temporary:
            table.write_table(temporary, made.columns, results, plain(about))
        manifest: dict[str, Any] = {
            "design": attempt.artifacts.describe(rows),
            **about,
            "deck_uri": made.deck_uri or _deck_copy(attempt, deck),
            "evaluated_count": len(results.failures) if evaluated else 0,
            **_counts(results),
            "plots": _plots(attempt, made, results),
        }
        told.update({"rows": _count(made.columns), "plots": len(manifest["plots"])})
    plained: dict[str, Any] = plain(manifest)
    return plained


def _plots(attempt: Attempt, made: _Made, results: Results) -> list[dict[str, Any]]:
    units = {each.name: each.unit for each in made.deck.responses}
    drawn = {"design.png": plots.plot_design}
    if any(failure is None for failure in results.failures) and results.evaluated:
        drawn["responses.png"] = plots.plot_responses

    def bound(draw: Callable[..., None]) -> Callable[[Path], None]:
        return lambda path: draw(path, made.region, made.columns, results, units=units)

    return draw_pictures(attempt, {name: bound(draw) for name, draw in drawn.items()})


def _counts(results: Results) -> dict[str, Any]:
    return {
        "failed_count": int(results.failed.sum()),
        "cached_count": results.cached_count,
        "substituted_count": results.substituted_count,
        "failures": evaluation.failure_counts(results),
    }


def _deck_copy(attempt: Attempt, deck: Deck) -> str:
    """Keeps a deck that has no place in the store beside the design that is for it."""
    return attempt.artifacts.write(attempt.folder / "deck.zip", deck.to_archive())["uri"]


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))

"""What a DOE job does: makes a design, runs it, and publishes what came of it.

Everything written lies under the attempt's own prefix and counts only once the
job's result names it. Points that were run are kept in the point store, so that
another attempt goes on where this one stopped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from vistaflow._spans import span_text
from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.attempt import Attempt, JobError, plain
from vistaflow_services.core.work.pictures import draw_pictures
from vistaflow_services.decks.deck import Deck, FailurePolicy
from vistaflow_services.decks.space import Columns
from vistaflow_services.designs import table
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.journal import discard, journal_of
from vistaflow_services.designs.manifest import DesignManifest, DesignOrigin, DesignRuns
from vistaflow_services.designs.quality import assess
from vistaflow_services.designs.recipe import Design, Region
from vistaflow_services.designs.table import Results
from vistaflow_services.doe import evaluation, known, plots, references, specs
from vistaflow_services.doe.known import POINTS, KnownPoints
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.outcome import Outcome
from vistaflow_services.simulators.pace import Pace
from vistaflow_services.simulators.points import PointStore

MOST_COVERED = 50
"""Most parameters whose coverage is in the result; with more it is in `quality.json` only."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A design ready to run, new or made by another job, and what is published of it."""

    deck: Deck
    deck_uri: str
    region: Region
    columns: Columns
    origin: DesignOrigin
    """How it was made."""


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
    prepared = _generate(attempt, spec) if spec.HasField("design") else _reopen(attempt, spec)
    results = Results.not_run(_count(prepared.columns), prepared.deck.response_names)
    if spec.HasField("evaluation") and results.failures:
        policy = specs.policy_of(spec.evaluation, prepared.deck)
        results = _simulate(attempt, prepared, policy)
    reused = KnownPoints()
    if spec.HasField("reuse"):
        prepared, results, reused = _reuse(attempt, spec.reuse, prepared, results)
    evaluated = spec.HasField("evaluation") or bool(reused.points)
    manifest = _summarize(attempt, prepared, results, reused, evaluated=evaluated)
    published = attempt.publish(manifest)
    discard(attempt)
    return published


PRELOAD: Final = ("scipy.stats", "vistaflow_services.doe.plots")
"""What the process that attempts are forked from imports beforehand."""

JOBS: dict[str, Callable[[Attempt], dict[str, Any]]] = {"DOE": run}


def _generate(attempt: Attempt, spec: pb.DoeSpec) -> _Prepared:
    """Makes the design that the spec asks for."""
    with attempt.part("generate") as metadata:
        source = references.find_deck(spec.deck, attempt.inputs, attempt.artifacts)
        if spec.reuse.only:
            region = specs.region_of(spec.design, source.deck.space)
            return _Prepared(
                deck=source.deck,
                deck_uri=source.uri,
                region=region,
                columns=region.space.columns([]),
                origin=DesignOrigin(generator="reuse", version="1", seed=0, size=0, quality={}),
            )
        recipe, region = specs.plan(spec.design, source.deck)
        attempt.progress("generate", 0, recipe.size, unit="points", message=str(recipe.generator))
        design = generate(recipe, region)
        attempt.progress("generate", len(design), len(design), unit="points")
        origin = _origin(attempt, design)
        metadata.update(
            generator=origin.generator,
            size=origin.size,
            seed=origin.seed,
            dropped_count=origin.dropped_count,
        )
    return _Prepared(
        deck=source.deck,
        deck_uri=source.uri,
        region=region,
        columns=design.columns,
        origin=origin,
    )


def _reopen(attempt: Attempt, spec: pb.DoeSpec) -> _Prepared:
    """Opens the design that another job made."""
    existing = references.find_design(spec.design_id, attempt.inputs, attempt.artifacts)
    deck = references.deck_of(existing.manifest, attempt.artifacts)
    if spec.deck:
        named = references.find_deck(spec.deck, attempt.inputs, attempt.artifacts).deck
        if named.digest != deck.digest:
            raise JobError(
                f"the design is for the deck `{deck.name}` {deck.digest[:12]}, not for "
                f"`{named.name}` {named.digest[:12]}",
                reason="OTHER_DECK",
                hint="leave the deck out to use the design's own",
            )
    region = existing.manifest.region
    origin = DesignOrigin.read(existing.result)
    return _Prepared(
        deck=deck,
        deck_uri=existing.manifest.deck_uri,
        region=region,
        columns=table.read_columns(existing.rows, region.space),
        origin=replace(origin, parent_design_id=existing.manifest.design_id),
    )


def _origin(attempt: Attempt, design: Design) -> DesignOrigin:
    """How a new design was made and how good it is."""
    quality = assess(design)
    figures = quality.to_dict()
    written = attempt.artifacts.write(
        attempt.folder / "quality.json", json.dumps(figures, allow_nan=False).encode()
    )
    if design.region.dimension > MOST_COVERED:
        figures = {name: value for name, value in figures.items() if name != "coverage"}
    recipe = design.recipe
    return DesignOrigin(
        generator=str(recipe.generator),
        version=design.version,
        seed=recipe.seed,
        size=len(design),
        feasible_count=len(design),
        candidate_count=design.candidate_count,
        dropped_count=design.dropped_count,
        quality={**figures, "file": written},
        recipe={
            "size": recipe.size,
            "levels": recipe.levels,
            "parameter_levels": dict(recipe.parameter_levels),
            "include_default": recipe.include_default,
        },
    )


def _reuse(
    attempt: Attempt, reuse: pb.ReuseSpec, prepared: _Prepared, results: Results
) -> tuple[_Prepared, Results, KnownPoints]:
    """The design with known points beside its own."""
    published = {source.job_id: source.result for source in attempt.inputs.values()}
    with attempt.part("reuse") as metadata:
        reused = known.known_points(
            reuse, prepared.deck, prepared.region, published, attempt.artifacts
        )
        points = reused.without(prepared.region.space.points(prepared.columns))
        columns, results = known.joined(prepared.columns, results, points, prepared.region)
        metadata.update({"rows": len(points), "origins": reused.origins})
    if not results.failures:
        raise JobError(
            "no known point is inside the space",
            reason="NO_POINTS",
            hint="widen the ranges, or let the design make points of its own",
        )
    return replace(prepared, columns=columns), results, reused


def _simulate(attempt: Attempt, prepared: _Prepared, policy: FailurePolicy) -> Results:
    """Runs every point on all cores; those that were run before are not run again."""
    points = prepared.region.space.points(prepared.columns)
    names = prepared.deck.response_names
    seen: dict[int, Outcome] = {}
    counts: Counter[str] = Counter()
    pace = Pace()

    journal = journal_of(attempt)
    waiting: list[int] = []

    def write_journal() -> None:
        """Shows the rows whose runs ended since the last time."""
        some = {name: column[waiting] for name, column in prepared.columns.items()}
        results = evaluation.results_of([seen[index] for index in waiting], names)
        journal.write(table.result_table(some, results, waiting))
        waiting.clear()

    def report() -> None:
        # What is in the store comes first: all that is not seen yet has to be run.
        left = pace.left(counts["run"], len(points) - len(seen))
        parts = [f"{count} {name}" for name, count in counts.items() if count and name != "run"]
        text = ", ".join([f"{span_text(left)} left"] * (left > 0) + parts)
        attempt.progress("simulate", len(seen), len(points), unit="runs", message=text)

    def on_outcome(index: int, outcome: Outcome) -> None:
        seen[index] = outcome
        waiting.append(index)
        counts["failed"] += not outcome.ok
        counts[f"of {len(points)} found in the store"] += outcome.cached
        counts["run"] += not outcome.cached
        if journal.is_due:
            write_journal()
        report()

    def catch_up() -> bool:
        """Shows what ended soon after the last batch, if nothing has ended since."""
        if waiting and journal.is_due:
            write_journal()
            report()
        return False

    scratch = attempt.folder / ".scratch"
    with attempt.part("simulate") as metadata:
        metadata.update({"deck": prepared.deck.name, "simulator": prepared.deck.simulator})
        # pyarrow imports pandas with its first array, which takes a while: not after the first run.
        write_journal()
        attempt.progress("simulate", 0, len(points), unit="runs")
        executor = local_executor(attempt.workers)
        try:
            outcomes = evaluate(
                prepared.deck,
                points,
                store=PointStore(attempt.artifacts.root / POINTS),
                executor=executor,
                scratch_root=scratch,
                on_outcome=on_outcome,
                policy=policy,
                should_stop=catch_up,
            )
            order = list(range(len(points)))
            results = evaluation.results_of(outcomes, names)
            summary = evaluation.too_many_failed(results, policy)
        except JobError as error:
            order = sorted(seen)
            results = evaluation.results_of([seen[index] for index in order], names)
            summary = error.details.get("short", error.message)
        finally:
            executor.shutdown(cancel_futures=True)
            write_journal()
            journal.close()
            shutil.rmtree(scratch, ignore_errors=True)
        metadata.update(_counts(results))
        if summary:
            raise JobError(
                summary + evaluation.most_common_failure(results),
                reason="RUNS_FAILED",
                hint=evaluation.hint_of(results),
                details={
                    "run": len(results.failures),
                    "summary": summary,
                    **_counts(results),
                    "failed_rows": [
                        {**row, "row_id": order[row["row_id"]]}
                        for row in evaluation.failed_rows(results, [points[i] for i in order])
                    ],
                },
            )
    return results


def _summarize(
    attempt: Attempt,
    prepared: _Prepared,
    results: Results,
    reused: KnownPoints,
    *,
    evaluated: bool,
) -> dict[str, Any]:
    """Writes the rows and the pictures; the job's result, which describes all of it."""
    with attempt.part("summarize") as metadata:
        deck = prepared.deck
        about = {
            "design_id": attempt.job_id,
            "deck_id": deck.digest,
            "deck_name": deck.name,
            "space": prepared.region.space.to_dict(),
            "fixed": dict(prepared.region.fixed),
            "responses": [
                {"name": response.name, "unit": response.unit} for response in deck.responses
            ],
            **prepared.origin.to_dict(),
        }
        rows = attempt.folder / "design.parquet"
        with attempt.artifacts.writing(rows) as temporary:
            table.write_table(temporary, prepared.columns, results, plain(about))
        manifest = DesignManifest(
            design=PublishedFile.read(attempt.artifacts.describe(rows)),
            design_id=attempt.job_id,
            deck_id=deck.digest,
            deck_name=deck.name,
            deck_uri=prepared.deck_uri or _deck_copy(attempt, deck),
            space=about["space"],
            fixed=about["fixed"],
            responses=about["responses"],
            evaluated_count=len(results.failures) if evaluated else 0,
        )
        plots = PublishedFile.read_all(_plots(attempt, prepared, results))
        runs = DesignRuns(**_counts(results), plots=plots, origins=reused.origins)
        metadata.update({"rows": _count(prepared.columns), "plots": len(plots)})
    return {**manifest.to_dict(), **prepared.origin.to_dict(), **runs.to_dict()}


def _plots(attempt: Attempt, prepared: _Prepared, results: Results) -> list[dict[str, Any]]:
    units = {response.name: response.unit for response in prepared.deck.responses}
    drawn = {"design.png": plots.plot_design}
    if any(failure is None for failure in results.failures) and results.evaluated:
        drawn["responses.png"] = plots.plot_responses

    arguments = (prepared.region, prepared.columns, results)
    return draw_pictures(
        attempt,
        {name: partial(draw, *arguments, units=units) for name, draw in drawn.items()},
    )


def _counts(results: Results) -> dict[str, Any]:
    return {
        "failed_count": int(results.failed.sum()),
        "cached_count": results.cached_count,
        "substituted_count": results.substituted_count,
        "failures": evaluation.failure_counts(results),
        "reasons": evaluation.reason_records(results),
    }


def _deck_copy(attempt: Attempt, deck: Deck) -> str:
    """Keeps a deck that has no place in the store beside the design that is for it."""
    return attempt.artifacts.write(attempt.folder / "deck.zip", deck.to_archive())["uri"]


def _count(columns: Columns) -> int:
    return len(next(iter(columns.values())))

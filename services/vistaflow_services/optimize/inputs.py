"""Finds what a study refers to: its design, its deck, a model, a scaled dataset.

A reference is one string: a job's name in the same kit, or the id of a finished job,
which is found by the result that the job left beside what it made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.results import JobResult, find_result, stored_result
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import JobError
from vistaflow_services.decks.deck import Deck, read_archive
from vistaflow_services.decks.space import Point, Space
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.designs.table import IMPORTED
from vistaflow_services.optimize.domain import Problem, Trial, made_trial
from vistaflow_services.surrogates.extremes import huge_limit
from vistaflow_services.surrogates.manifest import ModelManifest


@dataclass(frozen=True, kw_only=True)
class Design:
    """An evaluated design to start from."""

    deck: Deck
    """What its points were run in."""

    space: Space
    """Where it lies: the deck's space, perhaps narrowed."""

    fixed: Mapping[str, float | int | str] = field(default_factory=dict)
    """Parameters that it held."""

    rows: tuple[Mapping[str, Any], ...]
    """Its table: `x.<name>`, `y.<name>`, `failure`, `seconds`, `origin`."""

    def trials(self, problem: Problem) -> list[Trial]:
        """Its simulated points as the first trials of a study, in order.

        Rows that repeat a point and its responses are one run.
        """
        return self._trials(problem, imported=False)

    def imported(self, problem: Problem) -> list[Trial]:
        """Its points that no simulator of the suite has run, such as measured ones.

        They are no trials: what a simulator says there may differ.
        """
        return self._trials(problem, imported=True)

    def _trials(self, problem: Problem, *, imported: bool) -> list[Trial]:
        trials: list[Trial] = []
        seen: set[tuple[Any, ...]] = set()
        substituted = self.deck.failure_policy.substitute
        limits = self.limits()
        for row in self.rows:
            source = row.get("origin") or ""
            if source.startswith(IMPORTED) != imported:
                continue
            point: Point = {
                parameter.name: self._canonical(parameter.name, row[f"x.{parameter.name}"])
                for parameter in self.space.parameters
            }
            responses = {name: row[f"y.{name}"] for name in self.deck.response_names}
            failure = row["failure"]
            if failure is None and None in responses.values():
                continue  # it was never run
            run = (*point.items(), failure, *responses.values())
            if run in seen:
                continue
            seen.add(run)
            if failure is None and substituted and responses == dict(substituted):
                failure = "SUBSTITUTED"
            trial = made_trial(
                problem,
                len(trials),
                "doe",
                point,
                None if failure else responses,
                failure=failure,
                seconds=row.get("seconds") or 0.0,
                limits=limits,
            )
            message, log = (row.get(key) or "" for key in ("message", "log"))
            trials.append(replace(trial, message=message, log=log, source=source))
        return trials

    def limits(self) -> dict[str, float]:
        """The magnitude beyond which each response is too large to be one."""
        ran = [
            row
            for row in self.rows
            if row["failure"] is None and not (row.get("origin") or "").startswith(IMPORTED)
        ]
        return {
            name: huge_limit([row[f"y.{name}"] for row in ran if row[f"y.{name}"] is not None])
            for name in self.deck.response_names
        }

    def _canonical(self, name: str, value: Any) -> float | int | str:
        canonical, problem = self.space[name].canonical(value)
        if canonical is None:
            raise JobError(
                f"the design has {problem}",
                reason="BAD_DESIGN",
                hint="use a design of the same deck and ranges",
            )
        return canonical


def find_manifest(
    reference: str,
    what: str,
    key: str,
    inputs: Mapping[str, JobResult],
    artifacts: ArtifactStore,
) -> Mapping[str, Any]:
    """The result of the job that `reference` names.

    Args:
        reference: A job's name in the kit, or a job id.
        what: What it should be, for the message.
        key: What such a result has.
        inputs: The finished jobs that the study depends on.
        artifacts: Where results of other kits are found.

    Raises:
        JobError: There is none, or it is another kind of job.
    """
    source = find_result(reference, inputs)
    manifest = source.result if source else stored_result(reference, artifacts.root)
    if manifest is None:
        raise JobError(
            f"no {what} `{reference[:100]}`: it is neither a job this one depends on nor a "
            "finished job",
            reason="NOT_FOUND",
            hint=f"give the name of a job of the kit, or the id of a finished {what}",
        )
    if key not in manifest:
        raise JobError(
            f"`{reference[:100]}` made no {what}",
            reason="NOT_FOUND",
            hint=f"name the job that makes the {what}",
        )
    return manifest


def open_design(result: Mapping[str, Any], artifacts: ArtifactStore) -> Design:
    """The design of a DOE job's result, with its deck.

    Raises:
        JobError: A file is gone or altered, or the design was never run.
    """
    manifest = DesignManifest.read(result)
    try:
        archive = artifacts.existing(manifest.deck_uri)
        deck = read_archive(archive.read_bytes())
        table = artifacts.verified(manifest.design.uri, manifest.design.sha256)
    except ServiceError as error:
        raise JobError(error.message, reason="MISSING_ARTIFACT") from error
    if deck.digest != manifest.deck_id:
        raise JobError(
            f"the deck at {manifest.deck_uri} is not the one the design was run in",
            reason="OTHER_DECK",
            hint="run the design again",
        )
    if not manifest.evaluated_count:
        raise JobError(
            "the design was never run, so there is nothing to start from",
            reason="NOT_EVALUATED",
            hint="evaluate the design first",
        )
    return Design(
        deck=deck,
        space=Space.from_dict(manifest.space),
        fixed=dict(manifest.fixed),
        rows=tuple(pq.read_table(table).to_pylist()),
    )


def model_folder(result: Mapping[str, Any], artifacts: ArtifactStore) -> tuple[Path, str]:
    """Where the model of an ML_TRAIN job's result lies, and the hash of its manifest."""
    model = ModelManifest.read(result).model
    path = artifacts.existing(model.uri)
    return (path if path.is_dir() else path.parent), model.sha256

"""Extending a kit: the spec of the new kit that goes on from all that the kit knows.

A kit that is over stays as it is: its rows and what it answered never change. So what goes on is
another kit, whose design is what the first one ran, and which names it in `extends` and `reuse`.
"""

from __future__ import annotations

from typing import Final

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import ConflictError, Violations, field_error
from vistaflow_services.core.names import is_dataset_name, text_problems
from vistaflow_services.core.registry_client import struct_to_dict
from vistaflow_services.decks.deck import Deck, read_archive
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.pipeline.successor import spec_in
from vistaflow_services.search.limits import MAX_BUDGET

MAX_CSV_BYTES: Final = 1 << 20
"""Largest table of points in a request."""

MAX_FILE_NAME: Final = 200

_AT_WORK: Final = (common_pb2.STATUS_QUEUED, common_pb2.STATUS_RUNNING)


def spec_of(kit: registry_pb2.Kit, request: pb.ExtendKitRequest) -> pb.KitSpec:
    """The spec of the kit that extends another.

    Raises:
        ConflictError: The kit is at work, or was not started from a spec.
        InvalidError: The budget is beyond its limits.
    """
    if any(job.status in _AT_WORK for job in kit.jobs):
        raise ConflictError(
            f"kit {kit.kit_id} is at work; extend it once it has ended", reason="AT_WORK"
        )
    if not 0 <= request.budget <= MAX_BUDGET:
        raise field_error("budget", f"{request.budget} is not from 1 to {MAX_BUDGET}")
    deck = struct_to_dict(kit.spec).get("deck")
    deck_id = str(deck.get("deck_id", "")) if isinstance(deck, dict) else ""
    if not deck_id:
        raise ConflictError(
            f"kit {kit.kit_id} was not started from the kit file of a design, so there is nothing "
            "to extend; a kit takes the points of its designs by `reuse`",
            reason="NO_DESIGN_KIT",
        )
    spec = spec_in(kit, ingestion_pb2.DeckSource(name=deck_id), restarts=True)
    spec.name = request.name or kit.name
    spec.labels.update(request.labels)
    spec.extends = kit.kit_id
    spec.ClearField("stop_after")
    if request.goals:
        spec.goals = request.goals
        # Those of the kit may lack what other goals read.
        spec.ml.ClearField("responses")
    if request.budget:
        spec.optimize.budget = request.budget
    named = {override.name for override in request.parameters}
    own = [override for override in spec.design.parameters if override.name not in named]
    del spec.design.parameters[:]
    spec.design.parameters.extend([*own, *request.parameters])
    if any(job.job_type == common_pb2.JOB_TYPE_DOE and _is_run(job) for job in kit.jobs):
        for field in ("generator", "size", "levels", "parameter_levels", "include_default"):
            spec.design.ClearField(field)
        spec.ClearField("reuse")
        spec.reuse.kits.append(kit.kit_id)
        spec.reuse.only = True
    return spec


def deck_of_points(request: pb.ImportPointsRequest, library: DeckLibrary) -> Deck:
    """The deck of imported points, once what else is wrong with the request was looked at.

    Raises:
        InvalidError: With every mistake.
        NotFoundError: There is no such deck.
    """
    violations = Violations()
    if bool(request.deck) == bool(request.deck_archive):
        violations.add("deck", "give a deck by its name or id, or its `deck_archive`")
    if not is_dataset_name(request.dataset):
        violations.add(
            "dataset", "give 1 to 63 of a-z, 0-9 and `_` that begin with a letter, such as bench"
        )
    if not request.csv:
        violations.add("csv", "missing: the content of a CSV file with a header")
    elif len(request.csv) > MAX_CSV_BYTES:
        violations.add(
            "csv",
            f"has {len(request.csv):,} bytes; give at most {MAX_CSV_BYTES:,}, or import larger "
            "tables with ImportDataset",
        )
    for problem in text_problems(request.file_name, MAX_FILE_NAME):
        violations.add("file_name", problem)
    violations.check()
    if request.deck_archive:
        return read_archive(request.deck_archive)
    return library.find(request.deck).deck


def _is_run(job: common_pb2.Job) -> bool:
    return job.status == common_pb2.STATUS_FINISHED and bool(
        struct_to_dict(job.result).get("evaluated_count")
    )

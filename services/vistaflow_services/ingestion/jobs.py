"""The jobs of ingestion: collecting, converting, importing, delivering, and upkeep."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow_services.core import config as configuration
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import NotFoundError, ServiceError
from vistaflow_services.core.results import find_result
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.decks.library import Collected, CollectedDeck, DeckLibrary
from vistaflow_services.decks.origins import deck_of
from vistaflow_services.ingestion.buckets import LOCKS, BucketOutput
from vistaflow_services.ingestion.collection import collect_pages
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.conversions import artifact_folder, options_of, output_of
from vistaflow_services.ingestion.datasets.deliveries import deliver_dataset
from vistaflow_services.ingestion.datasets.imports import MAX_FILES, import_dataset
from vistaflow_services.ingestion.datasets.stores import scratch_folder, stores_of
from vistaflow_services.ingestion.inputs import Inputs, source_of
from vistaflow_services.ingestion.keys import Seal, aes_of
from vistaflow_services.ingestion.page_sources import collected_sources, page_opener
from vistaflow_services.ingestion.upkeep.backup import back_up
from vistaflow_services.ingestion.upkeep.cleanup import clean_up, repair_stores
from vistaflow_services.simulators.run import check_deck
from vistaflow_services.tables.conversion import Hooks, Progress
from vistaflow_services.tables.publication import manifest_name
from vistaflow_services.tables.run import convert as convert_tables
from vistaflow_services.tables.run import identity_of
from vistaflow_services.tables.sources import Aes, Source

MAX_WARNINGS: Final = 20
"""Most warnings that are recorded of one deck."""


def collect(attempt: Attempt) -> dict[str, Any]:
    """Collects the decks of a `CollectDecksSpec`; the result names each by its id."""
    spec = attempt.unpack(ingestion_pb2.CollectDecksSpec)
    library = DeckLibrary(attempt.artifacts.root / "decks")
    roots = read_config(Config, "VISTAFLOW_INGESTION_").deck_folders
    decks = []
    for index, source in enumerate(spec.sources):
        attempt.progress("collect", index, len(spec.sources), unit="decks")
        try:
            deck = deck_of(
                name=source.name,
                path=source.path,
                archive=source.archive,
                library=library,
                roots=roots,
            )
            check_deck(deck)
        except ServiceError as error:
            raise JobError(
                f"sources[{index}]: {error.message}",
                reason=error.reason,
                hint="correct the deck and collect it again",
                details={"violations": [vars(violation) for violation in error.violations[:50]]},
            ) from None
        collected = library.put(deck)
        warnings = list(deck.warnings[:MAX_WARNINGS])
        attempt.task(
            deck.name,
            "FINISHED",
            {"deck_id": deck.digest, "version": deck.version, "warnings": warnings},
            reason="; ".join(f"warning: {warning}" for warning in warnings),
        )
        decks.append(_manifest(attempt, collected))
    attempt.progress("collect", len(spec.sources), len(spec.sources), unit="decks")
    return {"decks": decks}


MAX_FILE_ROWS: Final = 10_000
"""Most files of a conversion that have a row of their own in the log; the manifest has all."""


def convert(attempt: Attempt) -> dict[str, Any]:
    """Converts the files of a `ConvertSpec`; the result counts what was written."""
    spec = attempt.unpack(ingestion_pb2.ConvertSpec)
    request = spec.request
    config = read_config(Config, "VISTAFLOW_INGESTION_")
    inputs = Inputs.load(configuration.home(), config)
    try:
        sealed = Seal.load(configuration.home(), config.sealing_key).open(spec.sealed)
        aes = aes_of(sealed.key, sealed.iv, request.key_ref, config.key_folder)
        options = options_of(request, config)
        sources = _sources(attempt, request, inputs, sealed.project, aes)
        folder, bucket = artifact_folder(attempt.artifacts, attempt.job_id), None
        if request.output:
            place = output_of(request.output, inputs.roots, sealed.project)
            if isinstance(place, Path):
                folder = place
            else:
                name = manifest_name(options)
                bucket = BucketOutput(place, name, identity_of(sources, options))
        hooks = Hooks(progress=_progress(attempt))
        attempt.task("convert", "RUNNING", {"options": MessageToDict(request)})
        with ExitStack() as stack:
            if bucket is not None:
                stack.enter_context(bucket.sole_use(attempt.artifacts.root / LOCKS))
                bucket.check()
            # Cutting and writing are of one thread, which more workers would wait for.
            workers = config.convert_workers or min(attempt.workers, 4)
            converted = convert_tables(
                sources, options, output=folder, hooks=hooks, workers=workers
            )
            if bucket is not None:
                bucket.put(folder, converted, hooks)
        where = request.output or attempt.artifacts.uri(folder)
    except ServiceError as error:
        attempt.task("convert", "FAILED", reason=error.message)
        raise JobError(
            error.message,
            reason=error.reason,
            hint="free some space, then retry the job"
            if error.reason == "DISK_FULL"
            else "correct the file or the request, and convert again",
            details={"violations": [vars(violation) for violation in error.violations[:50]]},
        ) from None
    for part in converted.parts[:MAX_FILE_ROWS]:
        attempt.task(
            part.file_name[:100],
            "FINISHED",
            {
                "table_name": part.table,
                "file_name": part.file_name,
                "part": part.part,
                "row_count": part.rows,
                "size_bytes": part.size_bytes,
                "sha256": part.sha256,
            },
        )
    result = {
        "output": where,
        "manifest": converted.manifest_name,
        "name": options.output_file_name,
        "records": converted.records,
        "rows": sum(part.rows for part in converted.parts),
        "files": len(converted.parts),
        "bytes": sum(part.size_bytes for part in converted.parts),
        "engines": dict(converted.engines),
    }
    attempt.task("convert", "FINISHED", {"options": MessageToDict(request), **result})
    named = zip(request.file_names[:MAX_FILES], converted.inputs, strict=False)
    digests = [{"name": name, "sha256": read.get("sha256", "")} for name, read in named]
    return {**result, "inputs": digests}


def _sources(
    attempt: Attempt,
    request: ingestion_pb2.ConvertJsonRequest,
    inputs: Inputs,
    project: str,
    aes: Aes | None,
) -> list[Source]:
    """What a conversion reads."""
    if not request.HasField("collection"):
        return [source_of(entry, aes) for entry in inputs.find_all(request.file_names, project)]
    job = find_result(request.collection.job_id, attempt.inputs)
    if job is None or job.job_type != "COLLECT":
        raise NotFoundError("collection: there is no finished COLLECT job of this id for this one")
    home = configuration.home()
    open_page = page_opener(stores_of(home), scratch_folder(home))
    return collected_sources(request.collection, job, attempt.artifacts, open_page, aes)


def _progress(attempt: Attempt) -> Callable[[Progress], None]:
    """Reports how far a conversion is, with the time that is left at its speed so far."""
    began: list[tuple[float, int]] = []

    def report(progress: Progress) -> None:
        if not began:
            # What an earlier attempt has read says nothing of the speed of this one.
            began.append((time.monotonic(), progress.bytes_read))
        (start, first), left = began[0], progress.bytes_total - progress.bytes_read
        read, seconds = progress.bytes_read - first, time.monotonic() - start
        eta = f"{left * seconds / read:,.0f} s left, " if read > 0 and left > 0 else ""
        attempt.progress(
            "convert",
            progress.bytes_read,
            progress.bytes_total,
            unit="bytes",
            message=f"{eta}{progress.records:,} records, {progress.rows:,} rows, "
            f"{progress.files:,} files",
        )

    return report


JOBS: Final[dict[str, Callable[[Attempt], dict[str, Any]]]] = {
    "DECK_COLLECTION": collect,
    "CONVERT": convert,
    "IMPORT": import_dataset,
    "COLLECT": collect_pages,
    "BACKUP": back_up,
    "CLEANUP": clean_up,
    "REPAIR": repair_stores,
    "DELIVER": deliver_dataset,
}
"""The jobs of this service, by type."""

PRELOAD: Final = ("duckdb", "vistaflow_services.datasets.expressions")
"""What the service itself loads with the first data set."""


def _manifest(attempt: Attempt, collected: Collected) -> dict[str, Any]:
    deck = collected.deck
    assert collected.path is not None  # just kept
    return CollectedDeck(
        deck_id=deck.digest,
        name=deck.name,
        version=deck.version,
        simulator=deck.simulator,
        **attempt.artifacts.describe(collected.path),
        parameters=deck.space.names,
        responses=deck.response_names,
    ).to_dict()

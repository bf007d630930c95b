"""The known points that a kit takes: of kits by their jobs, of datasets with their rows.

The rows of datasets go with the design's request, so that what was checked is what is taken. What
kits ran and what the point store has is read by the job, from the files; the DOE service counts it
beforehand.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2, doe_pb2_grpc
from vistaflow.api.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import (
    FieldViolation,
    InvalidError,
    NotFoundError,
    Violations,
)
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.decks.deck import Deck
from vistaflow_services.designs.table import IMPORTED
from vistaflow_services.pipeline.points import MAX_ROWS, read_points
from vistaflow_services.pipeline.services import address_of, asked, streamed

MAX_SOURCES: Final = 20
"""Most kits, and most datasets, whose points a kit takes."""

MAX_BYTES: Final = 1 << 20
"""Most bytes of the rows of all datasets that a kit takes."""

PURPOSE: Final = "find known points"

_RUNNING: Final = (common_pb2.JOB_TYPE_DOE, common_pb2.JOB_TYPE_OPTIMIZE)


@dataclass(kw_only=True)
class Known:
    """What a kit takes."""

    spec: doe_pb2.ReuseSpec = field(default_factory=doe_pb2.ReuseSpec)
    origins: Sequence[doe_pb2.PointOrigin] = ()
    mistakes: list[FieldViolation] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many points these are whose runs did not fail."""
        return sum(origin.count - origin.failed_count for origin in self.origins)


class Reuse:
    """Finds the known points that kits take.

    Args:
        registry: Knows kits, datasets and services.
        doe: Where the DOE service is; the registry is not asked.
    """

    def __init__(self, registry: RegistryClient, doe: str = "") -> None:
        self._registry = registry
        self._doe = doe

    async def known(self, spec: pb.KitSpec, deck: Deck) -> Known:
        """What a kit takes, with the mistakes of its field `reuse`.

        Args:
            spec: The kit. The versions of its datasets are put into it.
            deck: Its deck.

        Raises:
            UnavailableError: A service that has to be asked does not answer.
        """
        known, violations = Known(), Violations()
        reuse = spec.reuse
        known.spec.all, known.spec.only = reuse.all, reuse.only
        for name in ("kits", "datasets"):
            if len(getattr(reuse, name)) > MAX_SOURCES:
                violations.add(f"reuse.{name}", f"give at most {MAX_SOURCES}")
        if reuse.only and not (reuse.all or reuse.kits or reuse.datasets):
            violations.add("reuse.only", "says that there are known points alone: name some")
        if not violations:
            for place, kit_id in enumerate(reuse.kits):
                await self._add_kit(known, kit_id, deck, f"reuse.kits[{place}]", violations)
            for place, name in enumerate(reuse.datasets):
                reuse.datasets[place] = await self._add_dataset(
                    known, name, deck, f"reuse.datasets[{place}]", violations
                )
            if known.spec.ByteSize() > MAX_BYTES:
                violations.add("reuse.datasets", f"have more than {MAX_BYTES:,} bytes of points")
        if not violations and (reuse.all or reuse.kits or reuse.datasets):
            await self._count(known, spec, violations)
        known.mistakes = list(violations)
        return known

    async def _add_kit(
        self, known: Known, kit_id: int, deck: Deck, path: str, violations: Violations
    ) -> None:
        try:
            kit = await self._registry.get_kit(kit_id)
        except (NotFoundError, InvalidError):
            violations.add(path, f"there is no kit {kit_id}; list kits with `vistaflow kits`")
            return
        job_ids = points_of(kit, deck)
        if job_ids:
            known.spec.kits.add(kit_id=kit_id, job_ids=job_ids)
        else:
            violations.add(path, f"kit {kit_id} has run no points: wait for its design to finish")

    async def _add_dataset(
        self, known: Known, name: str, deck: Deck, path: str, violations: Violations
    ) -> str:
        """Adds the points of a dataset; returns its name with its version."""
        request = datasets_pb2.GetDatasetRequest(dataset=name)
        try:
            answer = await self._registry.call(self._registry.datasets.GetDataset, request)
            if not answer.HasField("version"):
                raise NotFoundError(f"the dataset {name} has no version")
        except (NotFoundError, InvalidError) as error:
            violations.add(path, f"{error.message}; list them with `vistaflow datasets`")
            return name
        project = f"{answer.dataset.project}." if answer.dataset.project else ""
        pinned = f"{project}{answer.dataset.name}@{answer.version.version}"
        points = read_points(await self._rows(pinned), deck, f"{IMPORTED}{pinned}")
        for row, column, problem in points.mistakes:
            where = f"row {row} of {pinned}" if row else pinned
            violations.add(path, f"{where}: {f'`{column}`: ' if column else ''}{problem}")
        known.spec.tables.append(points.table)
        return pinned

    async def _rows(self, dataset: str) -> Iterator[dict[str, Any]]:
        request = ingestion_pb2.ReadDatasetRequest(
            dataset=dataset, limit=MAX_ROWS + 1, encoding=ingestion_pb2.ROW_ENCODING_JSON
        )
        address = await address_of(self._registry, "ingestion", "read datasets of points")
        stub = ingestion_pb2_grpc.IngestionServiceStub
        pieces = [piece.data async for piece in streamed(address, stub, "ReadDataset", request)]
        return map(json.loads, b"".join(pieces).splitlines())

    async def _count(self, known: Known, spec: pb.KitSpec, violations: Violations) -> None:
        request = doe_pb2.FindPointsRequest(
            deck="" if spec.deck.archive else spec.deck.name,
            deck_archive=spec.deck.archive,
            design=spec.design,
            reuse=known.spec,
        )
        address = self._doe or await address_of(self._registry, "doe", PURPOSE)
        try:
            answer = await asked(address, doe_pb2_grpc.DoeServiceStub, "FindPoints", request)
        except InvalidError as error:
            for violation in error.violations:
                place = violation.field.replace("tables", "datasets")
                if place.partition("[")[0] in ("kits", "datasets", "all"):
                    violations.add(f"reuse.{place}", violation.description)
            # What is wrong with the ranges is found with the rest of the design.
            return
        known.origins = answer.origins

    async def _upload(self, address: str, content: bytes, file_name: str) -> str:
        """Sends a file to the ingestion service, unless it is there; returns its upload's id."""
        digest = hashlib.sha256(content).hexdigest()
        header = ingestion_pb2.UploadHeader(
            upload_id=digest[:32], file_name=file_name, size_bytes=len(content), sha256=digest
        )
        stub = ingestion_pb2_grpc.IngestionServiceStub
        question = ingestion_pb2.GetUploadRequest(upload_id=header.upload_id)
        with contextlib.suppress(NotFoundError):
            answer = await asked(address, stub, "GetUpload", question)
            if answer.upload.complete:
                return header.upload_id
            header.offset = answer.upload.received_bytes
        parts = [
            ingestion_pb2.UploadFileRequest(header=header),
            ingestion_pb2.UploadFileRequest(data=content[header.offset :]),
        ]
        await asked(address, stub, "UploadFile", iter(parts))
        return header.upload_id

    async def import_points(
        self, request: pb.ImportPointsRequest, file_name: str
    ) -> common_pb2.Job:
        """Has a checked table imported as a dataset."""
        address = await address_of(self._registry, "ingestion", "import points")
        stub = ingestion_pb2_grpc.IngestionServiceStub
        upload = await self._upload(address, request.csv, file_name)
        table = ingestion_pb2.ImportTable()
        table.source.files.file_names.append(f"upload:{upload}")
        table.source.files.format = ingestion_pb2.ROW_FORMAT_CSV
        spec = ingestion_pb2.ImportSpec(dataset=request.dataset, tables=[table])
        answer = await asked(
            address,
            stub,
            "ImportDataset",
            ingestion_pb2.ImportDatasetRequest(request_id=request.request_id, spec=spec),
        )
        job: common_pb2.Job = answer.job
        return job


def points_of(kit: registry_pb2.Kit, deck: Deck) -> list[str]:
    """The finished jobs of a kit that ran points: those of the deck, else of any."""
    jobs = []
    for job in kit.jobs:
        if job.status == common_pb2.STATUS_FINISHED and job.job_type in _RUNNING:
            result = struct_to_dict(job.result)
            if result.get("evaluated_count") or "trials" in result:
                jobs.append((str(result.get("deck_id", "")), job.job_id))
    own = [job_id for deck_id, job_id in jobs if deck_id == deck.digest]
    return own or [job_id for _, job_id in jobs]

"""DELIVER jobs: a version that meets conditions gets an alias, and its tables become files.

    1. the version is looked up, and its figures are compared with the conditions
    2. its tables are written to the output, each file whole or not at all, the list of them last
    3. the alias names the version

A job that is killed begins again: the files have the same content, and an alias that names the
version already is left as it is. Readers of the alias see no version whose files are not there.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import (
    ConflictError,
    FieldViolation,
    ServiceError,
    Violations,
    field_error,
)
from vistaflow_services.core.names import dataset_reference, is_dataset_alias
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.datasets import reader
from vistaflow_services.datasets.manifest import Manifest, Table
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.conversions import FORMATS, output_name, output_of
from vistaflow_services.ingestion.datasets.imports import scratch_of
from vistaflow_services.ingestion.datasets.reads import csv_parts
from vistaflow_services.ingestion.datasets.registrar import Registrar, manifest_of
from vistaflow_services.ingestion.datasets.row_sources import Places
from vistaflow_services.ingestion.datasets.stores import scratch_folder, stores_of
from vistaflow_services.ingestion.inputs import Inputs
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.bucket import SINGLE_BYTES, failures
from vistaflow_services.stores.inputs import client_of
from vistaflow_services.stores.roots import Input
from vistaflow_services.tables.conversion import Format

ALIAS: Final = "final"
"""The alias of a request that names none."""

FIGURES: Final[Mapping[str, Callable[[datasets_pb2.DatasetVersion], float]]] = {
    "accepted": lambda version: version.rows,
    "rejected": lambda version: version.rejected_rows,
    "rejected_share": lambda version: (
        version.rejected_rows / max(1, version.rows + version.rejected_rows)
    ),
    "bytes": lambda version: version.size_bytes,
}
"""What conditions may compare."""

_SIGNS: Final = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(>=|<=|>|<|=)\s*(\d{1,15}(?:\.\d{1,15})?)\s*")


def check_delivery(spec: pb.DeliverSpec, places: Places, *, expects: bool = False) -> None:
    """Checks all of a request that can be known without the dataset.

    Args:
        spec: The request.
        places: Where outputs may be.
        expects: Whether a dataset without a name is still to come.

    Raises:
        InvalidError: One violation for each mistake.
    """
    violations = Violations()
    if not (expects and not spec.dataset) and dataset_reference(spec.dataset) is None:
        violations.add("spec.dataset", "is no dataset; give NAME, NAME@3 or NAME@ALIAS")
    if spec.alias and not is_dataset_alias(spec.alias):
        violations.add(
            "spec.alias", "must be 1 to 63 of a-z 0-9 _ - beginning with a letter, not `latest`"
        )
    for figure, text in sorted(spec.require.items()):
        if figure not in FIGURES:
            violations.add(
                f"spec.require.{figure[:60]}", f"is no figure; give {', '.join(FIGURES)}"
            )
        elif not _CONDITION.fullmatch(text):
            violations.add(f"spec.require.{figure}", "is no comparison, such as `>= 100`")
    if spec.format not in FORMATS:
        violations.add("spec.format", f"{spec.format} is no value of the enum")
    if spec.format and not spec.output:
        violations.add("spec.format", "is that of files; give `output`, too")
    if spec.output:
        try:
            _place(spec, places)
        except ServiceError as error:
            violations.extend("spec", error)
    violations.check()


def check_delivered(answer: datasets_pb2.GetDatasetResponse, places: Places) -> None:
    """Checks that a dataset has a version, in the project that the job would be in."""
    if answer.dataset.project != places.project:
        raise field_error(
            "spec.dataset",
            f"is in project `{answer.dataset.project}`, and the job would be in "
            f"`{places.project}`; call with a token of that project",
        )
    if not answer.HasField("version"):
        raise ConflictError(
            f"spec.dataset: {answer.dataset.name} has no version yet; import one",
            reason="NO_VERSION",
        )


def deliver_dataset(attempt: Attempt) -> dict[str, Any]:
    """Delivers what a `DeliverSpec` names; the result says which version, and what was written."""
    spec = attempt.unpack(pb.DeliverSpec)
    config, home = read_config(Config, "VISTAFLOW_INGESTION_"), configuration.home()
    with (
        scratch_of(scratch_folder(home), attempt) as scratch,
        Registrar(attempt.registry) as registrar,
    ):
        project = registrar.project_of(attempt.kit_id)
        places = Places(
            inputs=Inputs.load(home, config), project=project, artifacts=attempt.artifacts
        )
        check_delivery(spec, places)
        reference = dataset_reference(spec.dataset)
        if reference is None or reference.project_for(project) != project:
            raise field_error("spec.dataset", "is in another project than the job")
        name = f"{project}.{reference.name}"
        answer = registrar.dataset(f"{name}@{spec.dataset.partition('@')[2] or 'latest'}")
        manifest, version = manifest_of(answer), answer.version
        alias = spec.alias or ALIAS
        former = answer.dataset.aliases.get(alias, 0)
        figures = {figure: value(version) for figure, value in FIGURES.items()}
        with attempt.part("check") as metadata:
            metadata.update({"version": version.version, "former": former, **figures})
            _check_conditions(spec, figures, f"{alias} stays {_pinned(reference.name, former)}")
        written: dict[str, Any] = {}
        if spec.output:
            with attempt.part("write") as metadata:
                delivery = _Delivery(spec, places, stores_of(home), scratch)
                written = delivery.write(reference.name, version, manifest, attempt)
                metadata.update(written)
        registrar.set_alias(name, alias, version.version)
    return {
        "dataset": reference.name,
        "project": project,
        "version": version.version,
        "pinned": _pinned(reference.name, version.version),
        "alias": alias,
        "former": former,
        "rows": version.rows,
        **figures,
        **written,
    }


def _pinned(name: str, version: int) -> str:
    return f"{name}@{version}" if version else "unset"


def _check_conditions(spec: pb.DeliverSpec, figures: Mapping[str, float], otherwise: str) -> None:
    violations = list[FieldViolation]()
    for figure, text in sorted(spec.require.items()):
        match = _CONDITION.fullmatch(text)
        assert match is not None  # checked before
        if not _SIGNS[match[1]](figures[figure], float(match[2])):
            problem = f"is {figures[figure]:g}, not {match[1]} {match[2]}"
            violations.append(FieldViolation(field=figure, description=problem))
    if violations:
        problems = "; ".join(f"{entry.field} {entry.description}" for entry in violations)
        raise JobError(
            f"{problems}; {otherwise}",
            reason="NOT_DELIVERED",
            hint="look at the rejected rows, correct the source or `require`, and retry",
            details={"violations": [vars(violation) for violation in violations]},
        )


def _place(spec: pb.DeliverSpec, places: Places) -> Path | Input:
    name = output_name(spec.output, places.inputs.roots, places.project)
    return output_of(name, places.inputs.roots, places.project)


class _Delivery:
    """Writes the tables of a version to a folder or a bucket."""

    def __init__(
        self, spec: pb.DeliverSpec, places: Places, store: BlobStore, scratch: Path
    ) -> None:
        self._place = _place(spec, places)
        self._format = FORMATS[spec.format]
        self._output = spec.output
        self._store, self._scratch = store, scratch

    def write(
        self, name: str, version: datasets_pb2.DatasetVersion, manifest: Manifest, attempt: Attempt
    ) -> dict[str, Any]:
        """Writes the files, the list of them last."""
        listed: list[dict[str, Any]] = []
        for index, table in enumerate(manifest.tables):
            attempt.progress("write", index, len(manifest.tables), unit="tables")
            stem = name if len(manifest.tables) == 1 else f"{name}.{table.name}"
            for suffix in ("csv", "parquet"):
                if self._format in (Format.BOTH, Format(suffix)):
                    path = self._scratch / f"{stem}.{suffix}"
                    rows = self._write(table, path, suffix)
                    with path.open("rb") as file:
                        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                    size = path.stat().st_size
                    self._put(path)
                    listed.append(
                        {"name": path.name, "rows": rows, "bytes": size, "sha256": sha256}
                    )
        attempt.progress("write", len(manifest.tables), len(manifest.tables), unit="tables")
        content = {
            "dataset": name,
            "version": version.version,
            "digest": version.digest,
            "files": listed,
        }
        path = self._scratch / f"{name}.delivery.json"
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        self._put(path)
        return {"output": self._output, "files": len(listed), "list": path.name}

    def _write(self, table: Table, path: Path, suffix: str) -> int:
        schema, rows = reader.schema(table, self._scratch), 0

        def counted() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in reader.read(table, self._store, self._scratch):
                rows += batch.num_rows
                yield batch

        if suffix == "csv":
            with path.open("wb") as file:
                for parts in csv_parts(counted(), schema, self._scratch):
                    file.writelines(parts)
        else:
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in counted():
                    writer.write_batch(batch)
        return rows

    def _put(self, path: Path) -> None:
        if isinstance(self._place, Path):
            with (
                files.appearing(self._place / path.name) as target,
                path.open("rb") as source,
                target.open("wb") as file,
            ):
                while block := source.read(1 << 20):
                    file.write(block)
            return
        with failures(self._place.root.name):
            obstore.put(
                client_of(self._place, "output"),
                str(self._place.path / path.name),
                path,
                use_multipart=path.stat().st_size > SINGLE_BYTES,
                chunk_size=SINGLE_BYTES,
            )

"""The tables of a query: what a name means, its version, its columns and its files.

    NAME, NAME@3, NAME@ALIAS, NAME.TABLE, PROJECT.NAME.TABLE   datasets
    files."ROOT/FOLDER", files."ROOT/*.parquet"                files in roots of data
    kit_7.KEY, kit_7."JOB.KEY"                                 what jobs of a kit published
    conversions."JOB_ID/TABLE"                                 Parquet files of a conversion
    results."QUERY_ID"                                         the result of a query
    state.log, state.jobs                                      see `history.py`
    vistaflow.KIND.PROJECT.NAME                                any of these, as lineage names it

Everything is looked up with the rights of the caller who submits the query, in the registry and in
the roots of the caller's project. What was found is recorded with the query: it runs on these files
and no others.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
from sqlglot import exp

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.errors import InvalidError, NotFoundError, ServiceError
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.registry_client import RegistryClient, result_of
from vistaflow_services.core.results import readable
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import PARTS, SCRATCH, parts_of
from vistaflow_services.core.work.uris import DOWNLOADS, SCHEME
from vistaflow_services.datasets.manifest import Column, Manifest, from_json
from vistaflow_services.query.engines.contract import FileFormat
from vistaflow_services.query.mistakes import QueryError, nearest
from vistaflow_services.query.results.storage import folder_of
from vistaflow_services.query.statement import TableName
from vistaflow_services.query.tables.cache import DownloadCache
from vistaflow_services.query.tables.columns import csv_columns, json_columns, parquet_columns
from vistaflow_services.query.tables.conditions import conditions_of
from vistaflow_services.query.tables.history import COPIES, bounds_of
from vistaflow_services.stores.inputs import remote_file
from vistaflow_services.stores.listing import ListedFile, list_files, partition_types
from vistaflow_services.stores.roots import Roots

BLOB: Final = "blob:"
"""What the locator of a blob begins with."""

KIT: Final = re.compile(r"kit_([1-9][0-9]{0,9})")

_FORMATS: Final = {
    ".parquet": FileFormat.PARQUET,
    ".csv": FileFormat.CSV,
    ".csv.gz": FileFormat.CSV,
    ".json": FileFormat.JSON,
    ".ndjson": FileFormat.JSON,
    ".jsonl": FileFormat.JSON,
}
_SUFFIXES: Final = tuple(_FORMATS)

MAX_JSON_BYTES: Final = 64 << 20
"""Most bytes of JSON of one table: all of it is read to find its types."""

SERVICE: Final = "vistaflow"
"""The first part of the full names of our own tables."""

_KINDS: Final = {"dataset": "", "result": "results", "conversion": "conversions"}
"""What tables of a kind are called by in a query, where it is not the kind's own name."""

_SYNONYMS: Final = {"responses": "design", "predictions": "residuals"}
"""Names of tables of kits beside the keys that jobs publish them under."""


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file of a table."""

    locator: str
    """`blob:SHA256`, `artifact://…`, or `ROOT/PATH` in a root of data."""

    size: int
    version: str = ""
    """Of a file in a root: what changes when its content does."""

    partition: tuple[str | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoundTable:
    """A table that a query reads, as it is recorded with the query."""

    name: str
    """`TableName.text`."""

    kind: str
    """dataset, files, kit, conversion, result, state or trino."""

    target: str
    """What it is in full, for people."""

    version: str
    """What changes when the content does; empty for tables of Trino, which have none."""

    project: str = ""
    """Of a result: the project from which it is read."""

    model_id: str = ""
    """What a catalog of metadata calls it: the label `openmetadata_id` of a dataset."""

    stored_as: tuple[str, ...] = ()
    """Of a table of Trino: its catalog, schema and name."""

    columns: tuple[Column, ...] = ()
    partitions: tuple[Column, ...] = ()
    format: FileFormat = FileFormat.PARQUET
    files: tuple[FoundFile, ...] = ()

    @property
    def fully_qualified_name(self) -> str:
        """Service, database, schema and table, as catalogs of metadata name tables."""
        if self.kind == "trino":
            return f"trino.{self.target}"
        if self.kind == "result":
            return f'vistaflow.results.{self.project}."{self.target}"'
        target = self.target.partition("@")[0] if self.kind == "dataset" else f'"{self.target}"'
        return f"vistaflow.{self.kind}.{target}"

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The partition keys included."""
        return (*self.columns, *self.partitions)


def to_json(tables: tuple[FoundTable, ...]) -> bytes:
    """Tables as a query's spec has them."""
    return msgspec.json.encode(tables)


def from_json_bytes(data: bytes) -> tuple[FoundTable, ...]:
    """What `to_json` wrote."""
    return msgspec.json.decode(data, type=tuple[FoundTable, ...])


class Tables:
    """Finds tables.

    Args:
        registry: Says which datasets and jobs the caller sees.
        artifacts: Where jobs publish.
        roots: The roots of data.
        only: A project whose tables are found, and no others, whatever the rights of the caller;
            empty: as the caller's rights are.
        cache_bytes: Most that downloads take which stay for the query.
    """

    def __init__(
        self,
        registry: RegistryClient,
        artifacts: ArtifactStore,
        roots: Roots,
        *,
        only: str = "",
        cache_bytes: int = 0,
    ) -> None:
        self._cache = DownloadCache(artifacts.root / DOWNLOADS, cache_bytes)
        self._scratch = artifacts.root.parent / SCRATCH
        self._only = only
        self._registry = registry
        self._artifacts = artifacts
        self._roots = roots

    async def find(self, name: TableName, project: str, tree: exp.Query) -> FoundTable:
        """The table that a name means for the caller that is being served.

        Args:
            name: The name.
            project: The caller's.
            tree: The query, whose conditions bound what is read of the log.

        Raises:
            QueryError: There is none that the caller sees, or it cannot be read as a table.
        """
        parts = short(name.parts)
        schema = parts[0] if len(parts) == 2 else ""
        if self._only and schema == "state":
            raise error_at(name, "a data kit reads no table of the log, which has every project")
        try:
            if schema == "files":
                return await asyncio.to_thread(self._files, name, parts[1], project, tree)
            if match := KIT.fullmatch(schema):
                return await self._of_kit(name, int(match[1]), parts[1])
            if schema == "state":
                return await self._state(name, parts[1], tree)
            if schema in ("conversions", "results"):
                return await self._of_job(name, parts, project)
            return await self._dataset(name, parts)
        except QueryError:
            raise
        except ServiceError as error:
            if error.code not in ("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION"):
                raise
            raise error_at(name, error.message) from None

    def _files(self, name: TableName, place: str, project: str, tree: exp.Query) -> FoundTable:
        listed = list_files(self._roots, place, project, _SUFFIXES, "table")
        # A file such as `manifest.json` beside the tables describes them.
        tables = [file for file in listed if not _is_json(file.input.path.name)]
        listed = tables or listed
        suffixes = {_suffix(file.input.path.name) for file in listed}
        if len({_FORMATS.get(suffix or "") for suffix in suffixes}) > 1 or None in suffixes:
            raise error_at(name, "has files of several formats; name Parquet, CSV or JSON files")
        partitions = tuple(
            Column(name=key, type=kind) for key, kind in partition_types(listed).items()
        )
        first, keys = listed[0], [column.name for column in partitions]
        files = tuple(
            FoundFile(
                locator=file.input.name,
                size=file.size,
                version=file.version,
                partition=tuple(file.partition[key] for key in keys),
            )
            for file in listed
        )
        files = _pruned(files, partitions, tree, name)
        file_format = _FORMATS[_suffix(first.input.path.name) or ""]
        if first.input.root.folder is not None:
            paths = [
                file.input.root.folder / file.input.path
                for file in listed
                if file.input.root.folder is not None
            ]
            if file_format is FileFormat.PARQUET:
                columns = parquet_columns(paths[0])
            elif file_format is FileFormat.CSV:
                with paths[0].open("rb") as file:
                    columns = csv_columns(file, compressed=paths[0].suffix == ".gz")
            else:
                _check_json(name, listed)
                columns = _json_columns(name, paths)
        elif file_format is FileFormat.PARQUET:
            with remote_file(first.input, "table") as remote:
                columns = parquet_columns(remote)
        elif file_format is FileFormat.CSV:
            with remote_file(first.input, "table") as remote:
                columns = csv_columns(remote, compressed=first.input.path.suffix == ".gz")
        else:
            _check_json(name, listed)
            self._scratch.mkdir(parents=True, exist_ok=True)
            with (
                tempfile.TemporaryDirectory(dir=self._scratch) as scratch,
                contextlib.ExitStack() as stack,
            ):
                downloads = (self._cache.listed(file, Path(scratch)) for file in listed)
                columns = _json_columns(name, [stack.enter_context(path) for path in downloads])
        return FoundTable(
            name=name.text,
            kind="files",
            target=place,
            version=_digest(file.__dict__ for file in files),
            columns=tuple(column for column in columns if column.name not in keys),
            partitions=partitions,
            format=file_format,
            files=files,
        )

    async def _dataset(self, name: TableName, parts: Sequence[str]) -> FoundTable:
        *schema, last = parts
        last, _, quoted_version = last.partition("@")
        suffix = name.version or quoted_version
        suffix = f"@{suffix}" if suffix else ""
        # `a.b` is a table of the dataset `a`, or else the dataset `b` of the project `a`.
        readings = {
            0: [(last, "")],
            1: [(schema[0], last), (f"{schema[0]}.{last}", "")] if schema else [],
            2: [(".".join(schema), last)],
        }.get(len(schema), [(".".join([*schema[-1:], last]), "")])
        if self._only:
            own = [(f"{self._only}.{dataset}", table) for dataset, table in readings]
            readings = [*own, *readings]
        for dataset, table_name in readings:
            try:
                answer = await self._registry.call(
                    self._registry.datasets.GetDataset,
                    datasets_pb2.GetDatasetRequest(
                        dataset=f"{dataset}{suffix}", with_manifest=True
                    ),
                )
            except NotFoundError:
                continue
            except InvalidError:
                if not self._only:
                    raise
                continue
            if self._only and answer.dataset.project != self._only:
                continue
            if not answer.HasField("version"):
                raise error_at(name, f"dataset `{dataset}` has no version yet; import one")
            manifest = from_json(Manifest, json.loads(answer.manifest))
            names = [table.name for table in manifest.tables]
            if table_name and table_name not in names:
                if dataset != readings[-1][0]:
                    continue
                raise error_at(
                    name, f"dataset `{dataset}` has no such table{nearest(table_name, names)}"
                )
            if not table_name and len(names) > 1:
                raise error_at(
                    name,
                    f"dataset `{dataset}` has {len(names)} tables; write {dataset}.TABLE"
                    f"{nearest('', names)}",
                )
            table = manifest.table(table_name or names[0])
            full = ".".join(filter(None, (answer.dataset.project, answer.dataset.name)))
            full += f".{table.name}" if len(names) > 1 else ""
            return FoundTable(
                name=name.text,
                kind="dataset",
                target=f"{full}@{answer.version.version}",
                version=f"{answer.version.version}:{answer.version.digest}",
                model_id=answer.dataset.labels.get("openmetadata_id", ""),
                columns=table.columns,
                files=tuple(
                    FoundFile(locator=f"{BLOB}{part.sha256}", size=part.size_bytes)
                    for part in table.parts
                ),
            )
        raise error_at(name, await self._unknown(name))

    async def _unknown(self, name: TableName) -> str:
        """What to say of a name that means nothing, with the names nearest to it."""
        page = await self._registry.call(
            self._registry.datasets.ListDatasets, datasets_pb2.ListDatasetsRequest(page_size=1000)
        )
        known = [dataset.name for dataset in page.datasets]
        return f"there is no table `{name.text}`{nearest(name.text, known)}; files are " + (
            'files."ROOT/PATH", results of kits are kit_N.design, and so on'
        )

    async def _state(self, name: TableName, table: str, tree: exp.Query) -> FoundTable:
        """The log or the jobs, copied up to one revision."""
        if table not in COPIES:
            raise error_at(name, f"state has no table `{table}`{nearest(table, COPIES)}")
        copied = await COPIES[table](self._registry, self._artifacts, bounds_of(tree, name.parts))
        return FoundTable(
            name=name.text,
            kind="state",
            target=f"state.{table}",
            version=f"{copied.revision}:{copied.path.stem[-40:]}",
            columns=await asyncio.to_thread(parquet_columns, copied.path),
            files=(
                FoundFile(
                    locator=self._artifacts.uri(copied.path), size=copied.path.stat().st_size
                ),
            ),
        )

    async def _of_kit(self, name: TableName, kit_id: int, place: str) -> FoundTable:
        wanted_job, _, key = place.rpartition(".")
        key = _SYNONYMS.get(key, key)
        await self._check_kit(name, kit_id)
        page = await self._registry.list_jobs(
            kit_ids=[kit_id], statuses=["FINISHED"], page_size=1000
        )
        known = []
        for job in page.jobs:
            if job.job_type == common_pb2.JOB_TYPE_QUERY:
                continue
            for published, entry in result_of(job).result.items():
                if not _is_parquet(entry):
                    continue
                known.append(published)
                if published == key and wanted_job in ("", job.name):
                    with readable(job.job_id, "table"):
                        return await asyncio.to_thread(
                            self._published, name, "kit", f"{kit_id}/{job.name}.{key}", [entry]
                        )
        if not page.jobs:
            raise error_at(name, f"there is no kit {kit_id} with a finished job")
        raise error_at(name, f"kit {kit_id} has no table `{place}`{nearest(key, known)}")

    async def _check_kit(self, name: TableName, kit_id: int) -> None:
        """Raises `QueryError` if a kit is in another project than the only one."""
        if not self._only:
            return
        request = registry_pb2.GetKitRequest(kit_id=kit_id, page_size=1)
        answer = await self._registry.call(self._registry.stub.GetKit, request)
        if answer.kit.project != self._only:
            raise error_at(name, f"there is no `{name.text}` in project `{self._only}`")

    async def _of_job(self, name: TableName, parts: Sequence[str], project: str) -> FoundTable:
        """A table of a conversion, or the result of a query."""
        kind = parts[0].removesuffix("s")
        job_id, _, table_name = parts[1].partition("/")
        if not is_job_id(job_id):
            raise error_at(name, f"`{job_id[:60]}` is no id; a {kind} has a UUID")
        job_type = "CONVERT" if kind == "conversion" else "QUERY"
        if self._only:
            await self._check_kit(name, (await self._registry.job_without_tasks(job_id)).kit_id)
        result = (await self._registry.result(job_id, job_type=job_type, field="table")).result
        with readable(job_id, "table"):
            if kind == "result":
                table = await asyncio.to_thread(self._result, name, job_id, result)
                return replace(table, project=project)
            return await asyncio.to_thread(
                self._conversion, name, project, job_id, table_name, result
            )

    def _result(self, name: TableName, query_id: str, result: Mapping[str, Any]) -> FoundTable:
        folder = folder_of(self._artifacts, query_id, result)
        parts = parts_of(folder)
        if not parts[0].blob:
            entries = [{"uri": self._artifacts.uri(folder / part.name)} for part in parts]
            return self._published(name, "result", query_id, entries)
        columns = json.loads((folder / PARTS).read_bytes())["table_columns"]
        return FoundTable(
            name=name.text,
            kind="result",
            target=query_id,
            version=_digest(part.blob for part in parts),
            columns=from_json(tuple[Column, ...], columns),
            files=tuple(FoundFile(locator=f"{BLOB}{part.blob}", size=part.bytes) for part in parts),
        )

    def _conversion(
        self,
        name: TableName,
        project: str,
        job_id: str,
        table_name: str,
        result: Mapping[str, Any],
    ) -> FoundTable:
        output = result["output"]
        if not output.startswith(SCHEME):
            raise error_at(
                name, f'was written to a root of data; write files."{output}/NAME.TABLE_*.parquet"'
            )
        folder = self._artifacts.existing(output)
        manifest = json.loads((folder / result["manifest"]).read_bytes())
        tables = {
            table["table"]: [
                file for file in table["files"] if file["file_name"].endswith(".parquet")
            ]
            for table in manifest["tables"]
        }
        tables = {table: files for table, files in tables.items() if files}
        if table_name not in tables and len(tables) == 1 and not table_name:
            table_name = next(iter(tables))
        if table_name not in tables:
            raise error_at(
                name,
                f"conversion {job_id} has no Parquet table `{table_name}`"
                f"{nearest(table_name, tables)}",
            )
        entries = [
            {
                "uri": f"{output}/{file['file_name']}",
                "bytes": file["size_bytes"],
                "sha256": file["sha256"],
            }
            for file in tables[table_name]
        ]
        return self._published(name, "conversion", f"{job_id}/{table_name}", entries)

    def _published(
        self, name: TableName, kind: str, target: str, entries: list[dict[str, Any]]
    ) -> FoundTable:
        """A table of Parquet files in the artifact store."""
        paths = [self._artifacts.existing(entry["uri"]) for entry in entries]
        files = tuple(
            FoundFile(locator=entry["uri"], size=path.stat().st_size)
            for entry, path in zip(entries, paths, strict=True)
        )
        return FoundTable(
            name=name.text,
            kind=kind,
            target=target,
            version=_digest(entries),
            columns=parquet_columns(paths[0]),
            files=files,
        )


def short(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a table without our own service and kind in front, which lineage writes.

    `vistaflow.dataset.shop.reviews` is `shop.reviews`, `vistaflow.results.shop."ID"` is
    `results."ID"`, `vistaflow.kit."7/train.dataset"` is `kit_7."train.dataset"`.
    """
    if len(parts) < 3 or parts[0] != SERVICE:
        return parts
    kind = _KINDS.get(parts[1], parts[1])
    if not kind:
        return parts[2:]
    if kind == "kit":
        kit_id, _, key = parts[-1].partition("/")
        return (f"kit_{kit_id}", key)
    if kind == "state":
        return (kind, parts[-1].removeprefix("state."))
    return (kind, parts[-1]) if kind in ("files", "results", "conversions") else parts


def error_at(name: TableName, problem: str) -> QueryError:
    """The error about a table, at the place where the query names it."""
    return QueryError(problem, name.positions[0] if name.positions else None)


def _pruned(
    files: tuple[FoundFile, ...], partitions: Sequence[Column], tree: exp.Query, name: TableName
) -> tuple[FoundFile, ...]:
    """The files whose partitions the conditions of the query allow."""
    places = {
        column.name.lower(): place
        for place, column in enumerate(partitions)
        if column.type == "BIGINT"
    }
    checks = [
        (condition, places[condition.column])
        for condition in conditions_of(tree, name.parts)
        if condition.column in places
    ]
    return tuple(
        file
        for file in files
        if all(
            (value := file.partition[place]) is not None and condition.allows_number(int(value))
            for condition, place in checks
        )
    )


def _suffix(name: str) -> str | None:
    return next((suffix for suffix in _SUFFIXES[::-1] if name.lower().endswith(suffix)), None)


def _check_json(name: TableName, files: Sequence[ListedFile]) -> None:
    size = sum(file.size for file in files)
    if size > MAX_JSON_BYTES:
        raise error_at(
            name,
            f"has {size >> 20:,} MiB of JSON; at most {MAX_JSON_BYTES >> 20} MiB are read as they "
            "are: convert it to Parquet, or name fewer files",
        )


def _json_columns(name: TableName, paths: Sequence[Path]) -> tuple[Column, ...]:
    try:
        return json_columns(paths)
    except duckdb.Error:
        raise error_at(
            name,
            "is no JSON with an object a line, or with one array of objects; `vistaflow convert` "
            "reads others",
        ) from None


def _is_json(name: str) -> bool:
    return _FORMATS.get(_suffix(name) or "") is FileFormat.JSON


def _is_parquet(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("uri"), str)
        and entry["uri"].endswith(".parquet")
    )


def _digest(entries: Any) -> str:
    text = json.dumps(list(entries), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()

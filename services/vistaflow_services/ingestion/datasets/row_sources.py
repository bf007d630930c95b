"""What the rows of a table are read from: files of roots, and what earlier jobs made.

A result of a job may have been written by hand, so nothing of it is trusted: files in the artifact
store are read only where the job itself wrote, or by their SHA-256, others only in the roots of
the project.

An import of a conversion has all of its tables. `_row` of the conversion is called `_record` and
is the primary key, `_value` is called `_element`; these names mean other things in rejected rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.errors import ConflictError, NotFoundError, cut, field_error
from vistaflow_services.core.names import DEFAULT_PROJECT, is_dataset_name
from vistaflow_services.core.results import JobResult, readable
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import PARTS
from vistaflow_services.core.work.uris import SCHEME
from vistaflow_services.datasets.build import TableSpec
from vistaflow_services.datasets.manifest import Reference
from vistaflow_services.datasets.sources import RESERVED, Format, Source
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.ingestion.conversions import read_manifest, written_to
from vistaflow_services.ingestion.inputs import Inputs
from vistaflow_services.ingestion.uploads import NO_PROJECT
from vistaflow_services.stores.inputs import local_file
from vistaflow_services.stores.roots import Input
from vistaflow_services.tables.shape import PARENT, ROW, VALUE

JOB_TYPES = {"conversion": "CONVERT", "design": "DOE", "query": "QUERY", "collection": "COLLECT"}
"""The type of the job that each kind of source names."""

FORMATS: Mapping[int, Format | None] = {
    pb.ROW_FORMAT_UNSPECIFIED: None,
    pb.ROW_FORMAT_CSV: "csv",
    pb.ROW_FORMAT_PARQUET: "parquet",
    pb.ROW_FORMAT_JSON: "json",
    pb.ROW_FORMAT_ARROW: "arrow",
}

_RENAMED = {ROW: "_record", VALUE: "_element"}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where sources of a project may be."""

    inputs: Inputs
    project: str
    artifacts: ArtifactStore


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A table of a conversion."""

    path: str
    """Its path in the records; empty for the records themselves."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    delimiter: str
    guarded: bool

    @property
    def renamed(self) -> dict[str, str]:
        """Names that a dataset may have, of the columns that need another one."""
        taken, names = {name.casefold() for name in RESERVED}, dict[str, str]()
        for name in self.columns:
            new = _RENAMED.get(name, name)
            while new.casefold() in taken:
                new += "_"
            taken.add(new.casefold())
            if new != name:
                names[name] = new
        return names

    def source(self, field: str, types: Mapping[str, str] | None = None) -> Source:
        """Its rows."""
        return Source(
            paths=self.files,
            name=field,
            delimiter=self.delimiter,
            renamed=self.renamed,
            guarded=self.guarded,
            types=types or {},
        )


def source_of_files(
    files: pb.RowFiles,
    places: Places,
    scratch: Path,
    stack: ExitStack,
    *,
    field: str,
    types: Mapping[str, str],
) -> Source:
    """Files as a source; those of buckets are downloaded to `scratch` until the stack ends.

    Raises:
        InvalidError: A name is malformed, or a link leads out of its root.
        NotFoundError: A file is not there.
        UnavailableError: A bucket does not answer.
    """
    paths = []
    for index, entry in enumerate(_inputs(files.file_names, places, f"{field}.file_names")):
        where = f"{field}.file_names[{index}]"
        if entry.root.folder is None:
            paths.append(stack.enter_context(local_file(entry, scratch, field=where)))
        else:
            # The file stays when the block ends; it is not kept open, as there may be many.
            with local_file(entry, scratch, field=where) as path:
                paths.append(path)
    return Source(
        paths=tuple(paths),
        format=FORMATS[files.format],
        name=field,
        names=tuple(files.column_names),
        delimiter=files.delimiter,
        null_texts=tuple(files.null_texts) or ("",),
        types=types,
    )


def title(name: str, places: Places, field: str) -> str:
    """What people call a file: `ROOT/PATH`, or the name of an upload."""
    (entry,) = _inputs([name], places, field)
    is_upload = entry.root.name == name
    return entry.path.name if is_upload else entry.name


def _inputs(names: Sequence[str], places: Places, field: str) -> list[Input]:
    try:
        return places.inputs.find_all(names, places.project, field)
    except NotFoundError:
        if places.project != DEFAULT_PROJECT:
            raise
        # Jobs of callers without a project are in this one, but not what they uploaded.
        return places.inputs.find_all(names, NO_PROJECT, field)


def source_of_job(
    kind: str,
    table: str,
    job: JobResult,
    places: Places,
    fetch: Callable[[str], Path],
    *,
    field: str,
    types: Mapping[str, str],
) -> Source:
    """What a finished job made as a source.

    Args:
        kind: `conversion`, `design`, `query` or `collection`.
        table: The table; the first one if empty.
        job: The job and its result.
        places: Where its files may be.
        fetch: A blob of the stores as a file, by its SHA-256.
        field: Where the job is named in the request.
        types: Types of columns that the request declares.

    Raises:
        InvalidError: The job has no such table.
        ConflictError: Its result cannot be read.
        NotFoundError: Its files are not there any more.
    """
    if kind == "conversion":
        tables = converted_tables(job, places, field)
        matches = [entry for entry in tables if entry.path == table]
        if not table:
            matches = tables[:1]
        if not matches:
            known = ", ".join(f"`{entry.path}`" for entry in tables) or "none"
            raise field_error(
                f"{field}.table", f"`{cut(table, 60)}` is no table; tables are {cut(known, 500)}"
            )
        return matches[0].source(field, types)
    if table:
        raise field_error(f"{field}.table", f"leave it out: a {JOB_TYPES[kind]} job has one table")
    with readable(job.job_id, field):
        if kind == "design":
            file = DesignManifest.read(job.result).design
            paths = [places.artifacts.verified(own_uri(file.uri, job.job_id), file.sha256)]
        else:
            folder = places.artifacts.existing(own_uri(job.result["result_path"], job.job_id))
            parts = json.loads((folder / PARTS).read_bytes())["parts"]
            paths = [
                fetch(part["blob"]) if part.get("blob") else folder / plain_name(part["name"])
                for part in parts
            ]
    is_json = any(path.suffix == ".jsonl" for path in paths)
    return Source(
        paths=tuple(paths), format="json" if is_json else "parquet", name=field, types=types
    )


def converted_tables(job: JobResult, places: Places, field: str) -> list[Converted]:
    """The tables of a conversion, the records first.

    Raises:
        ConflictError: Its result cannot be read, or it has a sequence of parts for each input.
        NotFoundError: Its files are not there any more.
    """
    with readable(job.job_id, field):
        output, inputs = job.result["output"], places.inputs
        folder = written_to(output, job.job_id, places.artifacts, inputs.roots, places.project)
        manifest = read_manifest(folder / plain_name(job.result["manifest"]))
        tables = [_converted(table, manifest["options"], folder) for table in manifest["tables"]]
    paths = [table.path for table in tables]
    if len(set(paths)) < len(paths):
        raise ConflictError(
            f"{field}: conversion {job.job_id} numbers the rows of each of its files from 1; "
            "convert them again with `merge`",
            reason="NOT_MERGED",
        )
    return sorted(tables, key=lambda table: table.path != "")


def conversion_specs(job: JobResult, dataset: str, places: Places, field: str) -> list[TableSpec]:
    """All tables of a conversion with their references.

    Raises:
        ConflictError: Its result cannot be read.
        NotFoundError: Its files are not there any more.
    """
    tables = converted_tables(job, places, field)
    names = dict[str, str]()
    for table in tables:
        names[table.path] = _table_name(table.path or dataset, set(names.values()))
    specs = []
    for table in tables:
        key = table.renamed[ROW]
        parent = _parent(table.path, names)
        references: tuple[Reference, ...] = ()
        if PARENT in table.columns and parent is not None:
            references = (
                Reference(
                    columns=(table.renamed.get(PARENT, PARENT),), table=names[parent], key=(key,)
                ),
            )
        specs.append(
            TableSpec(
                name=names[table.path],
                source=table.source(f"{field}.{names[table.path]}"),
                primary_key=(key,),
                references=references,
            )
        )
    return specs


def _converted(table: Mapping[str, Any], options: Mapping[str, Any], folder: Path) -> Converted:
    names = [plain_name(file["file_name"]) for file in table["files"]]
    typed = [name for name in names if name.endswith(".parquet")]
    files = tuple((folder / name).resolve(strict=True) for name in typed or names)
    if any(file.parent != folder.resolve() for file in files):
        raise ValueError("a file is a link that leads out of its folder")
    return Converted(
        path=table["table"],
        files=files,
        columns=tuple(column["name"] for column in table["columns"]),
        delimiter=options["delimiter"],
        guarded=bool(options["formula_guard"]) and not typed,
    )


def plain_name(name: str) -> str:
    """A name of a file that is no path."""
    if not name or Path(name).name != name:
        raise ValueError("a file's name is a path")
    return name


def own_uri(uri: str, job_id: str) -> str:
    """The URI of an artifact, which must be the job's own."""
    if not uri.startswith(f"{SCHEME}jobs/{job_id}/"):
        raise ValueError("an artifact is that of another job")
    return uri


def _table_name(path: str, taken: set[str]) -> str:
    """A name for a table of a dataset, from the path of a table of a conversion."""
    words = re.sub(r"[^a-z0-9]+", "_", path.lower()).strip("_")
    stem = (words if is_dataset_name(words[:1]) else f"t_{words}".rstrip("_"))[:63]
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem[:58]}_{number}"
    return name


def _parent(path: str, names: Mapping[str, str]) -> str | None:
    """The path of the nearest table above one; None if there is none."""
    return next((prefix for prefix in _prefixes(path) if prefix in names), None)


def _prefixes(path: str) -> Iterator[str]:
    """The paths above a path, nearest first; a dot after a backslash belongs to a name."""
    for match in reversed(list(re.finditer(r"(?<!\\)(?:\\\\)*(\.)", path))):
        yield path[: match.start(1)]
    if path:
        yield ""

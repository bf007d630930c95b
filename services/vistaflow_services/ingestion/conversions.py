"""Conversions: requests as options, outputs, manifests as messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.errors import NotFoundError, Violations, field_error
from vistaflow_services.core.names import has_control
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.uris import SCHEME
from vistaflow_services.ingestion.config import Config
from vistaflow_services.stores.roots import Input, Roots
from vistaflow_services.tables.conversion import Compression, Conversion, EngineName, Format

MAX_TABLES = 1_000
"""Most tables that one answer describes."""

FORMATS = {
    number: Format(name.rpartition("_")[2].lower()) if number else Format.CSV
    for name, number in pb.TableFormat.items()
}
"""The formats of tables by their numbers."""

ENUMS = (
    ("format", pb.TableFormat, Format.CSV),
    ("compression", pb.CsvCompression, Compression.NONE),
    ("engine", pb.JsonEngine, EngineName.AUTO),
)
"""Options by the words that the names of their values end with, and what they are if not set."""


def options_of(request: pb.ConvertJsonRequest, config: Config) -> Conversion:
    """The options of a request, with the service's defaults.

    Raises:
        InvalidError: One violation for each option that is not valid.
    """
    violations, words = Violations(), dict[str, Any]()
    for field, enum, default in ENUMS:
        number = getattr(request, field)
        if number not in enum.values():
            violations.add(field, f"{number} is no value of the enum")
        elif number:
            words[field] = type(default)(enum.Name(number).rpartition("_")[2].lower())
        else:
            words[field] = default
    violations.check()
    return Conversion(
        output_file_name=request.output_file_name,
        file_sep_size=request.file_sep_size or config.file_sep_size,
        max_csv_rows=request.max_csv_rows or config.max_csv_rows,
        merge=request.merge or request.HasField("collection"),
        delimiter=request.delimiter or ",",
        byte_order_mark=request.byte_order_mark,
        formula_guard=request.formula_guard if request.HasField("formula_guard") else True,
        map_paths=tuple(request.map_paths),
        **words,
    )


def output_name(name: str, roots: Roots, project: str) -> str:
    """An output as `ROOT/FOLDER`, also one named by a root's URL or by a path of the server."""
    for root in roots.visible(project):
        base = root.url.removeprefix("file://").rstrip("/")
        if name.rstrip("/") == base or name.startswith(f"{base}/"):
            return f"{root.name}/{name.removeprefix(base).strip('/')}".rstrip("/")
    return name


def output_of(name: str, roots: Roots, project: str) -> Path | Input:
    """The place in a data root that an output names: a folder, which is made, or one of a bucket.

    Raises:
        InvalidError: It is in no root that the project may write to.
    """
    root_name, _, rest = name.partition("/")
    visible = {root.name: root for root in roots.visible(project)}
    root = visible.get(root_name)
    if root is None:
        problem = f"names no data root; roots are {', '.join(sorted(visible)) or 'not declared'}"
    elif ".." in rest.split("/") or rest.startswith("/") or has_control(rest) or "\\" in rest:
        problem = "must be ROOT or ROOT/FOLDER, without `..`"
    elif root.folder is None:
        return Input(root=root, path=PurePosixPath(rest))
    else:
        try:
            path, folder = root.folder / rest, root.folder.resolve(strict=True)
            # Looked at before, too: nothing is made behind a link that leads out.
            if path.resolve().is_relative_to(folder):
                path.mkdir(parents=True, exist_ok=True)
                if path.resolve(strict=True).is_relative_to(folder):
                    return path
            problem = "leads out of its data root"
        except OSError:
            problem = "cannot be made or written by the service; ask its operator"
    raise field_error("output", problem)


def written_to(
    output: str, job_id: str, artifacts: ArtifactStore, roots: Roots, project: str
) -> Path:
    """The folder that has the files of a finished conversion.

    Args:
        output: As its result says.
        job_id: The job.
        artifacts: The artifact store.
        roots: The data roots.
        project: The caller's.

    Raises:
        InvalidError: It is in no folder that the project may read.
    """
    if not output.startswith(SCHEME):
        place = output_of(output, roots, project)
        if isinstance(place, Path):
            return place
    # The files in a bucket are in the artifact store, too.
    return artifact_folder(artifacts, job_id)


def artifact_folder(artifacts: ArtifactStore, job_id: str) -> Path:
    """Where a conversion writes whose output is no folder: one folder for all attempts."""
    return artifacts.path(f"{SCHEME}jobs/{job_id}/conversion")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished conversion.

    Raises:
        NotFoundError: It was deleted.
    """
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise NotFoundError(
            "the files of the conversion are not there any more; convert again"
        ) from None
    return manifest


def table_message(table: Mapping[str, Any]) -> pb.ConvertedTable:
    """A table of a manifest, without its files."""
    return pb.ConvertedTable(
        table=table["table"],
        columns=[column["name"] for column in table["columns"]],
        rows=table["rows"],
        files=len(table["files"]),
    )


def files_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of every file of a manifest, by table and part."""
    return [
        {"table": table["table"], **file} for table in manifest["tables"] for file in table["files"]
    ]

"""The end of a conversion: parts get their final form and their names, the manifest comes last.

    1. every part is written to its final form in the work folder, and synced
    2. the manifest is written there: from then on the result is complete and will not change
    3. the parts move to the output folder, then the manifest

A process that is killed in 1 starts it again, one that is killed in 3 continues with it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from vistaflow_services.core.errors import ExistsError
from vistaflow_services.core.files import sync, write
from vistaflow_services.tables.conversion import Compression, Conversion, Part
from vistaflow_services.tables.parts import OpenPart, Parts, csv_body, csv_head
from vistaflow_services.tables.shape import KEY, PARENT, ROW, Shape, Table

ROW_GROUP_ROWS = 1 << 16
_MAX_TABLE_NAME_BYTES = 100
_ENDINGS = {Compression.NONE: "csv", Compression.GZIP: "csv.gz", Compression.ZSTD: "csv.zst"}
_CANDIDATES = (("BIGINT", pa.int64()), ("DOUBLE", pa.float64()), ("BOOLEAN", pa.bool_()))

CONVENTIONS = {
    "inputs": "size_bytes and sha256 are of the bytes that were read, as they are stored, such as "
    "encrypted; version is the time of the last change in ns since 1970, or the ETag",
    "rows": "_row is the number of a record, from 1 over all inputs of the sequence; in a child "
    "table it is _parent, # and _index",
    "child tables": "_parent is the _row of the parent's row, _index the position in the array or "
    "object, from 1; _key is the key in an object whose keys are ids; _value is an element that is "
    "no object",
    "columns": "the path from the row, steps joined by dots; a dot or backslash in a key has a "
    "backslash before it, and so has a key that is _row, _parent, _index, _key or _value; an empty "
    "key is \\e",
    "order": "columns are in the order in which their first value appears in the input",
    "cells": "texts are as they are; numbers, true and false as the input spells them; an array "
    "without objects is compact JSON",
    "null": "in CSV a value is quoted and an empty cell without quotes is null; in Parquet it is "
    "null",
    "same in the output": [
        "a number, true, false or an array, and a string with the same text",
        "null, a missing field, an empty object and an empty array, except as elements of arrays "
        "and values of maps, which have their rows",
        "an array, and the same array with other spaces or escapes",
    ],
}


def file_stem(name: str, table: str) -> str:
    """First part of the file names of a table; any path becomes a valid name."""
    if not table:
        return name
    readable = "".join(
        character
        if character.isprintable() and character not in '/\\<>:"|?*%'
        else quote(character, safe="")
        for character in table
    )
    if len(readable.encode()) > _MAX_TABLE_NAME_BYTES:
        digest = hashlib.sha256(table.encode()).hexdigest()[:12]
        readable = readable.encode()[: _MAX_TABLE_NAME_BYTES - 13].decode("utf-8", "ignore")
        readable = f"{readable}-{digest}"
    return f"{name}.{readable}"


def manifest_name(options: Conversion) -> str:
    """The name of the manifest of a conversion."""
    return f"{options.output_file_name}.manifest.json"


class Publication:
    """Publishes the parts of one conversion.

    Args:
        work: Work folder, on the file system of `output`.
        output: Where the parts will be.
        options: What was asked for.
    """

    def __init__(self, work: Path, output: Path, options: Conversion) -> None:
        self._final = work / "final"
        self._output = output
        self._options = options
        self.manifest_name = manifest_name(options)

    @property
    def is_ready(self) -> bool:
        """Whether all parts have their final form."""
        return (self._final / self.manifest_name).exists()

    def prepare(
        self, sequences: Iterable[tuple[str, Shape, Parts]], details: Mapping[str, Any]
    ) -> None:
        """Gives all parts their final form.

        Args:
            sequences: For each the first part of its names, its shape and its parts.
            details: What else the manifest says.
        """
        shutil.rmtree(self._final, ignore_errors=True)
        self._final.mkdir()
        tables, taken = [], set[str]()
        for name, shape, parts in sequences:
            by_table: dict[str, list[OpenPart]] = {}
            for part in parts.parts:
                by_table.setdefault(part.table, []).append(part)
            for path, table_parts in by_table.items():
                stem = file_stem(name, path)
                while stem.casefold() in taken:
                    stem += "~"
                taken.add(stem.casefold())
                tables.append(self._table(stem, shape.tables[path], table_parts, parts))
        manifest = {
            "version": 1,
            **details,
            "options": {
                "max_csv_rows": self._options.max_csv_rows,
                "delimiter": self._options.delimiter,
                "byte_order_mark": self._options.byte_order_mark,
                "formula_guard": self._options.formula_guard,
                "compression": self._options.compression,
            },
            "conventions": {
                **CONVENTIONS,
                "formula guard": "a CSV cell that begins with = + - @, tab or carriage return and "
                "is no number, or with apostrophes before one of these, has one more apostrophe "
                "in front"
                if self._options.formula_guard
                else "none",
            },
            "tables": tables,
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=False)
        sync(self._final)
        write(self._final / self.manifest_name, text.encode("utf-8", "surrogatepass"))

    def publish(self) -> tuple[dict[str, Any], tuple[Part, ...]]:
        """Moves everything to the output folder, the manifest last."""
        manifest = json.loads((self._final / self.manifest_name).read_bytes())
        parts = parts_of(manifest)
        for part in parts:
            with contextlib.suppress(FileNotFoundError):  # moved before the process was killed
                os.replace(self._final / part.file_name, self._output / part.file_name)
        sync(self._output)
        os.replace(self._final / self.manifest_name, self._output / self.manifest_name)
        sync(self._output)
        return manifest, parts

    def _table(
        self, stem: str, table: Table, table_parts: list[OpenPart], parts: Parts
    ) -> dict[str, Any]:
        files: list[dict[str, Any]] = []
        header = table.header
        if self._options.writes_csv:
            for part in table_parts:
                name = f"{stem}_{part.number}.{_ENDINGS[self._options.compression]}"
                self._csv(parts.path_of(part, "csv"), self._final / name, part, header)
                files.append(self._file(name, part))
        types = ["VARCHAR"] * len(header)
        if self._options.writes_parquet:
            paths = [parts.path_of(part, "arrow") for part in table_parts]
            schema, types = _schema(paths, header)
            for part, path in zip(table_parts, paths, strict=True):
                name = f"{stem}_{part.number}.parquet"
                _parquet(path, self._final / name, schema)
                files.append(self._file(name, part))
        return {
            "table": table.path,
            "kind": table.kind,
            "columns": [
                {"name": name, "type": kind} for name, kind in zip(header, types, strict=True)
            ],
            "rows": sum(part.rows for part in table_parts),
            "files": files,
        }

    def _csv(self, source: Path, target: Path, part: OpenPart, header: list[str]) -> None:
        options = self._options
        is_final = len(part.csv_changes) == 1 and part.csv_changes[0][1] == len(header)
        if is_final and options.compression is Compression.NONE:
            with contextlib.suppress(OSError):  # a file system without links
                os.link(source, target)
                return
        with target.open("wb") as file, _compressed(file, options.compression) as stream:
            stream.write(csv_head(header, options))
            for chunk in csv_body(source, part, len(header), options.delimiter):
                stream.write(chunk)

    def _file(self, name: str, part: OpenPart) -> dict[str, Any]:
        path = self._final / name
        if (self._output / name).exists():
            raise ExistsError(f"a file {name} is in the output already; choose another name")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sync(path)
        return {
            "file_name": name,
            "part": part.number,
            "rows": part.rows,
            "size_bytes": path.stat().st_size,
            "sha256": digest,
        }


def parts_of(manifest: dict[str, Any]) -> tuple[Part, ...]:
    """The parts that a manifest lists."""
    return tuple(
        Part(table=table["table"], **file)
        for table in manifest["tables"]
        for file in table["files"]
    )


@contextlib.contextmanager
def _compressed(file: IO[bytes], compression: Compression) -> Iterator[IO[bytes]]:
    if compression is Compression.NONE:
        yield file
    elif compression is Compression.GZIP:
        # Without a time and a name in it, equal rows give equal bytes.
        with gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
            yield stream  # type: ignore[misc]
    else:
        with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as stream:
            yield stream


def _batches(path: Path, header: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of an Arrow file, all with the final columns."""
    with pa.OSFile(str(path)) as file:
        size = file.size()
        while file.tell() < size:
            for batch in pa.ipc.open_stream(file):
                missing = len(header) - batch.num_columns
                columns = [*batch.columns, *[pa.nulls(len(batch), pa.string())] * missing]
                yield pa.record_batch(columns, names=header)


def _schema(paths: list[Path], header: list[str]) -> tuple[pa.Schema, list[str]]:
    """For each column the narrowest type that gives back the text of every value."""
    left = {name: list(_CANDIDATES) for name in header}
    seen = dict.fromkeys(header, False)
    for path in paths:
        for batch in _batches(path, header):
            for name, column in zip(header, batch.columns, strict=True):
                seen[name] = seen[name] or column.null_count < len(column)
                while left[name] and not _fits(column, left[name][0][1]):
                    left[name].pop(0)
    chosen = {
        name: left[name][0] if left[name] and seen[name] else ("VARCHAR", pa.string())
        for name in header
    }
    for key in (ROW, PARENT, KEY):  # of one type in all tables, so that they can be joined
        if key in chosen:
            chosen[key] = ("VARCHAR", pa.string())
    schema = pa.schema([(name, kind) for name, (_, kind) in chosen.items()])
    return schema, [word for word, _ in chosen.values()]


def _fits(column: pa.Array, kind: pa.DataType) -> bool:
    if column.type == kind:
        return True
    try:
        back = column.cast(kind).cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return bool(pc.all(pc.equal(back, column.cast(pa.string())), min_count=0).as_py())


def _parquet(source: Path, target: Path, schema: pa.Schema) -> None:
    """Writes a Parquet part; its row groups do not depend on the pieces of the input."""
    import pyarrow.parquet as pq  # costs 10 MiB, and most conversions write CSV only

    options = {"compression": "zstd", "compression_level": 3}
    with pq.ParquetWriter(target, schema, **options) as writer:
        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in _batches(source, schema.names):
            columns = [
                column.cast(field.type) for column, field in zip(batch.columns, schema, strict=True)
            ]
            waiting.append(pa.record_batch(columns, schema=schema))
            count += len(batch)
            while count >= ROW_GROUP_ROWS:
                table = pa.Table.from_batches(waiting)
                writer.write_table(table.slice(0, ROW_GROUP_ROWS).combine_chunks())
                waiting = table.slice(ROW_GROUP_ROWS).to_batches()
                count -= ROW_GROUP_ROWS
        if count or not target.exists():
            writer.write_table(pa.Table.from_batches(waiting, schema=schema).combine_chunks())

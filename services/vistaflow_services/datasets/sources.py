"""CSV, Parquet, JSON and Arrow as rows with types.

Text formats are first copied to one Parquet file of texts, in one pass over the input. Types are
then chosen from all values, not from a sample, and only where nothing is lost by them:

    BIGINT      integers of up to 18 digits; with leading zeros or more digits they stay text
    DOUBLE      finite decimal numbers whose integer part has up to 15 digits
    BOOLEAN     `true` and `false`
    DATE        `2024-03-11`
    TIMESTAMP   `2024-03-11 03:57:09`, also with `T` and fractions; with a zone they stay text
    VARCHAR     all others; strings of JSON always; objects and arrays of JSON as their JSON text

In CSV an empty value is missing, and `""` is the empty text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa

from vistaflow_services.core.errors import cut, field_error
from vistaflow_services.datasets.engine import Engine, listed, named, parquet, quoted
from vistaflow_services.datasets.manifest import REJECT_COLUMNS, Column, find_column

MAX_COLUMNS = 10_000
MAX_HEADER = 1 << 20
"""Most bytes of a CSV file's header."""

MAX_RATIO = 100
"""Most bytes of a decompressed file for each byte of the compressed one."""

MIN_BOMB = 64 << 20
"""Bytes up to which the ratio does not matter."""

MAX_NAME = 255
"""Most characters of a column's name."""

RESERVED = tuple(column.name for column in REJECT_COLUMNS)

Format = Literal["csv", "parquet", "json", "arrow"]

_SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".ndjson": "json",
    ".jsonl": "json",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_MAGIC: Mapping[bytes, Format] = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_TYPE = re.compile(
    r"BOOLEAN|TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT|REAL|DOUBLE|VARCHAR|DATE|TIME|TIMESTAMP"
    r"|TIMESTAMPTZ|UUID|DECIMAL\(\d{1,2},\s?\d{1,2}\)"
)
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_CHOICES = (
    ("BIGINT", r"0|-?[1-9][0-9]{0,17}"),
    ("DOUBLE", r"[+-]?((0|[1-9][0-9]{0,14})(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"),
    ("BOOLEAN", r"true|false"),
    ("DATE", r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
    ("TIMESTAMP", r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"),
)
_PIECE = 1 << 20
_AT_ONCE = 200
"""Columns whose types are chosen in one query."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows of a table come from."""

    paths: tuple[Path, ...] = ()
    """Files of one format and the same columns, read one after the other."""

    reader: pa.RecordBatchReader | None = None
    """Record batches instead of files."""

    format: Format | None = None
    """By the first file's content and name if None."""

    name: str = "source"
    """What messages call it: the field of the request."""

    names: tuple[str, ...] = ()
    """Of the columns of CSV without a header; otherwise the first line has them."""

    delimiter: str = ""
    """Of CSV: `,`, `;`, TAB or `|`; the most frequent one in the header if empty."""

    null_texts: tuple[str, ...] = ("",)
    """Unquoted texts in CSV that mean a missing value, such as `NA`."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """New names of columns of CSV and Parquet."""

    guarded: bool = False
    """Whether CSV cells that a spreadsheet would run as a formula have a `'` in front, which is
    not part of the value: those of a conversion do."""

    types: Mapping[str, str] = field(default_factory=dict)
    """Types of columns instead of those chosen; rows whose values do not fit are rejected."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A source as a relation of the engine."""

    relation: str
    """An SQL text that may follow FROM: the columns, then `_row` and `_value`.

    `_row` orders the rows as the source does. `_value` is the first value that does not fit a
    declared type, else NULL.
    """

    columns: tuple[Column, ...]


def open_source(engine: Engine, source: Source, number: int = 0) -> Rows:
    """The rows of a source.

    Args:
        engine: May read the source's files.
        source: The source.
        number: Distinguishes the sources of one engine.

    Raises:
        InvalidError: The source cannot be read as what it is declared to be.
        ExhaustedError: It needs more memory or disk than the engine may use.
    """
    if source.reader is not None:
        return _arrow(engine, source, source.reader, number)
    if not source.paths:
        raise field_error(source.name, "names no file")
    try:
        kind = source.format or format_of(source.paths[0], source.name)
        for path in source.paths:
            _check_packing(path, source.name)
    except OSError:
        raise field_error(source.name, "cannot be read; is the file still there?") from None
    if kind == "csv":
        return _csv(engine, source, number)
    if kind == "json":
        return _json(engine, source, number)
    if kind == "parquet":
        return _typed(engine, source, source.paths)
    if kind == "arrow":
        with _ipc(source) as reader:
            return _arrow(engine, source, reader, number)
    raise field_error(f"{source.name}.format", f"is `{kind}`; write csv, parquet, json or arrow")


def format_of(path: Path, name: str) -> Format:
    """The format of a file by its first bytes, else by its name.

    Raises:
        InvalidError: Neither tells.
    """
    with path.open("rb") as file:
        head = file.read(8)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    for suffix in reversed(path.suffixes):
        if suffix.lower() in _SUFFIXES:
            return _SUFFIXES[suffix.lower()]
    raise field_error(
        f"{name}.format", "is not known from the file; write csv, parquet, json or arrow"
    )


def packing(path: Path) -> str | None:
    """How a file is compressed: `gzip`, `zstd` or not."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)


def _check_packing(path: Path, name: str) -> None:
    """Decompresses a file without keeping it, to refuse one that is made to fill the disk."""
    packed = packing(path)
    if packed is None:
        return
    most, size = max(MAX_RATIO * path.stat().st_size, MIN_BOMB), 0
    try:
        with pa.input_stream(str(path), compression=packed) as stream:
            while piece := stream.read(_PIECE):
                size += len(piece)
                if size > most:
                    raise field_error(
                        name, f"is more than {MAX_RATIO} times as large when decompressed"
                    )
    except (OSError, pa.ArrowException):
        raise field_error(name, "is damaged: it cannot be decompressed") from None


def _csv(engine: Engine, source: Source, number: int) -> Rows:
    header, delimiter = _header(source.paths[0], source)
    names = [source.renamed.get(name, name) for name in header]
    check_names(names, f"{source.name}.names" if source.names else source.name)
    for index, path in enumerate(source.paths[1:], start=1):
        if _header(path, source, delimiter)[0] != header:
            raise field_error(f"{source.name}[{index}]", "has another header than the first file")
    texts = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in header)
    values = ", ".join(
        f"{_unguarded(named(old)) if source.guarded else named(old)} AS {named(new)}"
        for old, new in zip(header, names, strict=True)
    )
    first = f"header={'false' if source.names else 'true'}"
    # Nothing is guessed: DuckDB's own detection may take a malformed file for one without rows.
    relations = (
        f"SELECT {values} FROM read_csv({quoted(str(path))}, auto_detect=false, {first}, "
        f"columns={{{texts}}}, delim={quoted(delimiter)}, quote='\"', escape='\"', "
        f"nullstr={listed(source.null_texts)}, allow_quoted_nulls=false, strict_mode=true, "
        f"compression={quoted(packing(path) or 'none')}, hive_partitioning=false)"
        for path in source.paths
    )
    staged = engine.stage(" UNION ALL ".join(relations), f"staged-{number}", field=source.name)
    raw = parquet([staged])
    types = _declared(source, names)
    chosen = _choose(engine, raw, {name: named(name) for name in names}, source.name)
    return _cast(raw, {name: named(name) for name in names}, chosen, types)


def _unguarded(cell: str) -> str:
    """The SQL of a cell without the `'` in front of a formula."""
    guarded = f"regexp_matches({cell}, '^''+[=+@\\t\\r-]')"
    return f"CASE WHEN {guarded} THEN substr({cell}, 2) ELSE {cell} END"


def _header(path: Path, source: Source, delimiter: str = "") -> tuple[list[str], str]:
    """The names in the first line, and what separates them."""
    try:
        with pa.input_stream(str(path), compression=packing(path)) as stream:
            text = stream.read(MAX_HEADER).decode("utf-8-sig", errors="surrogateescape")
    except (OSError, pa.ArrowException):
        raise field_error(source.name, "is damaged: it cannot be decompressed") from None
    if "\0" in text:
        raise field_error(source.name, "is not CSV: it contains NUL bytes")
    first = text.split("\n", 1)[0]
    if not first.strip():
        raise field_error(source.name, "is empty; CSV begins with a line of column names")
    delimiter = delimiter or source.delimiter or max(",;\t|", key=first.count)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise field_error(
            f"{source.name}.delimiter", "must be one character, no quote or line break"
        )
    if source.names:
        return list(source.names), delimiter
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:
        raise field_error(source.name, "has a header that is not CSV") from None
    # What is no UTF-8 was decoded to these; bytes behind the header are the engine's to judge.
    if any("\ud800" <= character <= "\udfff" for name in names for character in name):
        raise field_error(source.name, "line 1 is not UTF-8; convert the file to UTF-8")
    if all(re.fullmatch(_NUMBER, name) for name in names):
        raise field_error(source.name, "has numbers instead of names in line 1; name the columns")
    return names, delimiter


def check_names(names: Sequence[str], name: str) -> None:
    """Whether a table may have columns of these names.

    Raises:
        InvalidError: It may not; the message names `name`.
    """
    if len(names) > MAX_COLUMNS:
        raise field_error(name, f"has {len(names)} columns; at most {MAX_COLUMNS} are allowed")
    seen = set[str]()
    for index, column in enumerate(names):
        shown = f"column {index + 1}, `{cut(column, 60)}`,"
        if not column or len(column) > MAX_NAME or not column.isprintable():
            raise field_error(name, f"{shown} needs a name of 1 to {MAX_NAME} printable characters")
        if column.casefold() in seen:
            raise field_error(name, f"{shown} is there twice; names differ in more than case")
        if column.casefold() in RESERVED:
            raise field_error(name, f"{shown} has a name of vistaflow's own; rename it")
        seen.add(column.casefold())


def _json(engine: Engine, source: Source, number: int) -> Rows:
    relations = []
    for path in source.paths:
        packed = packing(path) or "uncompressed"
        # At this depth every column is JSON: its text, numbers of any size included.
        relations.append(
            f"read_json({quoted(str(path))}, records=true, maximum_depth=1, sample_size=-1, "
            f"compression={quoted(packed)}, hive_partitioning=false)"
        )
    queries = (f"SELECT * FROM {relation}" for relation in relations)
    staged = engine.stage(
        " UNION ALL BY NAME ".join(queries), f"staged-{number}", field=source.name
    )
    raw = parquet([staged])
    names = [column.name for column in engine.columns(raw, field=source.name)]
    check_names(names, source.name)
    texts = {name: f"CAST({named(name)} AS VARCHAR)" for name in names}
    plain = {name: f"json_extract_string({text}, '$')" for name, text in texts.items()}
    strings = set[str]()
    for group in _groups(names):
        figures = ", ".join(
            f"bool_or({texts[name]}[1] = '\"'), "
            f"bool_or({texts[name]}[1] NOT IN ('\"', '{{', '[') AND NOT "
            f"regexp_full_match({texts[name]}, '{_NUMBER}|true|false|null'))"
            for name in group
        )
        row = engine.rows(f"SELECT {figures} FROM {raw}", field=source.name)[0]
        for name, quotes, broken in zip(group, row[::2], row[1::2], strict=True):
            if broken:
                raise field_error(
                    source.name, f"`{cut(name, 60)}` is NaN or infinite; JSON has neither"
                )
            if quotes:
                strings.add(name)
    types = _declared(source, names)
    chosen = _choose(
        engine,
        raw,
        {name: text for name, text in plain.items() if name not in strings},
        source.name,
    )
    return _cast(raw, plain, {**dict.fromkeys(names, "VARCHAR"), **chosen}, types)


def _choose(engine: Engine, raw: str, texts: Mapping[str, str], name: str) -> dict[str, str]:
    """A type for each column, by all of its values."""
    engine.step = f"{engine.step}, types"
    chosen = {}
    for group in _groups(list(texts)):
        figures = ", ".join(
            f"bool_and(regexp_full_match({texts[column]}, {quoted(pattern)}) "
            f"AND {_fits(texts[column], kind)}) FILTER (WHERE {texts[column]} IS NOT NULL)"
            for column in group
            for kind, pattern in _CHOICES
        )
        row = engine.rows(f"SELECT {figures} FROM {raw}", field=name)[0]
        for index, column in enumerate(group):
            fits = row[index * len(_CHOICES) : (index + 1) * len(_CHOICES)]
            kinds = [kind for (kind, _), fit in zip(_CHOICES, fits, strict=True) if fit]
            chosen[column] = kinds[0] if kinds else "VARCHAR"
    return chosen


def _fits(text: str, kind: str) -> str:
    if kind == "DOUBLE":
        return f"isfinite(TRY_CAST({text} AS DOUBLE))"
    return f"TRY_CAST({text} AS {kind}) IS NOT NULL"


def _cast(
    raw: str, texts: Mapping[str, str], chosen: Mapping[str, str], declared: Mapping[str, str]
) -> Rows:
    kinds = {**chosen, **declared}
    values = ", ".join(
        f"TRY_CAST({text} AS {kinds[name]}) AS {named(name)}" for name, text in texts.items()
    )
    misfits = [
        f"CASE WHEN TRY_CAST({texts[name]} AS {kind}) IS NULL THEN {texts[name]} END"
        for name, kind in declared.items()
    ]
    misfit = f"coalesce({', '.join(misfits)})" if misfits else "CAST(NULL AS VARCHAR)"
    relation = (
        f"(SELECT {values}, file_row_number AS _row, {misfit} AS _value "
        f"FROM {raw.removesuffix(')')}, file_row_number=true))"
    )
    columns = tuple(Column(name=name, type=kinds[name]) for name in texts)
    return Rows(relation=relation, columns=columns)


def _declared(source: Source, names: Sequence[str]) -> dict[str, str]:
    """The declared types, by the columns' exact names."""
    types, columns = {}, [Column(name=name, type="VARCHAR") for name in names]
    for name, kind in source.types.items():
        where = f"{source.name}.types.{cut(name, 60)}"
        check_type(kind, where)
        types[find_column(columns, name, where).name] = kind.upper()
    return types


def check_type(kind: str, field: str) -> None:
    """Whether columns can be declared to be of a type.

    Raises:
        InvalidError: They cannot.
    """
    if not _TYPE.fullmatch(kind.upper()):
        raise field_error(
            field, f"`{cut(kind, 60)}` is no type; write BIGINT, DOUBLE, VARCHAR, DATE …"
        )


def _arrow(engine: Engine, source: Source, reader: pa.RecordBatchReader, number: int) -> Rows:
    # A stream can be read once and rows are needed several times.
    engine.register(f"arrow_{number}", reader)
    staged = engine.stage(f"SELECT * FROM arrow_{number}", f"staged-{number}", field=source.name)
    return _typed(engine, source, (staged,))


def _typed(engine: Engine, source: Source, paths: Sequence[Path]) -> Rows:
    """Rows of Parquet files, whose types are their own."""
    originals = engine.columns(parquet(paths), field=source.name)
    columns = tuple(
        Column(name=source.renamed.get(column.name, column.name), type=column.type)
        for column in originals
    )
    check_names([column.name for column in columns], source.name)
    if source.types:
        raise field_error(f"{source.name}.types", "are those of the file; leave them out")
    values = ", ".join(
        f"{named(old.name)} AS {named(new.name)}"
        for old, new in zip(originals, columns, strict=True)
    )
    # Rows of later files have larger numbers.
    row = "file_row_number" if len(paths) == 1 else "(file_index << 40) + file_row_number"
    relation = (
        f"(SELECT {values}, {row} AS _row, "
        f"CAST(NULL AS VARCHAR) AS _value FROM {parquet(paths, ', file_row_number=true')})"
    )
    return Rows(relation=relation, columns=columns)


def _ipc(source: Source) -> pa.RecordBatchReader:
    if len(source.paths) != 1:
        raise field_error(source.name, "are several Arrow files; name one")
    try:
        mapped = pa.memory_map(str(source.paths[0]))
        try:
            file = pa.ipc.open_file(mapped)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
            return pa.RecordBatchReader.from_batches(file.schema, batches)
        except pa.ArrowInvalid:
            mapped.seek(0)
            return pa.ipc.open_stream(mapped)
    except (OSError, pa.ArrowException):
        raise field_error(source.name, "is not an Arrow IPC file or stream") from None


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]

"""What a conversion is asked to do, and what comes of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vistaflow_services.core.errors import Violations

MAX_CSV_ROWS = 300_000
"""Rows of a full part if the caller gives no other number."""

MAX_ROWS_LIMIT = 100_000_000
MAX_NAME_BYTES = 120
"""Longest output name; the names of parts add the table and a number to it."""

MAX_MAP_PATHS = 1_000

_DRIVE_OR_CONTROL = re.compile(r'[\x00-\x1f\x7f<>:"|?*]')


class Format(StrEnum):
    """The files that a conversion writes."""

    CSV = "csv"
    PARQUET = "parquet"
    BOTH = "both"


class Compression(StrEnum):
    """How the CSV parts are compressed. Parquet is always compressed with zstd."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


class EngineName(StrEnum):
    """The engines of a conversion; `AUTO` chooses one by what the machine and the data allow."""

    AUTO = "auto"
    DUCKDB = "duckdb"
    TEXT = "text"
    PYTHON = "python"


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The options of one conversion, valid once made.

    Raises:
        InvalidError: An option is not valid; the error names its field.
    """

    output_file_name: str
    """First part of every output file: `NAME_1.csv`, `NAME.orders_1.csv`."""

    file_sep_size: int = 0
    """Most records that are converted at once; 0 lets the engine choose."""

    max_csv_rows: int = MAX_CSV_ROWS
    """Rows of every part but the last one of its table."""

    merge: bool = True
    """Whether all inputs feed one numbered sequence of parts, or each has its own."""

    format: Format = Format.CSV
    compression: Compression = Compression.NONE
    delimiter: str = ","
    byte_order_mark: bool = False
    """Whether CSV parts begin with a UTF-8 byte order mark, by which Excel knows the encoding."""

    formula_guard: bool = True
    """Whether CSV cells that a spreadsheet would run as a formula get a `'` in front."""

    map_paths: tuple[str, ...] = ()
    """Paths of objects whose keys are ids: each becomes a child table with a `_key` column."""

    engine: EngineName = EngineName.AUTO

    def __post_init__(self) -> None:
        violations = Violations()
        if problem := name_problem(self.output_file_name):
            violations.add("output_file_name", problem)
        if self.file_sep_size < 0:
            violations.add("file_sep_size", "must be 0 or more objects")
        if not 1 <= self.max_csv_rows <= MAX_ROWS_LIMIT:
            violations.add("max_csv_rows", f"must be from 1 to {MAX_ROWS_LIMIT:,} rows")
        if self.delimiter not in (",", ";", "\t", "|"):
            violations.add("delimiter", "must be a comma, a semicolon, a tab or |")
        if len(self.map_paths) > MAX_MAP_PATHS:
            violations.add("map_paths", f"must be at most {MAX_MAP_PATHS:,} paths")
        for position, path in enumerate(self.map_paths):
            if len(path) > 2_000:
                violations.add(f"map_paths[{position}]", "must have at most 2,000 characters")
        for field, kind in (
            ("format", Format),
            ("compression", Compression),
            ("engine", EngineName),
        ):
            if getattr(self, field) not in set(kind):
                violations.add(field, f"must be one of {', '.join(kind)}")
        violations.check()

    @property
    def writes_csv(self) -> bool:
        """Whether there are CSV parts."""
        return self.format is not Format.PARQUET

    @property
    def writes_parquet(self) -> bool:
        """Whether there are Parquet parts."""
        return self.format is not Format.CSV

    def digest(self) -> str:
        """SHA-256 of all options, in hex."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def name_problem(name: str) -> str:
    """Why a name cannot begin the names of files; empty if it can."""
    if not name or name.startswith("."):
        return "must not be empty and must not begin with a dot"
    if "/" in name or "\\" in name:
        return "must be a name, not a path: remove the slashes"
    if _DRIVE_OR_CONTROL.search(name):
        return 'must not contain control characters or any of < > : " | ? *'
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return "" if size <= MAX_NAME_BYTES else f"must have at most {MAX_NAME_BYTES} bytes"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One finished file."""

    table: str
    """Path of the table; empty for the records themselves."""

    file_name: str
    part: int
    """Number of the part in its table, from 1."""

    rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a conversion is."""

    bytes_read: int
    bytes_total: int
    """Sum of the sizes of the inputs as they are stored; 0 if one of them is not known."""

    records: int
    rows: int
    files: int
    """Parts that have all their rows."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result of a conversion."""

    manifest_name: str
    engines: Mapping[str, int]
    """Records that each engine converted."""

    records: int
    inputs: tuple[Mapping[str, Any], ...]
    """Each input with the size, SHA-256 and version of what was read of it."""

    parts: tuple[Part, ...]
    map_paths: tuple[str, ...]
    """The map paths that were used, whether asked for or detected."""


class ConversionCanceled(Exception):
    """The caller's hook asked to stop. The work folder stays, so the conversion can go on."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """How a caller follows a conversion and stops it."""

    progress: Callable[[Progress], None] = lambda progress: None
    """Called after every piece of the input."""

    canceled: Callable[[], bool] = lambda: False
    """Asked between pieces; the conversion stops when it answers true."""

    def check(self) -> None:
        """Raises `ConversionCanceled` if the caller wants to stop."""
        if self.canceled():
            raise ConversionCanceled("the conversion was canceled")

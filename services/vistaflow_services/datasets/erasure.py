"""Erasure: a version without a person's rows, and the blobs to purge.

The rows of a table whose columns have one of the given keys go, and with them the rows of other
tables that refer to them, step by step along the references; rejected rows go as accepted ones
do. Parts without such a row are shared with the version before.

A rejected row whose key did not fit its declared type has no key, so it stays. Without a declared
type the column is text, and the row goes.

What a caller has to do afterwards, in this order: record the new version, delete the versions in
`holders`, and after the stated time purge the blobs in `purge` from every store. Profiles quote
values of rows, so the new version has none until it is computed again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vistaflow_services.core.errors import field_error
from vistaflow_services.datasets.engine import (
    MEMORY_BYTES,
    Engine,
    named,
    parquet,
    quoted,
)
from vistaflow_services.datasets.manifest import (
    Column,
    DatasetVersion,
    Manifest,
    Part,
    Reference,
    Table,
    find_column,
)
from vistaflow_services.datasets.parts import fetched, limited, locations, store_parts
from vistaflow_services.datasets.quality import equal_sql
from vistaflow_services.stores.blobs import BlobStore

MAX_KEYS = 10_000

Key = Sequence[str | int]


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What an erasure found and made."""

    manifest: Manifest
    """Of the new version: the latest one without the rows."""

    removed: Mapping[str, int]
    """Rows that the latest version had and the new one has not, by table, rejects included."""

    holders: tuple[int, ...]
    """Versions that hold such rows. They must be deleted, also if pinned or named by an alias."""

    purge: tuple[str, ...]
    """Their blobs with such rows."""


@dataclass(frozen=True, kw_only=True)
class _Filtered:
    """A version's manifest without the rows."""

    manifest: Manifest
    removed: Mapping[str, int]
    holding: tuple[str, ...]


def forget(
    versions: Sequence[DatasetVersion],
    table: str,
    keys: Sequence[Key],
    store: BlobStore,
    folder: Path,
    *,
    columns: Sequence[str] = (),
    memory_bytes: int = MEMORY_BYTES,
) -> Erasure:
    """Removes the rows with the given keys from the latest version, and finds older holders.

    Args:
        versions: All versions of the dataset that exist.
        table: The table that the keys are of.
        keys: Values of the key's columns.
        store: Where the parts are and the new ones go.
        folder: An existing folder for temporary files.
        columns: The key's columns; the table's primary key if empty.
        memory_bytes: Memory of the engine.

    Raises:
        InvalidError: The table, its columns or a key is not as the latest version has it.
        DataLossError: A part is damaged in every store.
        UnavailableError: A store does not answer.
    """
    if not versions:
        raise field_error("versions", "are none; the dataset has no version")
    if not 1 <= len(keys) <= MAX_KEYS:
        raise field_error("keys", f"are {len(keys)}; give 1 to {MAX_KEYS}")
    latest = max(versions, key=lambda version: version.version)
    by = tuple(columns) or latest.manifest.table(table).primary_key
    if not by:
        raise field_error("columns", f"are none, and table `{table}` has no primary key; name them")
    for index, key in enumerate(keys):
        if isinstance(key, str) or len(key) != len(by) or None in key:
            raise field_error(f"keys[{index}]", f"must have {len(by)} values: {', '.join(by)}")
    holders, purge = [], dict[str, None]()
    result: _Filtered | None = None
    for version in sorted(versions, key=lambda version: version.version, reverse=True):
        if version is not latest and not _has(version.manifest, table, by):
            continue
        filtered = _filter(
            version.manifest, table, by, keys, store, folder, memory_bytes, write=version is latest
        )
        result = result or filtered
        if filtered.holding:
            holders.append(version.version)
            purge.update(dict.fromkeys(filtered.holding))
    assert result is not None
    remaining = {part.sha256 for part in result.manifest.parts}
    return Erasure(
        manifest=result.manifest,
        removed=result.removed,
        holders=tuple(holders),
        purge=tuple(sha256 for sha256 in purge if sha256 not in remaining),
    )


def _has(manifest: Manifest, table: str, columns: Sequence[str]) -> bool:
    """Whether an older version has the table and the columns at all."""
    names = {
        column.name for entry in manifest.tables if entry.name == table for column in entry.columns
    }
    return set(columns) <= names


def _filter(
    manifest: Manifest,
    table: str,
    by: Sequence[str],
    keys: Sequence[Key],
    store: BlobStore,
    folder: Path,
    memory_bytes: int,
    *,
    write: bool,
) -> _Filtered:
    with tempfile.TemporaryDirectory(prefix="forget-", dir=folder) as scratch_name:
        scratch = Path(scratch_name)
        readable = locations(store, manifest.parts, scratch)
        with Engine(scratch, readable, memory_bytes=memory_bytes) as engine:
            conditions = {
                table: [_requested(engine, manifest.table(table), by, keys, strict=write)]
            }
            steps = [
                _Step(engine, manifest, child, reference)
                for child, reference in _children(manifest, table)
            ]
            for step in steps:
                conditions.setdefault(step.child, []).append(step.condition)
                step.begin(table, by)
            # A table may be reached on several ways: go on until no step adds a key.
            while any([step.follow(conditions, store, scratch) for step in steps]):
                pass
            tables, removed, holding = [], dict[str, int](), list[str]()
            for entry in manifest.tables:
                clean, count, hashes = entry, 0, list[str]()
                if entry.name in conditions:
                    condition = " OR ".join(conditions[entry.name])
                    clean, count, hashes = _clean(
                        engine, entry, condition, store, scratch, write=write
                    )
                tables.append(clean)
                holding += hashes
                if count:
                    removed[entry.name] = count
    return _Filtered(
        manifest=Manifest(tables=tuple(tables)), removed=removed, holding=tuple(holding)
    )


def _requested(
    engine: Engine, table: Table, by: Sequence[str], keys: Sequence[Key], *, strict: bool
) -> str:
    """A table of the given keys, and the condition that a row has one of them.

    Args:
        engine: The engine.
        table: The table that the keys are of.
        by: The key's columns.
        keys: Their values.
        strict: Whether a value that does not fit its column is a mistake. In an older version,
            where the column may have had another type, there just is no such row.
    """
    columns = [
        find_column(table.columns, name, f"columns[{index}]") for index, name in enumerate(by)
    ]
    _create_keys(engine, "requested", columns)
    cast = "CAST" if strict else "TRY_CAST"
    for index, key in enumerate(keys):
        values = ", ".join(
            f"{cast}({quoted(str(value))} AS {column.type})"
            for value, column in zip(key, columns, strict=True)
        )
        engine.rows(f"INSERT INTO requested VALUES ({values})", field=f"keys[{index}]")
    return _member(columns, "requested", columns)


def _create_keys(engine: Engine, name: str, columns: Sequence[Column]) -> None:
    values = ", ".join(f"k{index} {column.type}" for index, column in enumerate(columns))
    engine.rows(f"CREATE OR REPLACE TEMP TABLE {name} ({values})")


def _member(columns: Sequence[Column], keys: str, kinds: Sequence[Column]) -> str:
    """The condition that a row's columns have the values of a row of a table of keys."""
    parents = [Column(name=f"k{index}", type=column.type) for index, column in enumerate(kinds)]
    pairs = " AND ".join(
        equal_sql(child, parent) for child, parent in zip(columns, parents, strict=True)
    )
    # Never NULL, so that its negation keeps the rows that lack a value.
    return f"coalesce(EXISTS (SELECT 1 FROM {keys} AS parent WHERE {pairs}), false)"


def _children(manifest: Manifest, table: str) -> Iterator[tuple[str, Reference]]:
    """The references to a table and to those that refer to it, nearest first; each once.

    A reference of a table to itself is not followed: other people's rows would go.
    """
    reached, queue = {table}, [table]
    while queue:
        parent = queue.pop(0)
        for entry in manifest.tables:
            for reference in entry.references:
                if reference.table == parent and entry.name != parent:
                    yield entry.name, reference
                    if entry.name not in reached:
                        reached.add(entry.name)
                        queue.append(entry.name)


class _Step:
    """One reference: the keys of the parent's rows that go, and the condition of the child's."""

    def __init__(
        self, engine: Engine, manifest: Manifest, child: str, reference: Reference
    ) -> None:
        self.child = child
        self._engine = engine
        self._parent = manifest.table(reference.table)
        self._key = [
            find_column(self._parent.columns, name, "references.key") for name in reference.key
        ]
        columns = manifest.table(child).columns
        own = [find_column(columns, name, "references.columns") for name in reference.columns]
        self._keys = named(f"keys of {child} by {reference.name}")
        _create_keys(engine, self._keys, self._key)
        self.condition = _member(own, self._keys, self._key)

    def begin(self, table: str, by: Sequence[str]) -> None:
        """Takes the given keys themselves, for rows whose parent does not exist."""
        if self._parent.name == table and [c.name for c in self._key] == list(by):
            self._engine.rows(f"INSERT INTO {self._keys} SELECT * FROM requested")

    def follow(self, conditions: Mapping[str, list[str]], store: BlobStore, scratch: Path) -> bool:
        """Adds the keys of the parent's rows that go; whether there are any new ones."""
        before = self._engine.count(self._keys)
        key = ", ".join(named(column.name) for column in self._key)
        condition = " OR ".join(conditions[self._parent.name])
        for part in (*self._parent.parts, *self._parent.rejects):
            with fetched(store, [part], scratch) as paths:
                self._engine.rows(
                    f"INSERT INTO {self._keys} SELECT {key} FROM {parquet(paths)} AS child "
                    f"WHERE {condition} EXCEPT SELECT * FROM {self._keys}"
                )
        return self._engine.count(self._keys) > before


def _clean(
    engine: Engine,
    table: Table,
    condition: str,
    store: BlobStore,
    scratch: Path,
    *,
    write: bool,
) -> tuple[Table, int, list[str]]:
    """The table without the rows, how many they are, and the blobs that hold them."""
    removed, holding = 0, list[str]()

    def clean(parts: Sequence[Part]) -> Iterator[Part]:
        nonlocal removed
        for part in parts:
            with fetched(store, [part], scratch) as paths:
                count = engine.count(f"{parquet(paths)} AS child WHERE {condition}")
                removed += count
                if not count:
                    yield part
                    continue
                holding.append(part.sha256)
                if write and count < part.row_count:
                    query = f"SELECT * FROM {parquet(paths)} AS child WHERE NOT ({condition})"
                    written = engine.write(query, f"rest-{part.sha256}-{len(holding)}")
                    yield from store_parts(store, written, limited(None))

    parts, rejects = tuple(clean(table.parts)), tuple(clean(table.rejects))
    return replace(table, parts=parts, rejects=rejects), removed, holding

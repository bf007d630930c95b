"""The shape of the records: which tables there are, which columns, and where their cells come from.

    Shape ── Table "" (the records) ── Node ── fields: name → Node      nested objects
                                            ├─ items: Table             arrays of objects
                                            └─ entries: Table           objects keyed by ids

A path of the records is a `Node`. One that holds plain values has a slot in its table; the slot
becomes a column, to the right of all others, when the first value that is not null appears.
Slots and columns are therefore in the order of the input, whichever engine converts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vistaflow_services.core.errors import InvalidError

MAX_COLUMNS = 10_000
"""Most columns of one table."""

MAX_TABLES = 1_000
"""Most tables of one conversion."""

MAP_KEYS = 100
"""An object with more keys than this, of one shape, is keyed by ids."""

ROW, PARENT, INDEX, KEY, VALUE = "_row", "_parent", "_index", "_key", "_value"
RESERVED = (ROW, PARENT, INDEX, KEY, VALUE)
"""Columns of ours. A field of the input with such a name gets a backslash in front."""


class Node:
    """One path below the rows of a table."""

    __slots__ = (
        "depth",
        "entries",
        "fields",
        "is_map",
        "is_nested",
        "items",
        "name",
        "plans",
        "slot",
        "width",
    )

    def __init__(self, name: str, depth: int) -> None:
        self.name = name
        """Path from the row of its table, as in the header; empty for the row itself."""
        self.depth = depth
        """Levels of objects and arrays down to an object here; the record is 1."""
        self.slot = -1
        """Slot of its plain values; -1 before there are any."""
        self.fields: dict[str, Node] | None = None
        self.items: Table | None = None
        self.entries: Table | None = None
        self.is_map = False
        self.is_nested = False
        """Whether an object or array was ever here."""
        self.width = 0
        """Most keys of one object here."""
        self.plans: dict[tuple[str, ...], Any] = {}
        """How the Python engine takes objects apart, by their keys; empty in other engines."""


class Table:
    """One output table."""

    def __init__(self, path: str, kind: str, depth: int) -> None:
        self.path = path
        self.kind = kind
        """`records`, `items` (of an array) or `entries` (of an object keyed by ids)."""
        self.root = Node("", depth)
        self.slots: list[str] = []
        self.columns: list[int] = []
        """Slots with a column, in the order of the columns."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of ours that begin each row."""
        return {
            "records": (ROW,),
            "items": (ROW, PARENT, INDEX),
            "entries": (ROW, PARENT, INDEX, KEY),
        }[self.kind]

    @property
    def header(self) -> list[str]:
        """Names of all columns."""
        return [*self.keys, *(self.slots[slot] for slot in self.columns)]

    def slot_of(self, node: Node) -> int:
        """The slot of a node, which is made if there is none."""
        if node.slot < 0:
            node.slot = len(self.slots)
            self.slots.append(node.name or VALUE)
        return node.slot

    def add_column(self, slot: int) -> None:
        """Makes a slot the last column.

        Raises:
            InvalidError: The table has too many columns.
        """
        if len(self.columns) >= MAX_COLUMNS:
            raise InvalidError(
                f"the table {self.path or 'of the records'} has more than {MAX_COLUMNS:,} columns; "
                "if the keys of an object are ids, name its path in map_paths "
                f"(the last column was {self.slots[slot][:200]!r})",
                reason="TOO_MANY_COLUMNS",
            )
        self.columns.append(slot)


class MapFoundError(Exception):
    """An object turned out to be keyed by ids, so what was written has the wrong shape."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class Shape:
    """All tables of a sequence of records.

    Args:
        map_paths: Paths of objects whose keys are ids.
    """

    def __init__(self, map_paths: frozenset[str]) -> None:
        self.map_paths = map_paths
        self.records = Table("", "records", 1)
        self.tables: dict[str, Table] = {"": self.records}
        self.version = 0
        """Grows with every new field and table."""
        self.wide: set[tuple[Table, Node]] = set()
        """Objects that may be keyed by ids, to be looked at when the record has been read."""
        self.records.root.is_map = "" in map_paths

    def field(self, table: Table, node: Node, key: str) -> Node:
        """The node of a key of an object, which is made if there is none."""
        if node.fields is None:
            node.fields = {}
        child = node.fields.get(key)
        if child is None:
            name = escaped(key)
            if node.name:
                name = f"{node.name}.{name}"
            elif name in RESERVED:
                name = "\\" + name
            child = node.fields[key] = Node(name, node.depth + 1)
            child.is_map = path_of(table, child) in self.map_paths
            child.is_nested = child.is_map
            self.version += 1
            count = len(node.fields)
            if count > MAP_KEYS and (count & (count - 1) == 0 or count == MAP_KEYS + 1):
                self.wide.add((table, node))
        return child

    def child(self, table: Table, node: Node, kind: str) -> Table:
        """The child table of the arrays or the entries at a node, made if there is none.

        Raises:
            InvalidError: There are too many tables.
        """
        known = node.items if kind == "items" else node.entries
        if known is not None:
            return known
        path = path_of(table, node) or "_entries"
        if path in self.tables:  # both an array and an object keyed by ids
            path += f".{kind}"
        while path in self.tables:
            path += "_"
        if len(self.tables) >= MAX_TABLES:
            raise InvalidError(
                f"the records have more than {MAX_TABLES:,} tables; if the keys of an object are "
                f"ids, name its path in map_paths (the last table was {path[:200]!r})",
                reason="TOO_MANY_TABLES",
            )
        child = Table(path, kind, node.depth + 1)
        if kind == "items":
            node.items = child
        else:
            node.entries = child
        self.tables[path] = child
        self.version += 1
        return child

    @property
    def state(self) -> tuple[int, int]:
        """Differs from an earlier one if fields, tables or columns came since."""
        return self.version, sum(len(table.columns) for table in self.tables.values())

    def look_for_maps(self) -> None:
        """Looks at the objects that became wide.

        Raises:
            MapFoundError: One is keyed by ids.
        """
        wide, self.wide = self.wide, set()
        for table, node in wide:
            path = path_of(table, node)
            if path not in self.map_paths and is_keyed_by_ids(node):
                raise MapFoundError(path)

    def to_json(self) -> dict[str, Any]:
        """The shape as JSON, for the journal."""
        return {"map_paths": sorted(self.map_paths), "records": _table_json(self.records)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Shape:
        """The shape that `to_json` wrote."""
        shape = cls(frozenset(document["map_paths"]))
        shape.records = _read_table(document["records"])
        shape.tables = {}
        for table in _walk_tables(shape.records):
            shape.tables[table.path] = table
        return shape


def escaped(key: str) -> str:
    r"""A key as one step of a path: `\.` for a dot, `\\` for a backslash, `\e` for no character."""
    if not key:
        return "\\e"
    return key.replace("\\", "\\\\").replace(".", "\\.") if "." in key or "\\" in key else key


def path_of(table: Table, node: Node) -> str:
    """Path of a node from the record; arrays and ids add no step."""
    return f"{table.path}.{node.name}" if table.path and node.name else table.path or node.name


def is_keyed_by_ids(node: Node) -> bool:
    """Whether over `MAP_KEYS` keys of an object have values of one shape.

    Objects, and arrays of them, are of one shape if they share most of their fields. Plain
    values tell less: their keys are ids only if no object has as much as half of them.
    """
    children = [
        child
        for child in (node.fields or {}).values()
        if child.slot >= 0 or child.fields or child.items or child.entries
    ]
    if len(children) <= MAP_KEYS:
        return False
    if all(child.slot >= 0 and not child.fields and not child.items for child in children):
        return node.width * 2 < len(children)
    if all(child.fields and child.slot < 0 and not child.items for child in children):
        names = [set(child.fields or ()) for child in children]
    elif all(child.items and child.slot < 0 and not child.fields for child in children):
        names = [set(child.items.root.fields or ()) for child in children if child.items]
    else:
        return False
    union = set().union(*names)
    return bool(union) and sum(map(len, names)) * 2 >= len(union) * len(names)


def _walk_tables(table: Table) -> Iterator[Table]:
    yield table
    nodes = [table.root]
    while nodes:
        node = nodes.pop()
        nodes.extend((node.fields or {}).values())
        for child in (node.items, node.entries):
            if child is not None:
                yield from _walk_tables(child)


def _table_json(table: Table) -> dict[str, Any]:
    return {
        "path": table.path,
        "kind": table.kind,
        "slots": table.slots,
        "columns": table.columns,
        "root": _node_json(table.root),
    }


def _node_json(node: Node) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": node.name,
        "depth": node.depth,
        "slot": node.slot,
        "is_map": node.is_map,
        "is_nested": node.is_nested,
        "width": node.width,
    }
    if node.fields is not None:
        document["fields"] = {key: _node_json(child) for key, child in node.fields.items()}
    for kind in ("items", "entries"):
        if (child := getattr(node, kind)) is not None:
            document[kind] = _table_json(child)
    return document


def _read_table(document: dict[str, Any]) -> Table:
    table = Table(document["path"], document["kind"], document["root"]["depth"])
    table.slots, table.columns = document["slots"], document["columns"]
    table.root = _read_node(document["root"])
    return table


def _read_node(document: dict[str, Any]) -> Node:
    node = Node(document["name"], document["depth"])
    node.slot, node.is_map = document["slot"], document["is_map"]
    node.is_nested = document["is_nested"]
    node.width = document["width"]
    if "fields" in document:
        node.fields = {key: _read_node(child) for key, child in document["fields"].items()}
    for kind in ("items", "entries"):
        if kind in document:
            setattr(node, kind, _read_table(document[kind]))
    return node

"""Erasure: rows of a person, wherever they are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.datasets.conftest import Row, Workspace
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.datasets.build import TableSpec
from vistaflow_services.datasets.erasure import forget
from vistaflow_services.datasets.manifest import DatasetVersion, Manifest, Reference
from vistaflow_services.datasets.quality import Rule
from vistaflow_services.datasets.sources import Source


def version(manifest: Manifest, number: int = 1, **options: Any) -> DatasetVersion:
    return DatasetVersion(
        project="p",
        name="d",
        version=number,
        created_at=datetime(2026, 1, number, tzinfo=UTC),
        manifest=manifest,
        **options,
    )


def shop(workspace: Workspace, users: list[Row], orders: list[Row], items: list[Row]) -> Manifest:
    def table(name: str, rows: list[Row], **options: Any) -> TableSpec:
        source = Source(reader=pa.Table.from_pylist(rows).to_reader())
        return TableSpec(name=name, source=source, **options)

    return workspace.build(
        table("user", users, primary_key=("id",)),
        table(
            "order",
            orders,
            references=(Reference(columns=("user",), table="user", key=("id",)),),
            rules=(Rule(name="low", column="total", minimum=0),),
        ),
        table(
            "item",
            items,
            references=(Reference(columns=("order",), table="order", key=("id",)),),
        ),
    ).manifest


USERS: list[Row] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
ORDERS: list[Row] = [
    {"id": 10, "user": 1, "total": 5},
    {"id": 11, "user": 1, "total": -5},
    {"id": 20, "user": 2, "total": 5},
    {"id": 30, "user": 3, "total": 5},
    {"id": 40, "user": None, "total": 5},
]
ITEMS: list[Row] = [{"order": number, "v": f"of {number}"} for number in (10, 11, 20, 30, 40, None)]


def everything(workspace: Workspace, manifest: Manifest) -> Mapping[str, list[Row]]:
    return {
        table.name: [
            {name: value for name, value in row.items() if not name.startswith("_")}
            for rejects in (False, True)
            for row in workspace.rows(manifest, table.name, rejects=rejects)
        ]
        for table in manifest.tables
    }


def test_rows_of_children_and_of_rejected_parents_go(workspace: Workspace) -> None:
    manifest = shop(workspace, USERS, ORDERS, ITEMS)

    erasure = forget([version(manifest)], "user", [[1]], workspace.store, workspace.folder)

    assert erasure.removed == {"user": 1, "order": 2, "item": 2}
    assert everything(workspace, erasure.manifest) == {
        "user": USERS[1:],
        "order": ORDERS[2:],
        "item": ITEMS[2:],
    }


def test_rows_whose_parent_does_not_exist_go_too(workspace: Workspace) -> None:
    manifest = shop(workspace, USERS, ORDERS, ITEMS)

    erasure = forget([version(manifest)], "user", [[3]], workspace.store, workspace.folder)

    assert erasure.removed == {"order": 1, "item": 1}


def test_a_person_who_is_not_there_changes_nothing(workspace: Workspace) -> None:
    manifest = shop(workspace, USERS, ORDERS, ITEMS)

    erasure = forget([version(manifest)], "user", [[99]], workspace.store, workspace.folder)

    assert (erasure.manifest, erasure.removed) == (manifest, {})
    assert (erasure.holders, erasure.purge) == ((), ())


def test_older_versions_that_hold_the_person_are_named(workspace: Workspace) -> None:
    without = workspace.table([{"id": 2}], primary_key=("id",)).manifest
    both = workspace.table([{"id": 1}, {"id": 2}], primary_key=("id",)).manifest
    texts = workspace.table([{"id": "1"}, {"id": "x"}], primary_key=("id",)).manifest
    other = workspace.table([{"key": 1}]).manifest
    versions = [
        version(manifest, number, pinned=True)
        for number, manifest in enumerate([without, texts, other, both, without], start=1)
    ]

    erasure = forget(versions, "t", [[1]], workspace.store, workspace.folder)

    assert erasure.holders == (4, 2)
    assert set(erasure.purge) == {part.sha256 for old in (both, texts) for part in old.parts}
    assert erasure.manifest == without


def test_only_parts_with_such_rows_are_written_again(workspace: Workspace) -> None:
    first = workspace.table([{"id": 1}, {"id": 2}], primary_key=("id",)).manifest.tables[0]
    second = workspace.table([{"id": 3}], primary_key=("id",)).manifest.tables[0]
    joined = Manifest(
        tables=(
            type(first)(
                name="t",
                columns=first.columns,
                primary_key=("id",),
                parts=(*first.parts, *second.parts),
            ),
        )
    )

    erasure = forget([version(joined)], "t", [[1]], workspace.store, workspace.folder)

    parts = erasure.manifest.table("t").parts
    assert [part.row_count for part in parts] == [1, 1]
    assert parts[1] == second.parts[0]
    assert erasure.purge == (first.parts[0].sha256,)
    assert workspace.rows(erasure.manifest) == [{"id": 2}, {"id": 3}]


@pytest.mark.parametrize(
    ("table", "keys", "columns", "problem"),
    [
        ("x", [[1]], (), r"table: there is no table `x`; tables are user, order, item"),
        ("item", [[1]], (), r"columns: are none, and table `item` has no primary key"),
        ("user", [], (), r"keys: are 0"),
        ("user", [[1, 2]], (), r"keys\[0\]: must have 1 values: id"),
        ("user", ["1"], (), r"keys\[0\]: must have 1 values"),
        ("user", [[None]], (), r"keys\[0\]: must have 1 values"),
        ("user", [[1], ["x"]], (), r"keys\[1\]: has a value that does not fit"),
        ("user", [[1]], ("x",), r"columns\[0\]: there is no column `x`"),
    ],
)
def test_a_malformed_request_is_refused(
    workspace: Workspace, table: str, keys: Any, columns: tuple[str, ...], problem: str
) -> None:
    manifest = shop(workspace, USERS, ORDERS, ITEMS)
    with pytest.raises(InvalidError, match=problem):
        forget([version(manifest)], table, keys, workspace.store, workspace.folder, columns=columns)


IDS = st.none() | st.integers(0, 4)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    orders=st.lists(st.tuples(IDS, IDS, st.integers(-1, 1)), max_size=12),
    items=st.lists(IDS, max_size=12),
    gone=st.sets(st.integers(0, 4), min_size=1, max_size=3),
)
def test_random_datasets_are_erased_as_plain_python_does(
    workspace: Workspace, orders: list[Any], items: list[Any], gone: set[int]
) -> None:
    users = [{"id": number, "name": "u"} for number in range(3)]
    order_rows = [{"id": 99, "user": 99, "total": 1}] + [
        {"id": number, "user": user, "total": total} for number, user, total in orders
    ]
    item_rows = [{"order": 99, "v": "x"}] + [{"order": number, "v": "i"} for number in items]
    manifest = shop(workspace, users, order_rows, item_rows)
    before = everything(workspace, manifest)

    erasure = forget(
        [version(manifest)], "user", [[key] for key in gone], workspace.store, workspace.folder
    )

    lost = {row["id"] for row in order_rows if row["user"] in gone} - {None}
    assert everything(workspace, erasure.manifest) == {
        "user": [row for row in before["user"] if row["id"] not in gone],
        "order": [row for row in before["order"] if row["user"] not in gone],
        "item": [row for row in before["item"] if row["order"] not in lost],
    }

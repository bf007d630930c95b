"""Manifests as JSON, profiles and sizes."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.datasets.conftest import Workspace
from vistaflow_services.core.errors import ExhaustedError, InvalidError
from vistaflow_services.datasets.manifest import (
    Column,
    ColumnProfile,
    DatasetVersion,
    Manifest,
    Part,
    Profile,
    QualityReport,
    Reference,
    Table,
    TableProfile,
    TableReport,
    from_json,
    to_json,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def part(digit: str, size: int = 10) -> Part:
    return Part(sha256=digit * 64, size_bytes=size, row_count=3, memory_bytes=30)


MANIFEST = Manifest(
    tables=(
        Table(
            name="t",
            columns=(Column(name="가", type="BIGINT"),),
            primary_key=("가",),
            references=(Reference(columns=("가",), table="t", key=("가",)),),
            parts=(part("a"), part("b", 20), part("a")),
            rejects=(part("c", 5),),
        ),
    )
)


def version(number: int, days: int, **options: Any) -> DatasetVersion:
    return DatasetVersion(
        project="p",
        name="d",
        version=number,
        created_at=NOW - timedelta(days=days),
        manifest=MANIFEST,
        **options,
    )


FULL = version(
    2,
    1,
    parent=1,
    source="raw/x.csv",
    job_id="j",
    pinned=True,
    aliases=("champion",),
    report=QualityReport(
        tables=(
            TableReport(
                table="t", read_count=9, accepted_count=6, rejected={"r": 3}, orphans={"x": 1}
            ),
        )
    ),
    profile=Profile(
        tables=(
            TableProfile(
                table="t",
                row_count=6,
                columns=(
                    ColumnProfile(
                        name="가",
                        type="BIGINT",
                        null_count=1,
                        distinct_count=5,
                        minimum="1",
                        maximum="5",
                        bounds=(3.0, 5.0),
                        counts=(2, 3),
                    ),
                ),
            ),
        )
    ),
)


@pytest.mark.parametrize("value", [FULL, version(1, 0)])
def test_a_version_is_read_as_it_was_written(value: DatasetVersion) -> None:
    assert from_json(DatasetVersion, json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, r"Manifest\.format: is 2; this version reads 1"),
        ({"tables": {}}, r"Manifest\.tables: is dict, must be list"),
        ({"tables": [{"name": "t"}]}, r"Manifest\.tables\[0\]\.columns: is missing"),
        ({"tables": [{"name": 1, "columns": []}]}, r"Manifest\.tables\[0\]\.name: is int, must"),
        ({"more": 1}, r"Manifest\.more: is no field"),
    ],
)
def test_another_document_is_refused_by_the_name_of_its_field(
    change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidError, match=problem):
        from_json(Manifest, {**to_json(MANIFEST), **change})


def test_the_digest_is_that_of_the_content() -> None:
    other = Manifest(tables=(Table(name="u", columns=()),))

    assert MANIFEST.digest == from_json(Manifest, to_json(MANIFEST)).digest != other.digest
    assert (MANIFEST.size_bytes, MANIFEST.table("t").row_count) == (35, 9)


def test_an_import_beyond_the_quota_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ExhaustedError, match="more than 100 bytes, which are left of the quota"):
        workspace.table([{"v": 1}], max_bytes=100)


def test_a_profile_tells_nulls_ranges_and_histograms(workspace: Workspace) -> None:
    rows = [
        {"i": number, "x": float(number), "s": "가" * number or None, "l": [number]}
        for number in range(41)
    ]
    rows += [
        {"i": None, "x": math.nan, "s": "", "l": None},
        {"i": 40, "x": math.inf, "s": "", "l": []},
    ]
    profile = workspace.table(rows).profile
    assert profile is not None
    (table,) = profile.tables
    columns = {column.name: column for column in table.columns}

    assert (table.row_count, [column.null_count for column in table.columns]) == (43, [1, 0, 1, 1])
    assert (columns["i"].minimum, columns["i"].maximum) == ("0", "40")
    assert (columns["i"].bounds, columns["i"].counts) == (
        tuple(float(bound) for bound in range(2, 41, 2)),
        (3, *[2] * 18, 3),
    )
    assert (columns["x"].minimum, columns["x"].maximum) == ("0.0", "40.0")
    assert sum(columns["x"].counts) == 41  # without NaN and infinity
    assert (columns["s"].minimum, columns["s"].bounds) == ("", ())
    assert 38 <= columns["i"].distinct_count <= 44
    assert json.loads(json.dumps(to_json(profile)))


@pytest.mark.parametrize(
    ("values", "bounds"),
    [([5, 5], (5.0,)), ([None], ()), ([-1.7e308, 1.7e308], 20), ([0.0, 5e-324], (5e-324,))],
)
def test_histograms_of_odd_ranges(workspace: Workspace, values: list[Any], bounds: Any) -> None:
    rows = [{"v": value, "n": 1} for value in values]
    profile = workspace.table(rows).profile
    assert profile is not None
    column = profile.tables[0].columns[0]

    assert (len(column.bounds) if isinstance(bounds, int) else column.bounds) == bounds
    assert sum(column.counts) == sum(value is not None for value in values)

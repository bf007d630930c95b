"""The users, archives and whiskies of the batch design, as one dataset."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.unit.datasets.conftest import Workspace
from vistaflow_services.datasets.build import Built, TableSpec
from vistaflow_services.datasets.erasure import forget
from vistaflow_services.datasets.manifest import DatasetVersion, Reference, TableReport
from vistaflow_services.datasets.quality import Dedupe, Rule
from vistaflow_services.datasets.sources import Source

USERS = [
    {"name": "jongwon", "id": 232433223, "age": 26, "region": "korea"},
    {"name": "mina", "id": 7, "age": 31, "region": None},
    {"name": "robot", "id": 8, "age": 999, "region": "korea"},
]
ARCHIVES = [
    {"user_id": 232433223, "whisky": "argbeg_ten_pk", "note": ["lemon", "sweet"]},
    {"user_id": 232433223, "whisky": "gone_pk", "note": []},
    {"user_id": 7, "whisky": "argbeg_ten_pk", "note": ["smoke"]},
    {"user_id": 8, "whisky": "argbeg_ten_pk", "note": ["oil"]},
]
WHISKIES = """pk,name,age,seen_at
argbeg_ten_pk,argbeg ten,2009,2024-01-01 00:00:00
argbeg_ten_pk,argbeg ten,2010,2024-06-01 00:00:00
broken_pk,,2010,2024-01-01 00:00:00
"""


@pytest.fixture
def whisky(workspace: Workspace) -> Built:
    return workspace.build(
        TableSpec(
            name="user",
            source=Source(paths=(workspace.file("user.json", json.dumps(USERS)),)),
            primary_key=("id",),
            rules=(Rule(name="age", column="age", minimum=18, maximum=130),),
        ),
        TableSpec(
            name="whisky_archive",
            source=Source(
                paths=(workspace.file("a.ndjson", "\n".join(json.dumps(row) for row in ARCHIVES)),)
            ),
            references=(
                Reference(columns=("user_id",), table="user", key=("id",)),
                Reference(columns=("whisky",), table="whisky", key=("pk",)),
            ),
        ),
        TableSpec(
            name="whisky",
            source=Source(paths=(workspace.file("whisky.csv", WHISKIES),)),
            primary_key=("pk",),
            dedupe=Dedupe(keep="newest", by="seen_at"),
            rules=(Rule(name="named", column="name", not_null=True, min_length=1),),
        ),
    )


def test_keys_references_duplicates_and_low_quality_are_reported(whisky: Built) -> None:
    assert whisky.report.tables == (
        TableReport(table="user", read_count=3, accepted_count=2, rejected={"age": 1}),
        TableReport(
            table="whisky_archive",
            read_count=4,
            accepted_count=4,
            orphans={"user_id -> user.id": 1, "whisky -> whisky.pk": 1},
        ),
        TableReport(
            table="whisky",
            read_count=3,
            accepted_count=1,
            rejected={"duplicate": 1, "named": 1},
        ),
    )


def test_accepted_and_rejected_rows_are_read(whisky: Built, workspace: Workspace) -> None:
    assert workspace.rows(whisky.manifest, "whisky") == [
        {
            "pk": "argbeg_ten_pk",
            "name": "argbeg ten",
            "age": 2010,
            "seen_at": datetime(2024, 6, 1),
        }
    ]
    rejects = workspace.rows(
        whisky.manifest, "whisky", rejects=True, columns=["pk", "_rule", "_row"]
    )
    assert rejects == [
        {"pk": "argbeg_ten_pk", "_rule": "duplicate", "_row": 0},
        {"pk": "broken_pk", "_rule": "named", "_row": 2},
    ]
    assert workspace.rows(whisky.manifest, "whisky_archive", limit=1) == [
        {"user_id": 232433223, "whisky": "argbeg_ten_pk", "note": '["lemon","sweet"]'}
    ]


def test_a_person_is_forgotten_with_archives_and_rejects(
    whisky: Built, workspace: Workspace
) -> None:
    version = DatasetVersion(
        project="tasting",
        name="whisky",
        version=1,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        manifest=whisky.manifest,
    )

    erasure = forget([version], "user", [[232433223], [8]], workspace.store, workspace.folder)

    assert erasure.removed == {"user": 2, "whisky_archive": 3}
    assert workspace.rows(erasure.manifest, "user") == [USERS[1]]
    assert workspace.rows(erasure.manifest, "user", rejects=True) == []
    assert [row["user_id"] for row in workspace.rows(erasure.manifest, "whisky_archive")] == [7]
    assert erasure.manifest.table("whisky") == whisky.manifest.table("whisky")
    old = {
        part.sha256
        for name in ("user", "whisky_archive")
        for part in (*whisky.manifest.table(name).parts, *whisky.manifest.table(name).rejects)
    }
    assert (erasure.holders, set(erasure.purge)) == ((1,), old)

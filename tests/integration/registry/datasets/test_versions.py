"""Versions of datasets: recorded once, by their numbers, within their limits."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow_services.datasets.manifest import (
    Column,
    ColumnProfile,
    Manifest,
    Profile,
    QualityReport,
    Table,
    TableProfile,
    TableReport,
)

sys.path.insert(0, str(Path(__file__).parent))

from recording import Client, dumped, manifest, refusal, sha

pytestmark = pytest.mark.asyncio(loop_scope="module")

Code = grpc.StatusCode


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(module_registry: str) -> AsyncIterator[Client]:
    """A caller with every right; each test has datasets or a project of its own."""
    async with grpc.aio.insecure_channel(module_registry) as channel:
        yield Client(channel)


async def test_a_version_is_recorded_listed_and_got(client: Client) -> None:
    report = QualityReport(
        tables=(
            TableReport(
                table="t", read_count=5, accepted_count=2, rejected={"age": 1}, dropped_count=2
            ),
        )
    )
    column = ColumnProfile(
        name="id", type="BIGINT", null_count=0, distinct_count=2, minimum="1", maximum="a\0b",
        bounds=(1.5, 2.0), counts=(1, 1),
    )  # fmt: skip
    profile = Profile(tables=(TableProfile(table="t", row_count=2, columns=(column,)),))
    content = manifest({"a": 10, "b": 20}, rejects={"r": 5})
    job_id = await client.job()
    recorded = await client.record(
        "whisky", content, job_id=job_id, report=report, profile=profile, source="whisky.csv"
    )
    got = await client.get("whisky", with_manifest=True)
    (listed,) = (
        await client.datasets.ListDatasets(pb.ListDatasetsRequest(name_contains="whisk"))
    ).datasets
    version = pb.DatasetVersion(
        version=1,
        created_at=got.version.created_at,
        source="whisky.csv",
        job_id=job_id,
        rows=2,
        rejected_rows=1,
        size_bytes=35,
        digest=content.digest,
    )
    assert recorded == pb.RecordDatasetVersionResponse(version=version)
    assert got.version == got.dataset.latest == version
    assert got.dataset == listed
    assert (listed.project, listed.version_count, listed.size_bytes) == ("default", 1, 35)
    assert json.loads(got.manifest) == json.loads(dumped(content))
    (table,) = got.tables
    assert table.profiled
    assert (table.rows, table.read_rows, dict(table.rejected), table.dropped_rows) == (
        2, 5, {"age": 1}, 2,
    )  # fmt: skip
    assert table.columns[0] == pb.DatasetColumn(
        name="id", type="BIGINT", distinct_count=2, minimum="1", maximum="a\ufffdb",
        bounds=[1.5, 2.0], counts=[1, 1],
    )  # fmt: skip


async def test_a_job_has_one_version_however_often_it_records_it(client: Client) -> None:
    job_id = await client.job()
    for name in ("x1", "x2", "x3"):
        await client.record("once", {name: 1})
    await client.datasets.UpdateDataset(
        pb.UpdateDatasetRequest(dataset="once", limits=pb.DatasetLimits(max_versions=2))
    )
    first = await client.record("once", {"x4": 1}, job_id=job_id)
    await client.move(job_id, common.STATUS_FINISHED)
    # An attempt that was lost builds other files, and finds what was recorded.
    again = await client.record("once", {"x5": 1}, job_id=job_id)

    assert again == first
    assert (first.version.version, list(first.expired_versions)) == (4, [1, 2])
    code, reason = await refusal(client.record("other", {"x4": 1}, job_id=job_id))
    assert code is Code.FAILED_PRECONDITION
    assert "has recorded a version of dataset `once`" in reason
    await client.datasets.DeleteDataset(pb.DeleteDatasetRequest(dataset="once"))
    code, reason = await refusal(client.record("once", {"x4": 1}, job_id=job_id))
    assert (code, "was deleted" in reason) == (Code.FAILED_PRECONDITION, True)


@pytest.mark.parametrize("status", [common.STATUS_CANCELED, common.STATUS_FAILED])
async def test_a_job_that_is_over_records_nothing(client: Client, status: int) -> None:
    job_id = await client.job(status=status)
    code, reason = await refusal(client.record("over", {"a": 1}, job_id=job_id))

    assert (code, "does not run" in reason) == (Code.FAILED_PRECONDITION, True)
    assert (await refusal(client.get("over")))[0] is Code.NOT_FOUND


async def test_only_jobs_that_import_record_versions(client: Client) -> None:
    code, _ = await refusal(client.record("odd", {"a": 1}, job_id=str(uuid.uuid4())))
    assert code is Code.NOT_FOUND
    job_id = await client.job(job_type=common.JOB_TYPE_DOE)
    code, reason = await refusal(client.record("odd", {"a": 1}, job_id=job_id))
    assert (code, "give an IMPORT job" in reason) == (Code.INVALID_ARGUMENT, True)


async def test_a_version_follows_the_one_that_it_was_made_from(client: Client) -> None:
    await client.record("parents", {"a": 1})
    await client.record("parents", {"b": 1}, parent=1)
    code, reason = await refusal(client.record("parents", {"c": 1}, parent=1))

    assert code is Code.FAILED_PRECONDITION
    assert "the latest one is now 2" in reason
    assert await client.numbers("parents") == [2, 1]


async def test_retention_spares_the_latest_the_pinned_and_the_named(client: Client) -> None:
    await client.record("spare", {"shared": 1, "one": 1}, alias="champion")
    await client.record("spare", {"two": 1})
    pinned = pb.PinDatasetVersionRequest(dataset="spare", version=2, pinned=True)
    assert (await client.datasets.PinDatasetVersion(pinned)).version.pinned
    for number in (3, 4):
        await client.record("spare", {"shared": 1, f"blob {number}": 1})
    limits = pb.DatasetLimits(max_versions=1)
    await client.datasets.UpdateDataset(pb.UpdateDatasetRequest(dataset="spare", limits=limits))
    recorded = await client.record("spare", {"shared": 1})

    assert list(recorded.expired_versions) == [3, 4]
    assert await client.numbers("spare") == [5, 2, 1]
    assert await client.references("shared", "one", "two", "blob 3") == ["shared", "one", "two"]
    dataset = (await client.get("spare")).dataset
    assert (dataset.version_count, dataset.size_bytes) == (3, 3)


async def test_a_version_is_named_by_number_and_alias_and_deleted_without(client: Client) -> None:
    for name in ("n1", "n2"):
        await client.record("named", {name: 1})

    async def alias(version: int) -> dict[str, int]:
        request = pb.SetDatasetAliasRequest(dataset="named", alias="best-1", version=version)
        return dict((await client.datasets.SetDatasetAlias(request)).dataset.aliases)

    async def delete(version: int) -> int:
        request = pb.DeleteDatasetRequest(dataset="default.named", version=version)
        return (await client.datasets.DeleteDataset(request)).version_count

    assert await alias(1) == {"best-1": 1}
    got = [
        (await client.get(name)).version.version
        for name in ("named", "named@latest", "named@2", "named@best-1", "default.named@best-1")
    ]
    assert got == [2, 2, 2, 1, 1]
    for name in ("named@3", "named@worst", "others.named"):
        assert (await refusal(client.get(name)))[0] is Code.NOT_FOUND
    assert (await refusal(alias(3)))[0] is Code.NOT_FOUND
    for version in (0, 1):
        code, reason = await refusal(delete(version))
        assert (code, "version 1" in reason) == (Code.FAILED_PRECONDITION, True)
    assert await alias(2) == {"best-1": 2}
    assert await delete(1) == 1
    assert (await refusal(delete(1)))[0] is Code.NOT_FOUND
    assert await alias(0) == {}
    assert await delete(0) == 1
    assert (await refusal(client.get("named")))[0] is Code.NOT_FOUND
    # Its numbers have the meaning that they had.
    assert (await client.record("named", {"n3": 1})).version.version == 3
    assert (await client.get("named")).dataset.version_count == 1


async def test_what_is_forgotten_is_deleted_and_purged_when_its_time_has_come(
    client: Client,
) -> None:
    await client.record("people", {"old": 1}, alias="first")
    await client.record("people", {"ana": 1, "others": 1}, alias="best")
    pinned = pb.PinDatasetVersionRequest(dataset="people", version=2, pinned=True)
    await client.datasets.PinDatasetVersion(pinned)
    await client.record("copy", {"ana": 1})
    now = datetime.now(UTC)
    early = {"forgotten_versions": [1], "forgotten_blobs": [sha("old")]}
    await client.record("people", {"new": 1}, purge_at=now + timedelta(days=1), **early)
    forgotten = {"forgotten_versions": [2], "forgotten_blobs": [sha("ana")], "purge_at": now}
    # Only what is made from the latest version is without the rows of all.
    assert (await refusal(client.record("people", {"b": 1}, parent=2, **forgotten)))[0] is (
        Code.FAILED_PRECONDITION
    )
    await client.datasets.DeleteDataset(pb.DeleteDatasetRequest(dataset="people", version=3))
    begun_before = await client.job()
    await client.record("people", {"others": 1}, parent=2, **forgotten)
    got = await client.get("people@best")

    assert (got.version.version, got.version.pinned, dict(got.dataset.aliases)) == (
        4, True, {"best": 4},
    )  # fmt: skip
    assert await client.numbers("people") == [4]
    assert await client.references("old", "ana", "others") == ["old", "ana", "others"]
    assert await client.purge() == []  # Another dataset has it, too.
    await client.datasets.DeleteDataset(pb.DeleteDatasetRequest(dataset="copy"))
    assert await client.purge() == [sha("ana")]
    assert await client.purge() == []  # It was just given.
    code, reason = await refusal(client.record("copy", {"ana": 1}))
    assert (code, "run the job again" in reason) == (Code.FAILED_PRECONDITION, True)
    assert await client.purge("ana", "old") == []
    # The one may have found the file before it was purged, the other has stored it again.
    assert (await refusal(client.record("copy", {"ana": 1}, job_id=begun_before)))[0] is code
    await client.record("copy", {"ana": 1})
    assert await client.references("old", "ana") == ["old", "ana"]


async def test_an_unused_file_is_given_to_be_purged_and_no_job_that_runs_records_it(
    client: Client,
) -> None:
    await client.record("swept", {"kept": 1})
    running = await client.job()

    assert await client.purge(unused=["kept", "swept"]) == [sha("swept")]
    # It was stored again before it was given, and may be gone now.
    code, reason = await refusal(client.record("late", {"swept": 1}, job_id=running))
    assert (code, "run the job again" in reason) == (Code.FAILED_PRECONDITION, True)
    assert await client.purge("swept") == []
    assert await client.references("kept", "swept") == ["kept"]
    await client.record("late", {"swept": 1})
    assert await client.purge(unused=["swept"]) == []


async def test_a_change_is_made_once_and_makes_a_dataset_that_is_not_there(
    client: Client,
) -> None:
    async def update(**fields: Any) -> pb.Dataset:
        request = pb.UpdateDatasetRequest(dataset="changing", **fields)
        return (await client.datasets.UpdateDataset(request)).dataset

    limits = pb.DatasetLimits(quota_bytes=10, max_versions=3)
    limits.max_age.FromTimedelta(timedelta(days=2))
    request_id = str(uuid.uuid4())
    dataset = await update(
        request_id=request_id, limits=limits, description="of a test", labels={"a": "1", "b": "2"}
    )
    assert (dataset.limits, dataset.description, dict(dataset.labels), dataset.version_count) == (
        limits, "of a test", {"a": "1", "b": "2"}, 0,
    )  # fmt: skip
    assert not (await client.get("changing")).HasField("version")
    code, reason = await refusal(client.record("changing", {"large": 11}))
    assert code is Code.RESOURCE_EXHAUSTED
    assert "dataset `changing` would have 11 bytes, 1 more than its quota of 10" in reason
    assert await client.references("large") == []
    dataset = await update(labels={"a": "", "c": "3"})
    assert (dataset.limits, dict(dataset.labels)) == (limits, {"b": "2", "c": "3"})
    # The first of these two is a repeat, which changes nothing.
    repeated = await update(
        request_id=request_id, limits=limits, description="of a test", labels={"a": "1", "b": "2"}
    )
    assert dict(repeated.labels) == {"b": "2", "c": "3"}
    code, _ = await refusal(update(request_id=request_id, description="another"))
    assert code is Code.ALREADY_EXISTS
    await client.record("changing", {"small": 5})
    code, reason = await refusal(update(limits=pb.DatasetLimits(quota_bytes=4)))
    assert (code, "has 5 bytes already" in reason) == (Code.FAILED_PRECONDITION, True)


async def test_lists_come_in_pages(client: Client) -> None:
    names = [f"{name}_paged" for name in "abcde"]
    for name in reversed(names):
        await client.datasets.UpdateDataset(pb.UpdateDatasetRequest(dataset=f"pages.{name}"))
    for number in range(5):
        await client.record("e_paged", {f"page {number}": 1}, project="pages")

    request = pb.ListDatasetsRequest(project="pages", name_contains="_pag", page_size=2)
    datasets = await client.pages(client.datasets.ListDatasets, request, "datasets")
    assert [[dataset.name for dataset in page] for page in datasets] == [
        names[:2], names[2:4], names[4:],
    ]  # fmt: skip
    assert datasets[-1][0].latest.version == 5
    versions = pb.ListDatasetVersionsRequest(dataset="pages.e_paged", page_size=2)
    listed = await client.pages(client.datasets.ListDatasetVersions, versions, "versions")
    assert [[version.version for version in page] for page in listed] == [[5, 4], [3, 2], [1]]


HASH = "a" * 64
PART = {"sha256": HASH, "size_bytes": 1, "row_count": 1, "memory_bytes": 1}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"manifest": b""}, "manifest: is required"),
        ({"manifest": b"{"}, "manifest: is no JSON"),
        ({"manifest": b"[" * 100_000}, "manifest: is no JSON"),
        ({"manifest": b" " * (2**21 + 1)}, "manifest: is larger than 2,048 KiB"),
        ({"manifest": b'{"format": 2, "tables": []}'}, "reads 1"),
        ({"part": {"sha256": "../../x"}}, "something else than its SHA-256"),
        ({"part": {"size_bytes": 2**60}}, "an impossible size"),
        ({"part": {"row_count": -1}}, "an impossible size"),
        ({"column": "a\0b"}, "holds a NUL"),
        ({"column": "\ud800"}, "text or numbers beyond all ends"),
        ({"report": b'{"tables": [{"table": "t", "read_count": 1e3}]}'}, "report: "),
        ({"profile": b'{"tables": NaN}'}, "profile: is no JSON"),
        ({"dataset": "Whisky"}, "dataset: give NAME"),
        ({"dataset": "p.whisky"}, "the project is the job's"),
        ({"alias": "latest"}, "`latest` is taken"),
        ({"parent": -1}, "parent: is -1"),
        ({"forgotten_blobs": [HASH]}, "purge_at: is required"),
        ({"forgotten_blobs": ["b"]}, "must be a SHA-256"),
        ({"forgotten_versions": [0]}, "forgotten_versions[0]: is 0"),
        ({"source": "a\x1b[2J"}, "source: must not hold control characters"),
    ],
)
async def test_what_cannot_be_is_refused_by_its_field(
    client: Client, fields: dict[str, Any], problem: str
) -> None:
    part = PART | fields.pop("part", {})
    column = {"name": fields.pop("column", "id"), "type": "BIGINT"}
    document = {"format": 1, "tables": [{"name": "t", "columns": [column], "parts": [part]}]}
    request = pb.RecordDatasetVersionRequest(
        **{
            "job_id": str(uuid.uuid4()),
            "dataset": "bad",
            "manifest": json.dumps(document).encode(),
            **fields,
        }
    )
    code, reason = await refusal(client.datasets.RecordDatasetVersion(request))
    assert (code, problem in reason) == (Code.INVALID_ARGUMENT, True), reason


async def test_the_largest_manifest_and_profile_are_read_by_a_client_without_options(
    client: Client,
) -> None:
    many = manifest({f"file {number}": 1 for number in range(14_800)})
    wide = Table(
        name="wide", columns=tuple(Column(name=f"c{n}", type="VARCHAR") for n in range(2_000))
    )
    content = Manifest(tables=(*many.tables, wide))
    figures = tuple(
        ColumnProfile(name=column.name, type="VARCHAR", null_count=0, distinct_count=1,
                      minimum="가" * 150, maximum="z")
        for column in wide.columns
    )  # fmt: skip
    profile = Profile(tables=(TableProfile(table="wide", row_count=0, columns=figures),))
    assert 1_900_000 < len(dumped(content)) < 2**21
    await client.record("large", content, profile=profile)
    got, beside = await client.get("large"), await client.get("large", with_manifest=True)

    assert json.loads(beside.manifest) == json.loads(dumped(content))
    assert len(beside.manifest) <= 2**21
    assert [(table.name, table.profiled) for table in got.tables] == [("t", False), ("wide", True)]
    assert [table.name for table in beside.tables] == ["t", "wide"]
    assert (got.version.rows, got.dataset.size_bytes) == (14_800, 14_800)
    await client.datasets.DeleteDataset(pb.DeleteDatasetRequest(dataset="large"))


async def test_the_service_is_healthy_and_described(client: Client) -> None:
    name = pb.DESCRIPTOR.services_by_name["DatasetService"].full_name
    checked = await health_pb2_grpc.HealthStub(client.channel).Check(
        health_pb2.HealthCheckRequest(service=name)
    )
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = [answer async for answer in stub.ServerReflectionInfo(requests)]

    assert checked.status == health_pb2.HealthCheckResponse.SERVING
    assert name in {service.name for service in answer.list_services_response.service}

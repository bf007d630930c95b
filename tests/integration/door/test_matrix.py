"""Every call of every service, by every kind of caller."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from keys import DENIED, Keys, id_of, new_kit

from vistaflow.api.artifacts.v1 import artifacts_pb2, artifacts_pb2_grpc
from vistaflow.api.common.v1 import access_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.door.interceptor import REFUSALS
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.server.shell import make_server
from vistaflow_services.core.stage import Stage, StageService
from vistaflow_services.core.vouching import vouched

MODULES = (
    registry_pb2,
    pipeline_pb2,
    ingestion_pb2,
    doe_pb2,
    ml_pb2,
    optimize_pb2,
    query_pb2,
    artifacts_pb2,
    datasets_pb2,
    schedules_pb2,
    outbox_pb2,
)
STAGES = ("pipeline", "ingestion", "doe", "ml", "optimize", "query")

V, E, A, W, R = "viewer", "editor", "admin", "worker", "reader"
READERS, WRITERS = {V, E, A}, {E, A}

TABLE = {
    "RegistryService": {
        frozenset({*READERS, W}): "GetKit ListKits GetJob ListJobs WatchStates",
        frozenset({*READERS, W, R}): "GetServerInfo",
        frozenset(READERS): "DiffKit GetLineage ListStates WatchMany",
        frozenset({*WRITERS, W}): "CreateKit CreateJob AppendStates StreamStates",
        frozenset(WRITERS): "CancelKit PauseKit ResumeKit RetryKit CancelJob RetryJob CancelJobs "
        "RetryJobs",
        frozenset({W}): "LeaseJobs AnnounceService",
        frozenset({A}): "CreateToken ListTokens RevokeToken ListRequests",
        frozenset({A, W}): "DumpLog",
    },
    "PipelineService": {
        frozenset(READERS): "ValidateKit GetSchedule ListSchedules",
        frozenset(WRITERS): "RunKit RetryKit ExtendKit ImportPoints CreateSchedule UpdateSchedule "
        "PauseSchedule ResumeSchedule RunSchedule DeleteSchedule",
    },
    "IngestionService": {
        frozenset(READERS): "ListDecks GetDeck GetConversion SummarizeShopping GetUpload",
        frozenset({*READERS, R}): "ReadDataset",
        frozenset(
            WRITERS
        ): "CollectDecks ConvertJson UploadFile DeleteUpload ImportDataset CollectPages "
        "ForgetRecords DeliverDataset",
        frozenset({A}): "BackUp CleanUp RepairStores",
    },
    "DoeService": {
        frozenset({*READERS, W}): "ListSimulators",
        frozenset(READERS): "ListGenerators GetDesign ReadDesign FindPoints GetRun",
        frozenset(WRITERS): "GenerateDesign EvaluateDesign TryPoint",
    },
    "MlService": {
        frozenset(READERS): "Predict GetModel ListModels",
        frozenset(WRITERS): "Preprocess Scale Train Test",
    },
    "OptimizeService": {
        frozenset(READERS): "GetStudy ListTrials DrawPicture",
        frozenset(WRITERS): "TuneModel OptimizeDesign",
    },
    "QueryService": {
        frozenset(READERS): "ValidateQuery GetQuery ListQueries FetchResult",
        frozenset(WRITERS): "SubmitQuery CancelQuery",
    },
    "ArtifactService": {frozenset(READERS): "ListArtifacts ReadArtifact ReadLogs"},
    "DatasetService": {
        frozenset({*READERS, W, R}): "GetDataset",
        frozenset({*READERS, W}): "ListDatasetVersions",
        frozenset(READERS): "ListDatasets",
        frozenset(WRITERS): "UpdateDataset PinDatasetVersion DeleteDataset",
        frozenset({*WRITERS, W}): "SetDatasetAlias",
        frozenset({W}): "RecordDatasetVersion FindReferences PurgeBlobs",
    },
    "ScheduleService": {
        frozenset(READERS): "FindSchedules",
        frozenset(WRITERS): "AddSchedule ChangeSchedule RemoveSchedule AddFire",
        frozenset({W}): "ListDueSchedules PlanFires StartFire",
    },
    "OutboxService": {
        frozenset(READERS): "ListWebhooks ListDeliveries",
        frozenset(WRITERS): "SetWebhook DeleteWebhook TestWebhook RetryDelivery",
        frozenset({W}): "LeaseDeliveries ReportDelivery",
    },
}
"""Who may make which call. A call that is not here must be put here."""

NOT_IDS = {"request_id", "token_id", "delivery_id", "row_id"}
"""Fields that name no thing of a project, rows, and deliveries: see `test_outbox.py`."""


def services() -> Iterator[ServiceDescriptor]:
    for module in MODULES:
        yield from module.DESCRIPTOR.services_by_name.values()


def methods() -> list[MethodDescriptor]:
    return [method for service in services() for method in service.methods]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


async def outcome(channel: grpc.aio.Channel, method: MethodDescriptor, body: bytes = b"") -> Any:
    """The status that a call ends with, and its message; OK for a stream that began."""
    path = path_of(method)

    async def requests() -> AsyncIterator[bytes]:
        yield body
        await asyncio.sleep(60)

    try:
        if method.client_streaming and method.server_streaming:
            call: Any = channel.stream_stream(path)(requests(), timeout=60)
        elif method.client_streaming:
            await channel.stream_unary(path)(iter([body]), timeout=60)
            return grpc.StatusCode.OK, ""
        elif method.server_streaming:
            call = channel.unary_stream(path)(body, timeout=60)
        else:
            await channel.unary_unary(path)(body, timeout=60)
            return grpc.StatusCode.OK, ""
        await call.read()
        call.cancel()
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@pytest.fixture(autouse=True)
def any_number_of_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is refused to each caller without a valid token, from one machine."""
    monkeypatch.setenv(REFUSALS, "0")


@pytest.fixture
async def addresses(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, str]]:
    """Where every service listens; the stages without their workers."""
    monkeypatch.setenv("VISTAFLOW_TOKEN", await keys.make("WORKER"))
    found = dict.fromkeys(
        ("RegistryService", "DatasetService", "ScheduleService", "OutboxService"),
        keys.registry.address,
    )
    servers, clients = [], []
    for name in STAGES:
        service: StageService = importlib.import_module(
            f"vistaflow_services.{name}.__main__"
        ).SERVICE
        client = RegistryClient(keys.registry.address, actor=name)
        server = make_server(*service.all_service_names)
        server.door.tokens = vouched(client)
        service.add_to(server, Stage(name, service.config(), client, tmp_path))
        address = server.bind("127.0.0.1:0")
        await server.start()
        await client.announce(name, address, "0", "SERVING")
        found[service.service_names[0].rpartition(".")[2]] = address
        found["ArtifactService"] = address  # which every stage serves
        servers.append(server)
        clients.append(client)
    yield found
    await asyncio.gather(*(server.stop(0) for server in servers))
    await asyncio.gather(*(client.close() for client in clients))


def test_every_call_says_who_may_make_it() -> None:
    unsaid = [
        path_of(method)
        for method in methods()
        if not method.GetOptions().Extensions[access_pb2.access].role
    ]
    assert unsaid == []


def test_the_table_of_who_may_do_what_has_every_call_once() -> None:
    said = [
        f"{service}/{name}"
        for service, rules in TABLE.items()
        for names in rules.values()
        for name in names.split()
    ]
    assert sorted(said) == sorted(
        f"{each.containing_service.name}/{each.name}" for each in methods()
    )


async def test_every_call_lets_in_whom_the_table_names_and_nobody_else(
    keys: Keys, addresses: dict[str, str]
) -> None:
    revoked = await keys.make("ADMIN")
    await keys.store.revoke(uuid.UUID(id_of(revoked)))
    tokens = {
        "none": "",
        "garbage": "vf1.nonsense",
        "unknown": f"vf1.{'0' * 32}.{'a' * 43}",
        "expired": await keys.make("ADMIN", seconds=0.001),
        "revoked": revoked,
        V: await keys.make("VIEWER", "mine"),
        E: await keys.make("EDITOR", "mine"),
        A: await keys.make("ADMIN"),
        W: await keys.make("WORKER"),
        R: await keys.make("READER", "mine"),
    }
    allowed = {
        f"{service}/{name}": who
        for service, rules in TABLE.items()
        for who, names in rules.items()
        for name in names.split()
    }
    wrong = []
    for caller, token in tokens.items():
        channels = {service: keys.channel(token, address) for service, address in addresses.items()}
        outcomes = await asyncio.gather(
            *(outcome(channels[each.containing_service.name], each) for each in methods())
        )
        for method, (code, told) in zip(methods(), outcomes, strict=True):
            name = f"{method.containing_service.name}/{method.name}"
            if caller not in {V, E, A, W, R}:
                right = code is grpc.StatusCode.UNAUTHENTICATED
            elif caller in allowed[name]:
                right = code not in {*DENIED, grpc.StatusCode.UNAVAILABLE}
            else:
                right = code is grpc.StatusCode.PERMISSION_DENIED
            if not right:
                wrong.append((caller, name, code.name, told))
        await asyncio.gather(*(channel.close() for channel in channels.values()))
    assert wrong == []


async def test_what_is_of_another_project_is_as_absent_as_what_never_was(
    keys: Keys, addresses: dict[str, str]
) -> None:
    theirs = await new_kit(await keys.stub("EDITOR", "theirs"))
    ids = {"kit_id": theirs.kit_id, "job_id": theirs.jobs[0].job_id}
    never = {"kit_id": 9_999_999, "job_id": "00000000-0000-4000-8000-000000000000"}
    token = await keys.make("EDITOR", "mine")
    wrong, looked = [], 0
    for method in methods():
        named = [
            field
            for field in method.input_type.fields
            if field.name.endswith("_id") and field.name not in NOT_IDS
        ]
        role = method.GetOptions().Extensions[access_pb2.access].role
        if not named or role in {access_pb2.ROLE_WORKER, access_pb2.ROLE_ADMIN}:
            continue
        told = []
        for given in (ids, never):
            message: Any = method.input_type._concrete_class()
            for field in named:
                value = given["kit_id"] if field.name == "kit_id" else given["job_id"]
                setattr(message, field.name, value)
            if method.name == "CreateJob":
                message.job.job_type = 2
            if method.name == "Predict":
                message.points.add()
            channel = keys.channel(token, addresses[method.containing_service.name])
            code, text = await outcome(channel, method, message.SerializeToString())
            told.append((code, text.replace(str(value), "ID")))
            await channel.close()
        looked += 1
        if told[0] != told[1] or (
            told[0][0] not in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}
        ):
            wrong.append((method.name, told))
    assert wrong == []
    assert looked >= 14


async def test_uploads_and_logs_of_services_are_for_their_callers_only(
    keys: Keys, addresses: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / "doe.jsonl").write_text("a line\n")
    tokens = {
        "mine": await keys.make("EDITOR", "mine"),
        "theirs": await keys.make("EDITOR", "theirs"),
        "all": await keys.make("ADMIN"),
    }
    upload_id = "0123456789abcdef" * 2
    header = ingestion_pb2.UploadHeader(
        upload_id=upload_id, file_name="x", size_bytes=1, sha256=hashlib.sha256(b"1").hexdigest()
    )
    question = ingestion_pb2.GetUploadRequest(upload_id=upload_id)
    convert = ingestion_pb2.ConvertJsonRequest(
        file_names=[f"upload:{upload_id}"], output_file_name="x"
    )
    seen = {}
    for name, token in tokens.items():
        channel = keys.channel(token, addresses["IngestionService"])
        ingestion = ingestion_pb2_grpc.IngestionServiceStub(channel)
        artifacts = artifacts_pb2_grpc.ArtifactServiceStub(channel)
        calls: dict[str, Any] = {}
        if name == "mine":
            messages = [
                ingestion_pb2.UploadFileRequest(header=header),
                ingestion_pb2.UploadFileRequest(data=b"1"),
            ]
            answer = await ingestion.UploadFile(iter(messages))
            assert answer.upload.project == "mine"
            messages[0].header.project = "theirs"
            calls["other"] = ingestion.UploadFile(iter(messages[:1]))
        if name == "theirs":
            delete = ingestion_pb2.DeleteUploadRequest(upload_id=upload_id)
            calls["delete"] = ingestion.DeleteUpload(delete)
        calls["get"] = ingestion.GetUpload(question)
        calls["convert"] = ingestion.ConvertJson(convert)
        stream = artifacts.ReadLogs(artifacts_pb2.ReadLogsRequest(service="doe"))
        calls["logs"] = stream.read()
        seen[name] = {what: await code_of(call) for what, call in calls.items()}
        await channel.close()
    ok, absent, denied = "OK", "NOT_FOUND", "PERMISSION_DENIED"
    assert seen == {
        "mine": {"get": ok, "convert": ok, "other": denied, "logs": denied},
        "theirs": {"get": absent, "convert": absent, "delete": absent, "logs": denied},
        "all": {"get": ok, "convert": ok, "logs": ok},
    }


async def code_of(call: Any) -> str:
    """The name of the status that a call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"

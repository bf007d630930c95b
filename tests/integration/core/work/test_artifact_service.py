"""Artifacts and logs read through a stage service, with a registry on PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import inspect
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import any_pb2, wrappers_pb2

from tests.integration.core.stage_under_test import SERVICE
from tests.integration.stages import external, finished, stage_serving
from vistaflow._rpc.credentials import BearerChannel
from vistaflow.api.artifacts.v1 import artifacts_pb2 as pb
from vistaflow.api.artifacts.v1.artifacts_pb2_grpc import ArtifactServiceStub
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.stage import StageConfig
from vistaflow_services.core.stage import serve as serve_stage

ABSENT = grpc.StatusCode.NOT_FOUND
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NEVER = "00000000-0000-4000-8000-000000000000"
MEBIBYTE = 1 << 20


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(module_registry: str) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(module_registry, actor="test")
    yield client
    await client.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def jobs_module() -> Iterator[None]:
    """Lets the processes of attempts import the module of the jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(module_registry: str, home: Path, jobs_module: None) -> AsyncIterator[Any]:
    async with stage_serving(
        SERVICE, StageConfig(), home=home, registry=module_registry
    ) as channel:
        yield ArtifactServiceStub(channel)


@pytest_asyncio.fixture(loop_scope="module")
async def job(client: RegistryClient) -> common_pb2.Job:
    return await external(client, "DOE")


@pytest.fixture
def folder(job: common_pb2.Job, home: Path) -> Path:
    """The folder of the job's first attempt."""
    folder = home / "artifacts" / "jobs" / job.job_id / "1"
    folder.mkdir(parents=True)
    return folder


async def read(stub: Any, uri: str, **options: Any) -> tuple[pb.Artifact, bytes]:
    messages = [
        message async for message in stub.ReadArtifact(pb.ReadArtifactRequest(uri=uri, **options))
    ]
    assert all(len(message.data) <= MEBIBYTE for message in messages)
    assert [message.HasField("artifact") for message in messages] == [
        index == 0 for index in range(len(messages))
    ]
    return messages[0].artifact, b"".join(message.data for message in messages)


async def to_the_end(answer: Any) -> None:
    """Takes the answer of a call of any kind, and drops it."""
    if not hasattr(answer, "read"):
        await answer
        return
    while await answer.read() is not grpc.aio.EOF:
        pass


async def code_of(answer: Any) -> tuple[grpc.StatusCode, str]:
    """How a call that must fail ends."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await to_the_end(answer)
    return raised.value.code(), raised.value.details() or ""


async def test_a_large_file_arrives_byte_for_byte(
    stub: Any, job: common_pb2.Job, folder: Path
) -> None:
    content = random.Random(0).randbytes(10 * MEBIBYTE + 7)
    (folder / "table.parquet").write_bytes(content)
    uri = f"artifact://jobs/{job.job_id}/1/table.parquet"

    artifact, data = await read(stub, uri)

    assert data == content
    assert artifact.size_bytes == len(content)
    assert artifact.content_type == "application/vnd.apache.parquet"
    assert artifact.sha256 == ""
    _, middle = await read(stub, uri, offset=3 * MEBIBYTE - 5, length=2 * MEBIBYTE)
    assert middle == content[3 * MEBIBYTE - 5 : 5 * MEBIBYTE - 5]


async def test_small_and_empty_files_come_with_their_sha256(
    stub: Any, job: common_pb2.Job, folder: Path
) -> None:
    for name, content in (("a.png", b"picture"), ("주문 1.csv", b"a,b\n"), ("empty", b"")):
        (folder / name).write_bytes(content)
        artifact, data = await read(stub, f"artifact://jobs/{job.job_id}/1/{name}")
        assert data == content
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()


async def test_ranges_are_checked(stub: Any, job: common_pb2.Job, folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"0123456789")
    uri = f"artifact://jobs/{job.job_id}/1/a.txt"

    assert (await read(stub, uri, offset=8, length=9))[1] == b"89"
    assert (await read(stub, uri, offset=10))[1] == b""
    for field, value in (("offset", 11), ("offset", -1), ("length", -1)):
        code, details = await code_of(
            stub.ReadArtifact(pb.ReadArtifactRequest(uri=uri, **{field: value}))
        )
        assert (code, details.startswith(f"{field}: ")) == (INVALID, True)


async def test_the_sha256_of_a_large_file_is_the_published_one(
    client: RegistryClient, stub: Any, home: Path
) -> None:
    content = b"x" * (MEBIBYTE + 1)
    digest = hashlib.sha256(content).hexdigest()
    job = await external(client, "DOE")
    uri = f"artifact://jobs/{job.job_id}/1/design.bin"
    row = common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_FINISHED, seq=2)
    row.metadata.update({"result": {"files": [{"uri": uri, "sha256": digest}]}})
    await client.append([row])
    path = home / "artifacts" / uri.removeprefix("artifact://")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

    artifact, data = await read(stub, uri)

    assert (artifact.sha256, data) == (digest, content)


async def test_a_folder_is_listed_in_pages(stub: Any, job: common_pb2.Job, folder: Path) -> None:
    for number in range(5):
        (folder / f"{number}.csv").write_bytes(b"x" * number)
    (folder / "plots").mkdir()
    (folder / ".incomplete").write_bytes(b"x")
    (folder / os.fsdecode(b"\xff.csv")).write_bytes(b"x")
    (folder / "link").symlink_to("0.csv")
    os.mkfifo(folder / "pipe")
    request = pb.ListArtifactsRequest(uri=f"artifact://jobs/{job.job_id}/1", page_size=4)

    first = await stub.ListArtifacts(request)
    request.page_token = first.next_page_token
    second = await stub.ListArtifacts(request)

    entries = [
        (entry.name, entry.size_bytes, entry.is_folder)
        for entry in (*first.entries, *second.entries)
    ]
    assert entries == [
        *((f"{number}.csv", number, False) for number in range(5)),
        ("plots", 0, True),
    ]
    assert len(first.entries) == 4
    assert second.next_page_token == ""
    code, details = await code_of(stub.ReadArtifact(pb.ReadArtifactRequest(uri=request.uri)))
    assert (code, "ListArtifacts" in details) == (INVALID, True)
    request.uri += "/1.csv"
    assert (await code_of(stub.ListArtifacts(request)))[0] is INVALID


async def test_nothing_outside_the_jobs_artifacts_is_read(
    stub: Any, job: common_pb2.Job, folder: Path, home: Path
) -> None:
    (home / "secret").write_text("secret")
    (home / "artifacts" / "secret").write_text("secret")
    (folder / "a.txt").write_text("a")
    (folder / ".part").write_text("incomplete")
    base = f"artifact://jobs/{job.job_id}"
    wrong = [
        "",
        "artifact://",
        "artifact://secret",
        "artifact://decks/secret",
        "artifact://jobs",
        f"artifact://jobs/{NEVER[:-1]}/a",
        f"{base}/1/../1/a.txt",
        f"{base}/../../secret",
        f"{base}/../../../secret",
        f"{base}//etc/passwd",
        f"{base}/1/./a.txt",
        f"{base}/1/a.txt/",
        f"{base}/1/.part",
        f"{base}/1/a\0.txt",
        f"artifact:///{home}/secret",
        str(home / "secret"),
        f"file://{home}/secret",
        f"http://jobs/{job.job_id}/1/a.txt",
    ]
    for uri in wrong:
        for call in (
            stub.ReadArtifact(pb.ReadArtifactRequest(uri=uri)),
            stub.ListArtifacts(pb.ListArtifactsRequest(uri=uri)),
        ):
            code, details = await code_of(call)
            assert (uri, code) == (uri, INVALID)
            assert str(home) not in details.replace(uri, "")


async def test_symlinks_and_pipes_are_as_absent_as_what_never_was(
    stub: Any, client: RegistryClient, job: common_pb2.Job, folder: Path, home: Path
) -> None:
    (home / "secret").write_text("secret")
    other = await external(client, "DOE")
    other_folder = home / "artifacts" / "jobs" / other.job_id / "1"
    other_folder.mkdir(parents=True)
    (other_folder / "a.txt").write_text("another job's")
    (folder / "out").symlink_to(home)
    (folder / "file").symlink_to(home / "secret")
    (folder / "other").symlink_to(other_folder)
    os.mkfifo(folder / "pipe")
    details = set()
    for name in ("out/secret", "file", "other/a.txt", "pipe", "never", "never/never", "x" * 255):
        uri = f"artifact://jobs/{job.job_id}/1/{name}"
        code, text = await code_of(stub.ReadArtifact(pb.ReadArtifactRequest(uri=uri)))
        assert (name, code) == (name, ABSENT)
        details.add(text.replace(name, "NAME"))
    assert len(details) == 1


@pytest.mark.parametrize("change", ["delete", "replace", "append", "truncate"])
async def test_a_file_that_changes_meanwhile_is_an_error(
    stub: Any, job: common_pb2.Job, folder: Path, change: str
) -> None:
    path = folder / "large.bin"
    # Larger than what gRPC takes from the service before the caller reads on.
    path.write_bytes(b"x" * (64 * MEBIBYTE))
    call = stub.ReadArtifact(
        pb.ReadArtifactRequest(uri=f"artifact://jobs/{job.job_id}/1/large.bin")
    )
    await call.read()
    if change == "delete":
        path.unlink()
    elif change == "replace":
        (folder / "new").write_bytes(b"y" * (64 * MEBIBYTE))
        (folder / "new").replace(path)
    elif change == "append":
        with path.open("ab") as file:
            file.write(b"y")
    else:
        os.truncate(path, 63 * MEBIBYTE)
    code, details = await code_of(call)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "changed or deleted" in details


async def test_a_job_of_another_project_is_as_absent_as_one_that_never_was(
    database: str,
    serve: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VISTAFLOW_AUTH", "required")
    async with serve(database) as registry:

        async def token(role: str, project: str = "") -> str:
            _, text, _ = await registry.token_store.create(
                name=role, project=project, role=Role(role), created_by="test", seconds=None
            )
            return str(text)

        monkeypatch.setenv("VISTAFLOW_TOKEN", await token("WORKER"))
        theirs, mine = await token("EDITOR", "theirs"), await token("VIEWER", "mine")
        async with stage_serving(
            SERVICE, StageConfig(), home=tmp_path, registry=registry.address
        ) as plain:
            editor = RegistryClient(registry.address)
            new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_ML_TEST)
            call = editor.stub.CreateJob(
                registry_pb2.CreateJobRequest(job=new),
                metadata=(("authorization", f"Bearer {theirs}"),),
            )
            job = (await call).job
            await editor.close()
            folder = tmp_path / "artifacts" / "jobs" / job.job_id / "1"
            logs = tmp_path / "logs" / "jobs" / job.job_id
            for path in (folder / "a.txt", logs / "1.log"):
                path.parent.mkdir(parents=True)
                path.write_text("theirs")
            viewers = {
                name: ArtifactServiceStub(BearerChannel(plain, lambda text=text: text))
                for name, text in (("theirs", theirs), ("mine", mine))
            }
            uri = f"artifact://jobs/{job.job_id}/1/a.txt"
            assert (await read(viewers["theirs"], uri))[1] == b"theirs"
            assert await log_of(viewers["theirs"], job.job_id) == {1: b"theirs"}
            seen = []
            for job_id in (job.job_id, NEVER):
                base = f"artifact://jobs/{job_id}"
                for call in (
                    viewers["mine"].ReadArtifact(pb.ReadArtifactRequest(uri=f"{base}/1/a.txt")),
                    viewers["mine"].ListArtifacts(pb.ListArtifactsRequest(uri=f"{base}/1")),
                    viewers["mine"].ReadLogs(pb.ReadLogsRequest(job_id=job_id)),
                    viewers["mine"].ReadLogs(pb.ReadLogsRequest(job_id=job_id, follow=True)),
                ):
                    code, details = await code_of(call)
                    seen.append((code, details.replace(job_id, "ID")))
            assert seen[:4] == seen[4:]
            assert {code for code, _ in seen} == {ABSENT}


async def log_of(stub: Any, job_id: str, **options: Any) -> dict[int, bytes]:
    """What the attempts of a job printed."""
    logs: dict[int, bytes] = {}
    async for part in stub.ReadLogs(pb.ReadLogsRequest(job_id=job_id, **options)):
        assert part.offset == len(logs.get(part.attempt, b"")) + options.get("offset", 0)
        logs[part.attempt] = logs.get(part.attempt, b"") + part.data
    return logs


async def new_job(client: RegistryClient, text: str) -> common_pb2.Job:
    spec = any_pb2.Any()
    spec.Pack(wrappers_pb2.StringValue(value=text))
    new = registry_pb2.NewJob(name="design", job_type=common_pb2.JOB_TYPE_DOE, spec=spec)
    return (await client.create_job(registry_pb2.CreateJobRequest(job=new))).job


async def test_logs_are_followed_to_the_end_of_a_running_job(
    client: RegistryClient, stub: Any, home: Path
) -> None:
    job = await new_job(client, '{"do": "steps", "count": 3, "seconds": 0.3}')

    async with asyncio.timeout(60):
        logs = await log_of(stub, job.job_id, follow=True)

    assert (await client.get_job(job.job_id)).status == common_pb2.STATUS_FINISHED
    written = (home / "logs" / "jobs" / job.job_id / "1.log").read_bytes()
    assert b"all steps done" in written
    assert logs == {1: written}
    assert await log_of(stub, job.job_id, attempt=1, offset=5) == {1: written[5:]}
    assert await log_of(stub, job.job_id, attempt=1, offset=2**63 - 1) == {}
    assert await log_of(stub, job.job_id, attempt=2) == {}
    code, details = await code_of(stub.ReadLogs(pb.ReadLogsRequest(job_id=job.job_id, offset=5)))
    assert (code, "attempt" in details) == (INVALID, True)


async def test_a_crash_is_followed_into_the_next_attempt(
    client: RegistryClient, stub: Any, home: Path
) -> None:
    job = await new_job(client, '{"do": "crash once"}')
    async with asyncio.timeout(120):
        logs = await log_of(stub, job.job_id, follow=True)
    await finished(client, job)
    folder = home / "logs" / "jobs" / job.job_id
    assert logs == {number: (folder / f"{number}.log").read_bytes() for number in (1, 2)}


async def test_a_caller_who_cancels_ends_the_reading(
    stub: Any, job: common_pb2.Job, home: Path
) -> None:
    folder = home / "logs" / "jobs" / job.job_id
    folder.mkdir(parents=True)
    (folder / "1.log").write_text("first\n")
    gc.collect()
    before = readings()
    call = stub.ReadLogs(pb.ReadLogsRequest(job_id=job.job_id, follow=True))
    assert (await call.read()).data == b"first\n"
    with (folder / "1.log").open("a") as file:
        file.write("second\n")
    assert (await call.read()).data == b"second\n"
    assert readings() == before + 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    async with asyncio.timeout(120):
        while readings() > before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def readings() -> int:
    """How many calls read logs in this process."""
    return sum(
        item.__name__ == "ReadLogs" and item.ag_frame is not None
        for item in gc.get_objects()
        if inspect.isasyncgen(item)
    )


async def test_a_service_that_stops_ends_the_following_at_once(
    module_registry: str, job: common_pb2.Job, home: Path, jobs_module: None
) -> None:
    folder = home / "logs" / "jobs" / job.job_id
    folder.mkdir(parents=True)
    (folder / "1.log").write_text("first\n")
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_stage(
            SERVICE,
            StageConfig(),
            home=home,
            registry_address=module_registry,
            stop=stop,
            on_bound=address.set_result,
        )
    )
    async with grpc.aio.insecure_channel(await address) as channel:
        call = ArtifactServiceStub(channel).ReadLogs(
            pb.ReadLogsRequest(job_id=job.job_id, follow=True)
        )
        assert (await call.read()).data == b"first\n"
        stop.set()
        code, details = await code_of(call)
    await serving
    assert (code, "the service stops" in details) == (grpc.StatusCode.UNAVAILABLE, True)

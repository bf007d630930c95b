"""Uploads through gRPC: resumed, refused, kept within limits, removed; and used as inputs."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import random
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import external, finished, refused, stage_serving
from vistaflow._machine.interpreter import module_command
from vistaflow.aio import AsyncClient
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.reception import Receiver
from vistaflow_services.ingestion.uploads import Uploads

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20
USERS = [
    {
        "user_id": f"user_{number}",
        "proposal_id": "1",
        "shopping": {"orders": [{"ordered_at": "2023-06-01T10:00:00+09:00", "items": []}]},
        "text": "가" * 50_000,
    }
    for number in range(20)
]
CONTENT = json.dumps(USERS, ensure_ascii=False).encode()


def header(content: bytes, name: str = "users.json", **fields: Any) -> pb.UploadHeader:
    values = {
        "upload_id": uuid.uuid4().hex,
        "file_name": name,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        **fields,
    }
    return pb.UploadHeader(**values)


def messages(
    header: pb.UploadHeader, content: bytes = b"", size: int = MIB
) -> Iterable[pb.UploadFileRequest]:
    """The messages of a whole call: the header, and the bytes from its offset on."""
    yield pb.UploadFileRequest(header=header)
    for start in range(header.offset, len(content), size):
        yield pb.UploadFileRequest(data=content[start : start + size])


async def received(ingestion: rpc.IngestionServiceAsyncStub, upload_id: str, count: int) -> None:
    """Waits until so many bytes of an upload are there."""
    question = pb.GetUploadRequest(upload_id=upload_id)
    async with asyncio.timeout(120):
        while True:
            try:
                if (await ingestion.GetUpload(question)).upload.received_bytes == count:
                    return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017
            await asyncio.sleep(0.02)


def settings(**values: Any) -> Config:
    """Settings of a service beside others on this machine."""
    return Config(listen="127.0.0.1:0", worker=uuid.uuid4().hex, warm=False, **values)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ingestion(
    module_registry: str, home: Path
) -> AsyncIterator[rpc.IngestionServiceAsyncStub]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        config = settings()
        async with stage_serving(SERVICE, config, home=home, registry=module_registry) as channel:
            yield rpc.IngestionServiceStub(channel)


async def test_an_interrupted_upload_goes_on_and_is_an_input(
    ingestion: rpc.IngestionServiceAsyncStub, module_registry: str, home: Path
) -> None:
    head = header(CONTENT, "C:\\data\\사용자.json")
    call = ingestion.UploadFile()
    await call.write(pb.UploadFileRequest(header=head))
    await call.write(pb.UploadFileRequest(data=CONTENT[:MIB]))
    await received(ingestion, head.upload_id, MIB)
    # While a call sends it, no other one may; and nobody reads a part of it.
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await ingestion.UploadFile(messages(head, CONTENT))
    assert raised.value.code() is grpc.StatusCode.ABORTED
    name = f"upload:{head.upload_id}"
    convert = pb.ConvertJsonRequest(file_names=[name], output_file_name="users")
    code, _ = await refused(ingestion.ConvertJson(convert))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    call.cancel()

    async with asyncio.timeout(120):
        while True:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await ingestion.UploadFile(messages(head, CONTENT))
            assert raised.value.code() is grpc.StatusCode.ABORTED
            if "goes on at 1,048,576" in (raised.value.details() or ""):
                break
    head.offset = MIB
    answer = await ingestion.UploadFile(messages(head, CONTENT, 300_000))
    assert (answer.upload.complete, answer.upload.received_bytes) == (True, len(CONTENT))
    assert answer.upload.file_name == "사용자.json"
    again = await ingestion.UploadFile(messages(head))  # nothing is sent
    assert again.upload.complete

    started = await ingestion.ConvertJson(convert)
    client = RegistryClient(module_registry, actor="test")
    await finished(client, started.job)
    await client.close()
    converted = await ingestion.GetConversion(pb.GetConversionRequest(job_id=started.job_id))
    assert (converted.status, converted.msg, converted.records) == ("DONE", "", 20)
    summary = pb.SummarizeShoppingRequest(user_id="user_3", proposal_id="1", file_name=name)
    assert (await ingestion.SummarizeShopping(summary)).months == ["06"]
    modes = {path.stat().st_mode & 0o077 for path in (home / "uploads", home / "uploads" / "_")}
    assert modes == {0}

    await ingestion.DeleteUpload(pb.DeleteUploadRequest(upload_id=head.upload_id))
    for call in (
        ingestion.ConvertJson(convert),
        ingestion.SummarizeShopping(summary),
        ingestion.GetUpload(pb.GetUploadRequest(upload_id=head.upload_id)),
        ingestion.DeleteUpload(pb.DeleteUploadRequest(upload_id=head.upload_id)),
    ):
        code, _ = await refused(call)
        assert code is grpc.StatusCode.NOT_FOUND
    assert list((home / "uploads" / "_").iterdir()) == []


async def test_what_is_wrong_is_named_and_leaves_nothing_to_read(
    ingestion: rpc.IngestionServiceAsyncStub,
) -> None:
    data, invalid = pb.UploadFileRequest(data=b"12"), grpc.StatusCode.INVALID_ARGUMENT
    good = header(b"1234")
    first = pb.UploadFileRequest(header=good)
    wrong_sum = header(b"1234", sha256="0" * 64)
    bad = header(b"", "../", upload_id="X", size_bytes=-1, sha256="ab", project="../x")
    fields = ("upload_id", "file_name", "size_bytes", "sha256", "project")
    for requests, names in (
        ([], ["header"]),
        ([data], ["header"]),
        ([first, first], ["header"]),
        ([pb.UploadFileRequest(header=bad)], [f"header.{field}" for field in fields]),
        ([first, pb.UploadFileRequest(data=bytes(MIB + 1))], ["data"]),
        ([first, data, data, data], ["data"]),
        ([first, data], ["header.size_bytes"]),
        ([pb.UploadFileRequest(header=wrong_sum), data, data], ["header.sha256"]),
    ):
        code, violations = await refused(ingestion.UploadFile(iter(requests)))
        assert (code, sorted(violations)) == (invalid, sorted(names))
    for head, count in ((good, 2), (wrong_sum, 0)):
        upload = (await ingestion.GetUpload(pb.GetUploadRequest(upload_id=head.upload_id))).upload
        assert (upload.complete, upload.received_bytes) == (False, count)
    other = header(b"12345", upload_id=good.upload_id)
    code, _ = await refused(ingestion.UploadFile(messages(other, b"12345")))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    code, violations = await refused(
        ingestion.ConvertJson(
            pb.ConvertJsonRequest(file_names=["upload:../x"], output_file_name="x")
        )
    )
    assert (code, set(violations)) == (invalid, {"file_names[0]"})


async def test_an_upload_is_free_as_soon_as_its_call_has_failed(tmp_path: Path) -> None:
    receiver = Receiver(Uploads(tmp_path, settings()), 60)
    head = header(b"1234", sha256="0" * 64)

    async def requests() -> AsyncIterator[pb.UploadFileRequest]:
        for message in messages(head, b"1234"):
            yield message

    async def accepted() -> None:
        """Nobody waits for it."""

    folder = None
    for _ in range(50):
        with pytest.raises(InvalidError, match="the beginning"):
            await receiver.receive(requests(), Caller(), accepted)
        if folder is None:
            folder = os.open(tmp_path / "_" / head.upload_id, os.O_RDONLY)
        else:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(folder, fcntl.LOCK_UN)
    assert folder is not None
    os.close(folder)


async def test_an_upload_stays_within_its_limits(module_registry: str, tmp_path: Path) -> None:
    content = bytes(2 * MIB)
    config = settings(upload_quota_bytes=3 * MIB)
    service = stage_serving(SERVICE, config, home=tmp_path, registry=module_registry)
    async with service as channel:
        ingestion = rpc.IngestionServiceStub(channel)
        # Both fit when they begin; the quota is reached while the second one is sent.
        heads, calls = [header(content), header(content)], []
        for head in heads:
            call = ingestion.UploadFile()
            await call.write(pb.UploadFileRequest(header=head))
            await call.write(pb.UploadFileRequest(data=content[:MIB]))
            await received(ingestion, head.upload_id, MIB)
            calls.append(call)
        await calls[0].write(pb.UploadFileRequest(data=content[MIB:]))
        await calls[0].done_writing()
        assert (await calls[0]).upload.complete
        await calls[1].write(pb.UploadFileRequest(data=content[MIB:]))
        code, _ = await refused(calls[1])
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError, match="3,145,728 of at most 3,145,728 bytes"):
            await ingestion.UploadFile(messages(header(b"1"), b"1"))
        await ingestion.DeleteUpload(pb.DeleteUploadRequest(upload_id=heads[0].upload_id))
        heads[1].offset = MIB
        assert (await ingestion.UploadFile(messages(heads[1], content))).upload.complete


async def test_the_disk_keeps_its_reserve_and_nothing_stays_for_good(
    module_registry: str, tmp_path: Path
) -> None:
    config = settings(upload_reserve_bytes=1 << 60)
    service = stage_serving(SERVICE, config, home=tmp_path, registry=module_registry)
    async with service as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="nearly full") as raised:
            await rpc.IngestionServiceStub(channel).UploadFile(messages(header(b"1"), b"1"))
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    config = settings(upload_days=2 / 86_400, upload_idle_seconds=1)
    service = stage_serving(SERVICE, config, home=tmp_path, registry=module_registry)
    async with service as channel:
        ingestion = rpc.IngestionServiceStub(channel)
        (tmp_path / "uploads" / "_" / ".removed-by-halves").mkdir()
        await ingestion.UploadFile(messages(header(b"1"), b"1"))
        async with asyncio.timeout(120):
            while any((tmp_path / "uploads" / "_").iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        # A caller that sends nothing more does not hold its place.
        call = ingestion.UploadFile()
        await call.write(pb.UploadFileRequest(header=header(b"1")))
        with pytest.raises(grpc.aio.AioRpcError, match="less than 1 MiB arrived within 1 s"):
            await call


class Killed:
    """Ingestion as a process of its own, killed and started again."""

    def __init__(self, home: Path, registry: str) -> None:
        self._environment = {
            **os.environ,
            "VISTAFLOW_HOME": str(home),
            "VISTAFLOW_REGISTRY": registry,
            "VISTAFLOW_INGESTION_LISTEN": "127.0.0.1:0",
            "VISTAFLOW_INGESTION_WARM": "0",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            module_command("vistaflow_services.ingestion"),
            env=self._environment,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


async def test_files_go_on_in_both_directions_after_a_kill(database: str, tmp_path: Path) -> None:
    content = random.Random(1).randbytes(32 * MIB)
    (tmp_path / "large.bin").write_bytes(content)
    places: list[int] = []
    killed_at = 0

    def progress(sent: int, size: int) -> None:
        nonlocal killed_at
        places.append(sent)
        parts = list(tmp_path.glob("uploads/_/*/part"))
        if not killed_at and parts and parts[0].stat().st_size >= MIB:
            killed_at = len(places)
            service.kill()
            service.start()

    async with (
        serving(database) as running,
        AsyncClient(running.address, timeout=120) as client,
    ):
        service = Killed(tmp_path, running.address)
        service.start()
        try:
            upload_id = await client.upload(tmp_path / "large.bin", progress=progress)
            assert killed_at
            assert 0 not in places[killed_at:]
            assert (await client.get_upload(upload_id)).complete

            registry = RegistryClient(running.address, actor="test")
            job = await external(registry, "DECK_COLLECTION", {})
            await registry.close()
            uri = f"artifact://jobs/{job.job_id}/1/large.bin"
            artifact = tmp_path / "artifacts" / uri.removeprefix("artifact://")
            artifact.parent.mkdir(parents=True)
            artifact.write_bytes(content)
            blocks = client._content(uri)
            received = bytearray(await anext(blocks))
            service.kill()
            service.start()
            async for block in blocks:
                received += block
            assert received == content
        finally:
            service.kill()

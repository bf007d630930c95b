"""Artifacts and logs read by the client and the commands on a machine without the files."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import any_pb2, wrappers_pb2

import vistaflow
from tests.integration.core.stage_under_test import SERVICE
from tests.integration.stages import external, finished, stage_serving
from vistaflow._machine.interpreter import module_command
from vistaflow.aio import AsyncClient
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.stage import StageConfig
from vistaflow_services.ingestion.__main__ import SERVICE as INGESTION
from vistaflow_services.ingestion.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the services, which the client does not know."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def data_root(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root, and the settings of the services."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "core"))
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"data={folder}")
        yield folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(module_registry: str, home: Path, data_root: Path) -> AsyncIterator[str]:
    """The registry of a suite whose services have announced themselves."""
    common: Mapping[str, Any] = {"home": home, "registry": module_registry}
    async with (
        stage_serving(SERVICE, StageConfig(), **common),
        stage_serving(INGESTION, Config(listen="127.0.0.1:0"), **common),
        AsyncClient(module_registry) as client,
    ):
        async with asyncio.timeout(120):
            while len((await client.server_info()).services) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield module_registry


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registry_client(address: str) -> AsyncIterator[RegistryClient]:
    client = RegistryClient(address, actor="test")
    yield client
    await client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address) as client:
        yield client


async def published(
    registry: RegistryClient, home: Path, content: bytes, *, sha256: str = ""
) -> tuple[common_pb2.Job, str]:
    """A finished job with one picture, and its URI."""
    job = await external(registry, "DOE")
    uri = f"artifact://jobs/{job.job_id}/1/plots/design.png"
    path = home / "artifacts" / uri.removeprefix("artifact://")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    row = common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_FINISHED, seq=2)
    digest = sha256 or hashlib.sha256(content).hexdigest()
    row.metadata.update({"result": {"plots": [{"uri": uri, "sha256": digest}]}})
    await registry.append([row])
    return job, uri


async def command(*arguments: str, address: str, folder: Path) -> tuple[int, str]:
    """Runs a command with a home of its own: its exit code and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *module_command("vistaflow.cli.app"),
        *arguments,
        env={
            **os.environ,
            "VISTAFLOW_REGISTRY": address,
            "VISTAFLOW_HOME": str(folder / "elsewhere"),
        },
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_files_are_listed_read_and_downloaded(
    client: AsyncClient, registry_client: RegistryClient, home: Path, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(10 * MEBIBYTE)
    _, uri = await published(registry_client, home, content)

    entries = await client.list_artifacts(uri.rpartition("/")[0])

    assert [(entry.name, entry.size_bytes) for entry in entries] == [("design.png", len(content))]
    assert await client.read_artifact(uri) == content
    assert await client.download(uri, tmp_path) == tmp_path / "design.png"
    assert (tmp_path / "design.png").read_bytes() == content
    blocking = await asyncio.to_thread(_read_blocking, client.address, uri)
    assert blocking == content


def _read_blocking(address: str, uri: str) -> bytes:
    with vistaflow.connect(address) as client:
        return client.read_artifact(uri)


async def test_a_failed_download_leaves_no_file(
    client: AsyncClient, registry_client: RegistryClient, home: Path, tmp_path: Path
) -> None:
    _, altered = await published(registry_client, home, b"altered", sha256="0" * 64)
    with pytest.raises(FailedPreconditionError, match="not what was published"):
        await client.download(altered, tmp_path / "a.png")
    with pytest.raises(NotFoundError):
        await client.download(f"{altered}.missing", tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match="artifact://jobs/"):
        await client.download("artifact://decks/a", tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match="path"):
        await client.download(altered, tmp_path / "missing" / "a.png")
    assert os.listdir(tmp_path) == []


async def test_the_logs_of_a_running_job_are_followed_by_client_and_command(
    client: AsyncClient,
    registry_client: RegistryClient,
    address: str,
    home: Path,
    tmp_path: Path,
) -> None:
    spec = any_pb2.Any()
    spec.Pack(wrappers_pb2.StringValue(value='{"do": "steps", "count": 3, "seconds": 0.2}'))
    new = registry_pb2.NewJob(name="design", job_type=common_pb2.JOB_TYPE_DOE, spec=spec)
    job = (await registry_client.create_job(registry_pb2.CreateJobRequest(job=new))).job

    async with asyncio.timeout(120):
        (code, output), *_ = await asyncio.gather(
            command("logs", job.job_id, "-f", address=address, folder=tmp_path),
            finished(registry_client, job),
        )
        lines = [line async for line in client.logs(job.job_id, follow=True)]

    written = (home / "logs" / "jobs" / job.job_id / "1.log").read_text().splitlines()
    assert lines == written
    assert (code, output.splitlines()) == (0, written)
    code, output = await command(
        "logs", str(job.kit_id), "-n", "2", address=address, folder=tmp_path
    )
    assert (code, output.splitlines()) == (0, [f"design: {line}" for line in written[-2:]])
    with pytest.raises(NotFoundError):
        await anext(client.logs("00000000-0000-4000-8000-000000000000"))


async def test_the_pictures_of_a_kit_are_copied_to_this_machine(
    registry_client: RegistryClient, address: str, home: Path, tmp_path: Path
) -> None:
    job, uri = await published(registry_client, home, b"picture")

    code, output = await command("show", str(job.kit_id), address=address, folder=tmp_path)

    copy = tmp_path / "elsewhere" / "pictures" / uri.removeprefix("artifact://")
    assert (code, f"picture: {copy}" in output) == (0, True)
    assert copy.read_bytes() == b"picture"


async def test_a_conversion_is_copied_to_a_folder_of_this_machine(
    client: AsyncClient, address: str, data_root: Path, tmp_path: Path
) -> None:
    users = [{"user": number, "주문": [{"price": 1.5}, {"price": number}]} for number in range(5)]
    (data_root / "users.json").write_text(json.dumps(users, ensure_ascii=False))

    code, output = await command(
        "convert", "data/users.json", "-n", "users", "--max-rows", "2", "--json",
        "--to", str(tmp_path / "out"), address=address, folder=tmp_path,
    )  # fmt: skip

    assert code == 0, output
    files = {file["file_name"]: file["sha256"] for file in json.loads(output)["files"]}
    assert {"users_1.csv", "users_2.csv", "users_3.csv", "users.주문_1.csv"} <= set(files)
    assert files == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (tmp_path / "out").iterdir()
    }
    jobs = [job.job_id async for job in client.jobs()]
    code, output = await command(
        "convert", "data/users.json", "--output", "data/copies", "--to", "out",
        address=address, folder=tmp_path,
    )  # fmt: skip
    assert code == 2, output
    assert [job.job_id async for job in client.jobs()] == jobs
    assert "output: data/copies is a folder of a data root" in output


async def test_files_that_the_service_does_not_see_are_sent_to_it(
    client: AsyncClient, address: str, home: Path, data_root: Path, tmp_path: Path
) -> None:
    # A name in a data root is that of the service's file; `./` is this machine's.
    (data_root / "both.json").write_text('[{"place": "root"}]')
    (tmp_path / "both.json").write_text('[{"place": "here"}]')
    (tmp_path / "here.json").write_text('[{"place": "here, too"}]')
    code, output = await command(
        "convert", "both.json", "./both.json", "here.json", "-n", "sent", "--json",
        "--merge", "--to", "out", address=address, folder=tmp_path,
    )  # fmt: skip
    assert code == 0, output
    rows = list(csv.DictReader((tmp_path / "out" / "sent_1.csv").read_text().splitlines()))
    assert [row["place"] for row in rows] == ["root", "here", "here, too"]

    sent: list[tuple[int, int]] = []
    upload_id = await client.upload(
        tmp_path / "here.json", progress=lambda count, size: sent.append((count, size))
    )
    assert sent == [(24, 24), (24, 24)]
    code, output = await command("upload", "here.json", address=address, folder=tmp_path)
    assert (code, output) == (0, f"upload:{upload_id}\n")
    assert len(list((home / "uploads" / "_").iterdir())) == 2  # each was sent once
    await client.delete_upload(upload_id)
    with pytest.raises(NotFoundError, match="no upload"):
        await client.get_upload(upload_id)
    with pytest.raises(InvalidArgumentError, match="there is no file"):
        await client.upload(tmp_path / "none.json")
    purchases = {"user_id": "u", "proposal_id": "1", "shopping": {"orders": []}}
    (tmp_path / "bought.json").write_text(json.dumps([purchases]))
    summary = await client.summarize_shopping(str(tmp_path / "bought.json"), "u", "1")
    assert summary == {"months": [], "categories": {}}
    # What is wrong besides is named before anything is sent.
    with pytest.raises(InvalidArgumentError, match="delimiter"):
        await client.convert(tmp_path / "here.json", "x", delimiter="ab")
    with pytest.raises(NotFoundError):
        await client.get_upload(upload_id)


async def test_the_log_of_a_service_is_followed_into_its_next_file(
    client: AsyncClient, address: str, home: Path, tmp_path: Path
) -> None:
    log = home / "logs" / "registry.jsonl"
    log.write_text('{"time": "2026-01-01T00:00:00", "level": "INFO", "message": "one"}\ntwo\n')

    code, output = await command("logs", "registry", "-n", "1", address=address, folder=tmp_path)
    assert (code, output) == (0, "registry: two\n")
    lines = []
    async with asyncio.timeout(120):
        async for line in client.service_logs("registry", follow=True):
            lines.append(line)
            if line == "two":
                # As a service does it: the last line of a file, and the first one of the next.
                with log.open("a") as file:
                    file.write("three\n")
                log.rename(log.with_name("registry.jsonl.1"))
                log.write_text("four\n")
            if line == "four":
                break
    assert lines[1:] == ["two", "three", "four"]
    code, output = await command("logs", "nobody", address=address, folder=tmp_path)
    assert (code, "no service `nobody` logs here" in output) == (1, True)
    with pytest.raises(InvalidArgumentError, match="service"):
        await anext(client.service_logs("../registry"))

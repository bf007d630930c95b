"""Conversions whose input lies in a bucket, through gRPC and a real S3 server."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import grpc
import obstore
import pytest
from obstore.store import S3Store

from tests.integration.stages import finished, refused, stage_serving
from tests.integration.stores.conftest import SECRET, environment, make_bucket
from vistaflow.aio import AsyncClient
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.errors import InvalidArgumentError, KitFailedError
from vistaflow_services.core.errors import NotFoundError, UnavailableError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.work.spawner import child_environment
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.buckets import LOCKS, BucketOutput
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.inputs import source_of
from vistaflow_services.stores.bucket import connect
from vistaflow_services.stores.opening import aws_variables
from vistaflow_services.stores.roots import Input, Root
from vistaflow_services.tables.conversion import (
    Conversion,
    Converted,
    EngineName,
    Hooks,
    Part,
    Progress,
)
from vistaflow_services.tables.run import convert


def test_only_the_jobs_that_need_credentials_get_them() -> None:
    variables = {"AWS_SECRET_ACCESS_KEY": "a", "LAKE_AWS_SECRET_ACCESS_KEY": "b", "MY_SECRET": "c"}

    assert not set(variables) & set(child_environment((), variables))
    given = child_environment(SERVICE.credentials, variables)
    assert set(variables) & set(given) == {"AWS_SECRET_ACCESS_KEY", "LAKE_AWS_SECRET_ACCESS_KEY"}


async def test_a_file_of_a_bucket_is_converted(
    registry: str, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(moto)
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    store = connect("lake", bucket, "raw", aws_variables("lake", environment(moto)))
    obstore.put(store, "2024/x.json", b'[{"a": 1.10}, {"a": "b"}]')
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"lake=s3://{bucket}/raw")
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    client = RegistryClient(registry)
    config = Config(listen="127.0.0.1:0")
    async with stage_serving(SERVICE, config, home=tmp_path, registry=registry) as channel:
        ingestion = rpc.IngestionServiceStub(channel)
        request = pb.ConvertJsonRequest(file_names=["lake/2024/x.json"], output_file_name="x")
        started = await ingestion.ConvertJson(request)
        await finished(client, started.job)
        question = pb.GetConversionRequest(job_id=started.job_id)
        answer = await ingestion.GetConversion(question)
        assert (answer.status, answer.msg, answer.records) == ("DONE", "", 2)

        request.file_names[:] = ["lake/2024/none.json"]
        started = await ingestion.ConvertJson(request)
        await finished(client, started.job)
        question = pb.GetConversionRequest(job_id=started.job_id)
        answer = await ingestion.GetConversion(question)
        assert answer.status == "FAILED"
        assert "lake/2024/none.json cannot be read" in answer.msg
        assert bucket not in answer.msg
        assert SECRET not in answer.msg

        request.file_names[:] = ["s3://elsewhere/x.json"]
        code, _ = await refused(ingestion.ConvertJson(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    await client.close()


async def test_the_output_of_a_conversion_is_put_into_a_bucket(
    registry: str, moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(moto)
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    store = connect("lake", bucket, "data", aws_variables("lake", environment(moto)))
    for number in (1, 2):
        text = json.dumps([{"a": number, "b": place} for place in range(9)])
        obstore.put(store, f"{number}.json", text.encode())
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"lake=s3://{bucket}/data")
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    config = Config(listen="127.0.0.1:0")
    async with (
        stage_serving(SERVICE, config, home=tmp_path, registry=registry),
        AsyncClient(registry) as client,
    ):

        async def converted(source: str, **options: Any) -> pb.GetConversionResponse:
            options = {"output": "lake/out", "max_csv_rows": 2, **options}
            job = await client.convert(source, "x", **options)
            with contextlib.suppress(KitFailedError):
                await client.wait(job.kit_id)
            return await client.conversion(job.job_id)

        answer = await converted("lake/1.json")
        assert (answer.status, answer.msg, answer.output) == ("DONE", "", "lake/out")
        objects = contents(store, "out")
        assert {name: sha256(objects[name]) for name in objects if name != "x.manifest.json"} == {
            file.file_name: file.sha256 for file in answer.files
        }
        paths = await client.download_conversion(answer.job.job_id, tmp_path / "copy")
        assert [path.read_bytes() for path in paths] == [objects[path.name] for path in paths]
        # The same again is no other conversion; another one does not replace it.
        again = await converted("lake/1.json", output=f"s3://{bucket}/data/out")
        assert (again.status, again.output) == ("DONE", "lake/out")
        answer = await converted("lake/2.json")
        assert (answer.status, "choose another name" in answer.msg) == ("FAILED", True)
        assert contents(store, "out") == objects
        answer = await converted("lake/2.json", format="TABLE_FORMAT_PARQUET")
        assert (answer.status, contents(store, "out")) == ("FAILED", objects)
        with pytest.raises(InvalidArgumentError, match="output"):
            await client.convert("lake/1.json", "x", output="lake/../out")


def test_a_bucket_that_goes_away_in_the_middle_is_a_clear_error_and_leaves_nothing(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket(moto)
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    store = connect("lake", bucket, "", aws_variables("lake", environment(moto)))
    records = b",".join(b'{"n":%d,"v":"%s"}' % (n, b"x" * 1000) for n in range(20_000))
    obstore.put(store, "x.json", b"[" + records + b"]")
    entry = Input(
        root=Root(name="lake", project="", url=f"s3://{bucket}"), path=PurePosixPath("x.json")
    )
    options = Conversion(output_file_name="out", engine=EngineName.PYTHON)
    version = source_of(entry, None).version

    def gone(progress: Progress) -> None:
        obstore.delete(store, "x.json")

    with pytest.raises((NotFoundError, UnavailableError), match="lake") as raised:
        convert([source_of(entry, None)], options, output=tmp_path, hooks=Hooks(progress=gone))

    assert bucket not in raised.value.message
    assert [path.name for path in tmp_path.iterdir()] == [".out.conversion"]
    obstore.put(store, "x.json", b"[" + records.upper() + b"]")
    assert source_of(entry, None).version != version


def test_a_name_in_a_bucket_is_for_one_conversion_at_a_time(tmp_path: Path) -> None:
    held, other = (
        BucketOutput(
            Input(root=Root(name="lake", project="", url="s3://lake"), path=PurePosixPath(folder)),
            "x.manifest.json",
            "i",
        )
        for folder in ("a", "b")
    )
    command = [sys.executable, "-c", SECOND, str(tmp_path)]

    with held.sole_use(tmp_path / LOCKS):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    with other.sole_use(tmp_path / LOCKS):
        accepted = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "another conversion to lake/a of this name is running" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


SECOND = """
import sys
from pathlib import Path, PurePosixPath
from vistaflow_services.ingestion.buckets import LOCKS, BucketOutput
from vistaflow_services.stores.roots import Input, Root
place = Input(root=Root(name="lake", project="", url="s3://lake"), path=PurePosixPath("a"))
with BucketOutput(place, "x.manifest.json", "another").sole_use(Path(sys.argv[1], LOCKS)):
    pass
"""


def test_an_output_in_a_bucket_goes_on_after_a_kill(moto: str, tmp_path: Path) -> None:
    bucket = make_bucket(moto)
    place = Input(root=Root(name="lake", project="", url=f"s3://{bucket}"), path=PurePosixPath("a"))
    parts = []
    for number in range(1, 6):
        name = f"x_{number}.csv"
        (tmp_path / name).write_text(f"a\n{number}\n")
        parts.append(Part(file_name=name, table="", part=number, rows=1, size_bytes=4, sha256=""))
    (tmp_path / "x.manifest.json").write_text('{"identity": "i"}')
    converted = Converted(
        manifest_name="x.manifest.json",
        records=5,
        inputs=(),
        parts=tuple(parts),
        map_paths=(),
        engines={},
    )
    (tmp_path / "call").write_bytes(pickle.dumps((place, converted)))
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, **environment(moto)}, check=False)
    store = connect("lake", bucket, "", aws_variables("lake", environment(moto)))

    assert ended.returncode == -signal.SIGKILL
    assert set(contents(store, "a")) == {"x_1.csv", "x_2.csv"}
    (tmp_path / "x_1.csv").unlink()  # it is not read again
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(moto).items():
            patch.setenv(name, value)
        BucketOutput(place, "x.manifest.json", "i").put(tmp_path, converted, Hooks())
    files = contents(store, "a")
    assert files.pop("x.manifest.json") == b'{"identity": "i"}'
    assert files == {f"x_{number}.csv": f"a\n{number}\n".encode() for number in range(1, 6)}


KILLED = """
import os, pickle, signal, sys
from pathlib import Path
from vistaflow_services.ingestion.buckets import BucketOutput
from vistaflow_services.tables.conversion import Hooks
folder, asked = Path(sys.argv[1]), []
def killed():
    asked.append(1)
    if len(asked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return False
place, converted = pickle.loads((folder / "call").read_bytes())
BucketOutput(place, "x.manifest.json", "i").put(folder, converted, Hooks(canceled=killed))
"""


def contents(store: S3Store, folder: str) -> dict[str, bytes]:
    """The objects in a folder of a bucket, by name."""
    return {
        meta["path"].rpartition("/")[2]: bytes(obstore.get(store, meta["path"]).bytes())
        for page in obstore.list(store, folder)
        for meta in page
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

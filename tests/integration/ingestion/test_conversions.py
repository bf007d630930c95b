"""Conversions through gRPC, on a real registry: files in, tables out, nothing secret recorded."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from google.protobuf import any_pb2

from tests.disks import small_disk
from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import finished, kill, refused, stage_serving, until
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "894d2fce882339606bf0788d5576843f0b9773ff6b1f8f8a5a9290cc876155a7"
IV = "624cce1ae8d045fe4f3c6869f728ead3"
USERS = [
    {
        "user_id": f"user_{number}",
        "proposal_id": 10**18 + number,
        "shopping": {
            "orders": [
                {
                    "ordered_at": f"2023-0{month}-01T10:00:00+09:00",
                    "items": [
                        {"category": "생활/건강", "sub_category": "생활용품", "price": 1.10},
                        {"category": "식품", "sub_category": "건강식품", "price": 2000},
                    ],
                }
                for month in (6, 7)
            ]
        },
    }
    for number in range(25)
]


@dataclass(frozen=True)
class Suite:
    """A registry and ingestion, both serving, and a data root."""

    ingestion: rpc.IngestionServiceAsyncStub
    registry: RegistryClient
    home: Path
    data: Path
    database: str

    async def converted(self, request: pb.ConvertJsonRequest) -> pb.GetConversionResponse:
        """A conversion that has ended."""
        answer = await self.ingestion.ConvertJson(request)
        await finished(self.registry, answer.job)
        result: pb.GetConversionResponse = await self.ingestion.GetConversion(
            pb.GetConversionRequest(job_id=answer.job_id)
        )
        return result

    def rows(self, answer: pb.GetConversionResponse, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of a conversion."""
        folder = self.home / "artifacts" / answer.output.removeprefix("artifact://")
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    (data / "users.json").write_text(json.dumps(USERS), encoding="utf-8")
    (data / "more.ndjson").write_text(
        "".join(json.dumps(user) + "\n" for user in USERS[:5]), encoding="utf-8"
    )
    (data / "users.json.aes").write_bytes(encrypted(json.dumps(USERS).encode()))
    (data / "broken.json").write_text('[{"a": 1}, {"a": ', encoding="utf-8")
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / "mydata").write_text(json.dumps({"aes256cbckey": KEY, "iv": IV}), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
        patch.setenv("VISTAFLOW_INGESTION_KEY_FOLDER", str(secrets))
        patch.setenv("VISTAFLOW_INGESTION_CONVERT_WORKERS", "2")
        config = Config(listen="127.0.0.1:0", key_folder=secrets)
        async with (
            serving(module_database) as serving_registry,
            stage_serving(SERVICE, config, home=home, registry=serving_registry.address) as channel,
        ):
            registry = RegistryClient(serving_registry.address, actor="test")
            yield Suite(
                ingestion=rpc.IngestionServiceStub(channel),
                registry=registry,
                home=home,
                data=data,
                database=module_database,
            )
            await registry.close()


def encrypted(plain: bytes, key: str = KEY) -> bytes:
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(bytes.fromhex(key)), modes.CBC(bytes.fromhex(IV))).encryptor()
    return cipher.update(padder.update(plain) + padder.finalize()) + cipher.finalize()


async def test_a_file_becomes_numbered_parts_with_child_tables(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(
            file_names=["raw/users.json"], output_file_name="users", max_csv_rows=10
        )
    )

    assert (answer.status, answer.msg, answer.records) == ("DONE", "", 25)
    files = {file.file_name: file for file in answer.files}
    assert [files[f"users_{part}.csv"].rows for part in (1, 2, 3)] == [10, 10, 5]
    assert files["users.shopping.orders_1.csv"].rows == 10
    rows = suite.rows(answer, "users_1.csv")
    assert rows[0]["user_id"] == "user_0"
    assert rows[0]["proposal_id"] == "1000000000000000000"
    folder = suite.home / "artifacts" / answer.output.removeprefix("artifact://")
    for name, file in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file.sha256
    assert {table.table: table.rows for table in answer.tables}[""] == 25
    content = (suite.data / "users.json").read_bytes()
    manifest = json.loads((folder / "users.manifest.json").read_bytes())
    (read,) = manifest["inputs"]
    assert (read["size_bytes"], read["sha256"]) == (
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
    assert read["version"] == str((suite.data / "users.json").stat().st_mtime_ns)
    lineage = await suite.registry.stub.GetLineage(
        registry_pb2.GetLineageRequest(job_id=answer.job.job_id)
    )
    assert [node.sha256 for node in lineage.nodes if node.name == "raw/users.json"] == [
        read["sha256"]
    ]


async def test_the_request_of_the_users_runs_as_it_is(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(
            file_names=[str(suite.data / "users.json.aes"), "/users.json.aes"],
            output_file_name="csv_file_name",
            merge=True,
            aes256cbckey=KEY,
            iv=IV,
        )
    )

    assert answer.status == "DONE", answer.msg
    assert answer.records == 50
    assert len(suite.rows(answer, "csv_file_name_1.csv")) == 50


async def test_no_secret_is_anywhere_after_a_kill(
    suite: Suite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before, key, canary = temporary(), os.urandom(32).hex(), f"canary {uuid.uuid4()}"
    # In the output the spaces between elements are gone: so this is the plaintext and nothing else.
    row = f'{{"id": 1, "text": ["{canary}",  "{"x" * 500}"]}}\n'
    (suite.data / "secret.aes").write_bytes(encrypted(row.encode() * 60_000, key))
    (suite.data / "cut.aes").write_bytes(encrypted(row.encode() * 3_000 + b'{"id": ', key))

    def request(name: str, key: str) -> pb.ConvertJsonRequest:
        return pb.ConvertJsonRequest(
            request_id=str(uuid.uuid4()),
            file_names=[f"raw/{name}.aes"],
            output_file_name=name,
            max_csv_rows=1_000,
            aes256cbckey=key,
            iv=IV,
        )

    asked = request("secret", key)
    started = await suite.ingestion.ConvertJson(asked)
    assert (await suite.ingestion.ConvertJson(asked)).job_id == started.job_id
    folder = suite.home / "artifacts" / "jobs" / started.job_id / "conversion"
    await until(lambda: any(file.stat().st_size for file in folder.rglob("*.csv")))
    kill(suite.home, started.job_id, 1)
    failures = [
        await suite.converted(request(name, its_key))
        for name, its_key in (("cut", key), ("secret", "00" * 32))
    ]
    job = await finished(suite.registry, started.job)
    done = await suite.ingestion.GetConversion(pb.GetConversionRequest(job_id=job.job_id))

    assert [failure.status for failure in failures] == ["FAILED", "FAILED"]
    assert (done.status, job.attempt) == ("DONE", 2), done.msg
    recorded = b"".join(
        message.SerializeToString() for message in (job, done, *failures)
    ) + caplog.text.encode("utf-8", "replace")
    recorded += await dump(suite.database)
    outputs = 0
    for file in (
        file
        for top in (suite.home, suite.data, *(temporary() - before))
        for file in (top, *top.rglob("*"))
        if file.is_file()
    ):
        content = file.read_bytes()
        assert f'"{canary}",  "'.encode() not in content, file
        if "conversion" in file.parts:  # the output, which is plaintext
            outputs += canary.encode() in content
        else:
            recorded += content
    assert outputs
    raw = bytes.fromhex(key)
    for secret in (raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b64encode(raw)[:-1]):
        assert secret not in recorded
        assert secret.hex().encode() not in recorded  # in bytes, as the dump shows them
    assert canary.encode() not in recorded


def temporary() -> set[Path]:
    """What is in the folders for temporary files, except that of other tests."""
    others = ("pytest-of-", "vistaflow-test-")
    folders = {Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())}
    entries = (entry for folder in folders if folder.is_dir() for entry in folder.iterdir())
    return {entry for entry in entries if not entry.name.startswith(others)}


async def dump(database: str) -> bytes:
    """All rows of all tables of a database."""
    rows: list[str] = []
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384"
        )
        for (table,) in await cursor.fetchall():
            cursor = await connection.execute(f"SELECT t::text FROM {table} AS t")
            rows += [row[0] for row in await cursor.fetchall()]
    assert len(rows) > 10
    return "\n".join(rows).encode("utf-8", "surrogatepass")


async def test_a_key_may_be_the_operators(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(
            file_names=["raw/users.json.aes"], output_file_name="named", key_ref="mydata"
        )
    )

    assert answer.status == "DONE", answer.msg
    code, _ = await refused(
        suite.ingestion.ConvertJson(
            pb.ConvertJsonRequest(
                file_names=["raw/users.json.aes"], output_file_name="x", key_ref="y"
            )
        )
    )
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_spec_that_the_service_did_not_seal_is_not_run(suite: Suite) -> None:
    spec = any_pb2.Any()
    spec.Pack(
        pb.ConvertSpec(
            request=pb.ConvertJsonRequest(file_names=["raw/users.json"], output_file_name="forged")
        )
    )
    new = registry_pb2.NewJob(job_type=common_pb2.JOB_TYPE_CONVERT, spec=spec)
    created = await suite.registry.create_job(registry_pb2.CreateJobRequest(job=new))
    job = await finished(suite.registry, created.job)

    assert job.status == common_pb2.STATUS_FAILED
    assert "NOT_SEALED" in job.reason


async def test_every_mistake_is_named_before_anything_is_queued(suite: Suite) -> None:
    code, violations = await refused(
        suite.ingestion.ConvertJson(
            pb.ConvertJsonRequest(
                file_names=["raw/users.json"],
                output_file_name="../x",
                max_csv_rows=-1,
                delimiter="ab",
            )
        )
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations) == {"output_file_name", "max_csv_rows", "delimiter"}
    for name in ("raw/../x.json", "raw/", "other/x.json"):
        request = pb.ConvertJsonRequest(file_names=[name], output_file_name="x")
        code, _ = await refused(suite.ingestion.ConvertJson(request))
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), name
    request = pb.ConvertJsonRequest(
        file_names=["raw/users.json"], output_file_name="x", aes256cbckey=KEY[:-1], iv=IV
    )
    code, violations = await refused(suite.ingestion.ConvertJson(request))
    assert set(violations) == {"aes256cbckey"}
    assert KEY[:-1] not in str(violations)


async def test_an_output_is_in_a_data_root_and_nothing_is_made_outside(suite: Suite) -> None:
    outside = suite.home / "outside"
    outside.mkdir()
    (suite.data / "link").symlink_to(outside)
    for output in ("raw/link/new", "raw/../x", "other", str(outside), "s3://other/x", "raw\0"):
        request = pb.ConvertJsonRequest(
            file_names=["raw/users.json"], output_file_name="x", output=output
        )
        code, violations = await refused(suite.ingestion.ConvertJson(request))
        assert (code, list(violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["output"]), output
    assert list(outside.iterdir()) == []


async def test_a_broken_file_fails_with_its_place_and_no_path(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(file_names=["raw/broken.json"], output_file_name="broken")
    )

    assert answer.status == "FAILED"
    assert "raw/broken.json" in answer.msg
    assert "byte" in answer.msg
    assert str(suite.data) not in answer.msg
    assert "Traceback" not in answer.msg


async def test_a_name_of_a_folder_is_for_one_conversion_of_one_content(suite: Suite) -> None:
    def of(name: str) -> pb.ConvertJsonRequest:
        fields = {"file_names": [f"raw/{name}"], "output_file_name": "same", "output": "raw/out"}
        return pb.ConvertJsonRequest(**fields)  # type: ignore[arg-type]

    text = "\n".join(json.dumps({"n": number}) for number in range(10_000, 30_000))
    for name in ("a.json", "b.json"):
        (suite.data / name).write_text(text, encoding="ascii")
    answers = await asyncio.gather(*(suite.converted(of(name)) for name in ("a.json", "b.json")))

    assert sorted(answer.status for answer in answers) == ["DONE", "FAILED"]
    (failed,) = (answer for answer in answers if answer.status == "FAILED")
    assert "choose another name" in failed.msg
    (done,) = (answer for answer in answers if answer.status == "DONE")
    (file,) = done.files
    assert sorted(path.name for path in (suite.data / "out").iterdir()) == [
        "same.manifest.json",
        "same_1.csv",
    ]
    assert hashlib.sha256((suite.data / "out" / "same_1.csv").read_bytes()).hexdigest() == (
        file.sha256
    )
    # Only its end differs, so neither its size nor its beginning tells.
    name = done.request.file_names[0].removeprefix("raw/")
    (suite.data / name).write_text(f"{text[:-2]}7}}", encoding="ascii")
    assert (await suite.converted(of(name))).status == "FAILED"


async def test_the_views_say_what_the_former_tables_said(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(
            file_names=["raw/users.json", "raw/more.ndjson"],
            output_file_name="viewed",
            output=f"{suite.data}/out",
        )
    )

    assert answer.output == "raw/out"
    names = sorted(file.file_name for file in answer.files)
    assert {"viewed-1_1.csv", "viewed-2_1.csv"} <= set(names)
    assert all((suite.data / "out" / name).is_file() for name in names)
    async with await psycopg.AsyncConnection.connect(suite.database) as connection:
        await connection.execute("SET search_path = vistadb_test")
        cursor = await connection.execute(
            "SELECT file_name, row_count FROM csv_rows WHERE job_id = %s", [answer.job.job_id]
        )
        files = {(file.file_name, file.rows) for file in answer.files}
        assert set(await cursor.fetchall()) == files
        cursor = await connection.execute(
            "SELECT status, msg, job_start_time FROM job_status WHERE job_id = %s",
            [answer.job.job_id],
        )
        assert await cursor.fetchall() == [("DONE", "", answer.job_start_time)]
        cursor = await connection.execute(
            "SELECT result_name, result_path, options ->> 'outputFileName' FROM convert_job "
            "WHERE job_id = %s",
            [answer.job.job_id],
        )
        assert await cursor.fetchall() == [("viewed", "raw/out", "viewed")]


async def test_files_come_in_pages(suite: Suite) -> None:
    answer = await suite.converted(
        pb.ConvertJsonRequest(
            file_names=["raw/users.json"], output_file_name="paged", max_csv_rows=1
        )
    )
    names, token = [], ""
    while True:
        page = await suite.ingestion.GetConversion(
            pb.GetConversionRequest(job_id=answer.job.job_id, page_size=7, page_token=token)
        )
        names += [file.file_name for file in page.files]
        token = page.next_page_token
        if not token:
            break

    assert names == [file.file_name for file in answer.files]
    assert len(names) == len(set(names)) > 14


async def test_purchases_are_summarized_and_an_unchanged_file_is_read_once(suite: Suite) -> None:
    request = pb.SummarizeShoppingRequest(
        user_id="user_3", proposal_id=str(10**18 + 3), file_name="/users.json"
    )
    answer = await suite.ingestion.SummarizeShopping(request)

    assert list(answer.months) == ["06", "07"]
    assert {entry.name: list(entry.sub_categories) for entry in answer.categories} == {
        "생활/건강": ["생활용품"],
        "식품": ["건강식품"],
    }
    assert await suite.ingestion.SummarizeShopping(request) == answer
    request.user_id = "nobody"
    code, _ = await refused(suite.ingestion.SummarizeShopping(request))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_summary_ends_with_its_call(suite: Suite) -> None:
    with (suite.data / "long.ndjson").open("w", encoding="utf-8") as file:
        line = json.dumps({"user_id": "a", "proposal_id": "b", "text": "x" * 10_000}) + "\n"
        file.writelines(line for _ in range(20_000))
    request = pb.SummarizeShoppingRequest(user_id="a", proposal_id="c", file_name="raw/long.ndjson")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await suite.ingestion.SummarizeShopping(request, timeout=0.2)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_canceled_conversion_shows_no_file_and_its_retry_goes_on(suite: Suite) -> None:
    with (suite.data / "much.ndjson").open("w", encoding="ascii") as file:
        file.writelines(
            f'{{"n": 1.1{number:06}0, "t": "{"x" * 300}"}}\n' for number in range(90_000)
        )
    request = pb.ConvertJsonRequest(
        file_names=["raw/much.ndjson"],
        output_file_name="much",
        output="raw/much",
        max_csv_rows=5000,
    )
    job = (await suite.ingestion.ConvertJson(request)).job
    output = suite.data / "much"
    await until(lambda: any(file.stat().st_size for file in output.rglob("*.csv")))
    await suite.registry.stub.CancelJob(registry_pb2.CancelJobRequest(job_id=job.job_id))
    canceled = await finished(suite.registry, job)
    find = pb.GetConversionRequest(job_id=job.job_id)
    answer = await suite.ingestion.GetConversion(find)

    assert canceled.status == common_pb2.STATUS_CANCELED
    assert (answer.status, answer.msg) == ("FAILED", "canceled")
    assert [path.name for path in output.iterdir()] == [".much.conversion"]
    retry = registry_pb2.RetryJobRequest(job_id=job.job_id)
    await finished(suite.registry, (await suite.registry.stub.RetryJob(retry)).job)
    done = await suite.ingestion.GetConversion(find)
    assert (done.status, done.records, len(done.files)) == ("DONE", 90_000, 18), done.msg


@pytest.mark.parametrize("place", ["raw/small/out", ""], ids=["root", "artifacts"])
async def test_a_full_disk_fails_the_job_and_its_retry_goes_on(suite: Suite, place: str) -> None:
    lines = (json.dumps({"n": number, "text": "x" * 1000}) + "\n" for number in range(8_000))
    (suite.data / "wide.ndjson").write_text("".join(lines), encoding="ascii")
    fields = {"file_names": ["raw/wide.ndjson"], "max_csv_rows": 1000}
    whole = await suite.converted(pb.ConvertJsonRequest(output_file_name="whole", **fields))
    folder = suite.data / "small" if place else suite.home / "artifacts" / "jobs"
    with small_disk(folder, 16) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(12 << 20))
        request = pb.ConvertJsonRequest(output_file_name="whole", output=place, **fields)
        failed = await suite.converted(request)
        output = disk / ("out" if place else f"{failed.job.job_id}/conversion")
        names = [path.name for path in output.iterdir()]
        ballast.unlink()
        retry = registry_pb2.RetryJobRequest(job_id=failed.job.job_id)
        retried = await finished(suite.registry, (await suite.registry.stub.RetryJob(retry)).job)
        request = pb.GetConversionRequest(job_id=failed.job.job_id)
        done = await suite.ingestion.GetConversion(request)

        assert failed.status == "FAILED"
        assert "DISK_FULL" in failed.msg
        assert "the disk of the output is full; free some space" in failed.msg
        assert names == [".whole.conversion"]  # nothing that a caller sees
        assert (done.status, retried.attempt) == ("DONE", 2), done.msg
        assert [file.sha256 for file in done.files] == [file.sha256 for file in whole.files]
        assert len(done.files) == 8

"""The gateway of a whole suite: every RPC, files, large bodies, and kills in the middle."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message_factory import GetMessageClass

from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow_services.gateway.answers import STATUSES
from vistaflow_services.gateway.rpc import http_rules, is_read_only
from vistaflow_services.gateway.upstream import METHODS

JSON = {"content-type": "application/json"}
UNARY = [
    name
    for name, method in METHODS.items()
    if not method.client_streaming and not method.server_streaming
]


def url_of(suite: Suite) -> str:
    endpoints = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    return f"http://{endpoints['gateway']}"


@pytest.fixture
def http(suite: Suite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(suite), timeout=60, trust_env=False) as client:
        yield client


def services(suite: Suite) -> dict[str, str]:
    found: dict[str, str] = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    return found


def test_every_unary_rpc_answers_as_over_grpc(suite: Suite, http: httpx.Client) -> None:
    """With an empty request, which every service refuses or answers."""
    endpoints = services(suite)
    same = []
    for name in UNARY:
        package = name.split(".")[2]
        home = {"datasets": "registry", "outbox": "registry", "artifacts": "doe"}.get(
            package, package
        )
        method = METHODS[name]
        with grpc.insecure_channel(endpoints[home]) as channel:
            call = channel.unary_unary(
                f"/{name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            try:
                call(GetMessageClass(method.input_type)(), timeout=60)
                expected = 200
            except grpc.RpcError as error:
                expected = STATUSES.get(error.code().name, 500)
        answer = http.post(f"/v1/rpc/{name}", headers=JSON)
        assert answer.status_code == expected, (name, answer.text)
        assert isinstance(answer.json(), dict)
        by_get = http.get(f"/v1/rpc/{name}").status_code
        assert by_get == (expected if is_read_only(method) else 405), name
        same.append(name)
    assert len(same) == len(UNARY) > 60
    for name in ("ReadLogs", "ReadArtifact"):
        answer = http.post(f"/v1/rpc/vistaflow.api.artifacts.v1.ArtifactService/{name}", json={})
        field = {"ReadLogs": "job_id", "ReadArtifact": "uri"}[name]
        assert (answer.status_code, answer.json()["violations"][0]["field"]) == (400, field)


def test_every_path_of_a_rule_is_served(http: httpx.Client) -> None:
    for name, method in METHODS.items():
        for verb, path in http_rules(method):
            filled = path.replace("{kit_id}", "999999")
            while "{" in filled:
                filled = filled[: filled.index("{")] + "none" + filled[filled.index("}") + 1 :]
            answer = http.request(verb, filled, headers=JSON)
            assert "there is nothing at" not in answer.text, (name, path)
            assert answer.status_code < 500, (name, path, answer.text)
            assert answer.status_code != 405, (name, path)


def test_mistakes_are_named(http: httpx.Client) -> None:
    def post(content: bytes) -> tuple[int, str, str]:
        answer = http.post("/v1/kits", content=content, headers=JSON)
        (violation,) = answer.json()["violations"]
        return answer.status_code, violation["field"], violation["description"]

    assert post(b'{"name": }')[2] == "is no JSON: Expecting value at line 1, column 10"
    assert post(b"[]") == (400, "body", "has to be a JSON object")
    assert post(b'{"nam": "a"}')[1] == "nam"
    assert post(b'{"name": 7}')[:2] == (400, "name")
    assert post(b"\xff\xfe")[1] == "body"
    assert post(b'{"spec":' * 50_000)[1] == "body"
    assert http.get("/v1/kits?statuses=DONE").json()["violations"][0]["field"] == "statuses"
    finished = http.get(
        "/v1/kits?statuses=finished&labels.team=a&created_after=2026-01-01T00:00:00Z"
    )
    assert finished.status_code == 200, finished.text
    late = http.get("/v1/server", headers={"request-timeout": "never"})
    assert late.status_code == 400


def test_large_bodies_are_refused_and_large_files_are_taken(
    suite: Suite, http: httpx.Client
) -> None:
    large = http.post("/v1/kits", content=b" " * (7 << 20), headers=JSON)
    assert (large.status_code, large.json()["reason"]) == (413, "BODY_TOO_LARGE")

    content = b"a,b\n" + b"1,2\n" * 3_000_000
    sha256 = hashlib.sha256(content).hexdigest()
    with_sha = http.put(f"/v1/files/big.csv?sha256={sha256}", content=content)
    without = http.put("/v1/files/big.csv", content=content)
    wrong = http.put(f"/v1/files/other.csv?sha256={'0' * 64}", content=b"a")
    assert (with_sha.status_code, without.status_code) == (201, 201), with_sha.text
    assert with_sha.json()["upload"]["received_bytes"] == str(len(content))
    assert with_sha.json()["file_name"] == without.json()["file_name"]
    assert (wrong.status_code, wrong.json()["code"]) == (400, "INVALID_ARGUMENT")
    query = {"query": 'select count(*) as n from files."raw/big.csv"'}
    (suite.data / "big.csv").write_bytes(content)
    answer = http.get("/v1/query", params=query)
    assert answer.json()["rows"] == [{"n": 3_000_000}], answer.text


def test_the_answer_to_a_file_whose_name_is_refused_says_so_each_time(http: httpx.Client) -> None:
    # The service ends the call while the file is still being sent.
    answers = [http.put(f"/v1/files/a%0E{number}", content=b"A") for number in range(200)]
    assert {answer.status_code for answer in answers} == {400}
    assert {answer.json()["code"] for answer in answers} == {"INVALID_ARGUMENT"}


def test_rows_and_files_of_a_query_in_every_format(suite: Suite, http: httpx.Client) -> None:
    (suite.data / "names.csv").write_text("이름,n\n사과,1\n배,2\n", encoding="utf-8")
    answer = http.get("/v1/query", params={"query": 'select * from files."raw/names.csv"'})
    query = answer.json()["query"]
    rows = f"/v1/queries/{query['query_id']}/rows"

    assert answer.json()["rows"] == http.get(f"{rows}.json").json()
    assert http.get(rows, headers={"accept": "text/csv"}).text == http.get(f"{rows}.csv").text
    assert len(http.get(f"{rows}.ndjson?limit=1").text.splitlines()) == 1
    assert http.get(f"{rows}.parquet").content[:4] == b"PAR1"
    assert http.get(f"{rows}.arrow").content[:4] == b"\xff\xff\xff\xff"
    assert http.get(f"{rows}.xlsx").status_code == 406

    path = "/v1/artifacts/" + query["result_path"].removeprefix("artifact://") + "/parts.json"
    whole = http.get(path)
    part = http.get(path, headers={"range": "bytes=2-5"})
    last = http.get(path, headers={"range": "bytes=-3"})
    beyond = http.get(path, headers={"range": "bytes=999999-"})
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in whole.headers["content-security-policy"]
    assert (part.status_code, part.content) == (206, whole.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole.content)}"
    assert last.content == whole.content[-3:]
    assert beyond.status_code == 416
    log = http.get(f"/v1/jobs/{query['query_id']}/logs?follow=true")
    assert "attempt 1" in log.text
    headers = {"accept": "text/event-stream"}
    events = http.get(f"/v1/jobs/{query['query_id']}/logs?follow=true", headers=headers).text
    texts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    assert "".join(part.get("text", "") for part in texts) == log.text


def test_who_waits_for_a_query_gets_it_when_it_has_ended(http: httpx.Client) -> None:
    sql = "select count(*) as n from unnest(sequence(1, 3000)) a(x), unnest(sequence(1, 9000)) b(y)"
    body = {"user_query": sql, "reuse": "REUSE_POLICY_NEVER"}
    query_id = http.post("/v1/queries", json=body).json()["query"]["query_id"]
    ended = http.get(f"/v1/queries/{query_id}?wait=60s").json()["query"]
    job = http.get(f"/v1/jobs/{query_id}?wait=60s").json()["job"]
    unknown = http.get("/v1/queries/8c2ff636-d421-4c61-9e13-42f22ccdcf48?wait=60s")
    wrong = http.get(f"/v1/queries/{query_id}?wait=90s")

    assert (ended["status"], ended["row_count"], job["status"]) == (
        "STATUS_FINISHED",
        "1",
        "STATUS_FINISHED",
    )
    assert unknown.status_code == 404
    assert wrong.json()["violations"][0]["field"] == "wait"


class Reader(threading.Thread):
    """Reads events as a browser does: comes back with the last id."""

    def __init__(self, url: str, path: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self.url, self.path = url, path
        self.rows: list[int] = []
        self.trace: list[Any] = []
        self.snapshots = 0
        self.connections = 0
        self.last = 0
        self.goal = 0
        self.end = time.monotonic() + seconds

    def run(self) -> None:
        last_id = ""
        while time.monotonic() < self.end and not self.done:
            headers = {"last-event-id": last_id} if last_id else {}
            try:
                with (
                    httpx.Client(timeout=60, trust_env=False) as client,
                    client.stream("GET", self.url + self.path, headers=headers) as answer,
                ):
                    if answer.status_code != 200:
                        time.sleep(0.2)
                        continue
                    self.connections += 1
                    event: dict[str, str] = {}
                    for line in answer.iter_lines():
                        name, _, value = line.partition(": ")
                        if line:
                            event[name] = value
                            continue
                        # What broke off before its empty line does not count.
                        if "id" in event:
                            last_id = event["id"]
                        if "data" in event:
                            self.note(event["event"], json.loads(event["data"]))
                        self.last = int(last_id or 0)
                        event = {}
                        if self.done:
                            return
            except httpx.HTTPError as error:
                self.trace.append(repr(error))
                time.sleep(0.2)

    def note(self, kind: str, event: dict[str, Any]) -> None:
        self.trace.append((self.connections, kind, self.last, len(json.dumps(event))))
        self.snapshots += kind == "snapshot"
        if kind == "delta":
            self.rows += [int(row["revision"]) for row in event["delta"].get("states", ())]

    @property
    def done(self) -> bool:
        return bool(self.goal) and self.last >= self.goal


@pytest.mark.timeout(600)
def test_no_row_is_missed_or_repeated_whatever_is_killed(own_suite: Suite, tmp_path: Path) -> None:
    url = url_of(own_suite)
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(own_suite.address, options=options) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        job = registry_pb2.NewJob(name="work", job_type=common_pb2.JOB_TYPE_DOE)
        kit = stub.CreateKit(registry_pb2.CreateKitRequest(name="a", jobs=[job])).kit
        readers = [Reader(url, f"/v1/kits/{kit.kit_id}/events", 240) for _ in range(3)]
        seq = 0

        def append(count: int) -> None:
            nonlocal seq
            for _ in range(count):
                seq += 1
                row = common_pb2.State(
                    job_id=kit.jobs[0].job_id, seq=seq, status=common_pb2.STATUS_RUNNING,
                    task_name=f"t{seq}" if seq > 1 else "",
                )  # fmt: skip
                while True:
                    try:
                        stub.AppendStates(
                            registry_pb2.AppendStatesRequest(states=[row]), timeout=20
                        )
                        break
                    except grpc.RpcError:
                        time.sleep(0.2)

        append(5)
        for reader in readers[:2]:
            reader.start()
        end = time.monotonic() + 120
        while not all(reader.snapshots for reader in readers[:2]):
            assert time.monotonic() < end
            time.sleep(0.05)
        for victim in ("gateway", "registry", "gateway"):
            append(20)
            assert own_suite.kill(victim)
            append(20)
        readers[2].start()
        append(20)
        question = registry_pb2.ListStatesRequest(page_size=5000)
        question.filter.kit_ids.append(kit.kit_id)
        while True:
            try:
                log = [row.revision for row in stub.ListStates(question, timeout=20).states]
                break
            except grpc.RpcError:
                time.sleep(0.2)
        for reader in readers:
            reader.goal = log[-1]
        for reader in readers:
            reader.join(240)

    for reader in readers:
        assert reader.done
        # Rows before a reader's snapshot are in it, and only there.
        begin = log.index(reader.rows[0]) if reader.rows else len(log)
        print(reader.rows, reader.goal, reader.trace[-12:])
        assert reader.rows == log[begin:]
    for reader in readers[:2]:
        assert reader.snapshots == 1
        assert reader.connections > 1
        assert reader.rows[0] <= 8

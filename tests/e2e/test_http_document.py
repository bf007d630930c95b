"""What the OpenAPI document says can be done: its examples, and many other requests."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from tests.e2e.test_docs import blocks  # type: ignore[import-not-found]
from tests.e2e.test_gateway import url_of  # type: ignore[import-not-found]
from tests.site import serving_site  # type: ignore[import-not-found]
from vistaflow_services.gateway.openapi import pages
from vistaflow_services.gateway.upstream import METHODS

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}
RUNNING = ("STATUS_QUEUED", "STATUS_BLOCKED", "STATUS_RUNNING")

# By design: a foreign RPC is not implemented, and a caller's deadline may be too short.
ALLOWED = (501, 504)
# It would say that services of this suite are elsewhere.
LEFT_OUT = ("RegistryService_AnnounceService_rpc", "/logout")


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(pages.as_json())


@pytest.fixture
def http(suite: Suite) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_of(suite), timeout=180, trust_env=False) as client:
        yield client


class Examples:
    """Sends the examples of the document, with real ids in place of its samples."""

    def __init__(self, document: Any, http: httpx.Client) -> None:
        overlay = yaml.safe_load((ROOT / "protos" / "openapi.yaml").read_bytes())
        self.in_order = overlay["examples"]
        self.samples = overlay["samples"]
        self.http = http
        self.ids: dict[str, str] = {}
        self.operations = {
            operation["operationId"]: (verb, path, operation)
            for path, item in document["paths"].items()
            for verb, operation in item.items()
            if "operationId" in operation
        }

    def real(self, value: Any) -> Any:
        """A value of an example, with the ids that there are."""
        # Another dataset than that of other tests of the same suite.
        text = re.sub(r"\breviews\b(?!\.json)", "documented", json.dumps(value))
        for name, sample in self.samples.items():
            if name in self.ids:
                quoted = f'"{sample}"' if len(sample) < 9 else sample
                text = text.replace(quoted, quoted.replace(sample, str(self.ids[name])))
        return json.loads(text)

    def send(self, name: str) -> httpx.Response:
        """Sends the example of an operation; of a stream that goes on its first line."""
        verb, path, operation = self.operations[name]
        query = []
        for parameter in operation.get("parameters", ()):
            if "example" not in parameter:
                continue
            value = self.real(parameter["example"])
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(value))
            else:
                values = value if isinstance(value, list) else [value]
                query += [(parameter["name"], item) for item in values]
        body = None
        if "requestBody" in operation:
            body = self.real(operation["requestBody"]["content"]["application/json"]["example"])
        request = self.http.build_request(
            verb, path, params=query or None, json=body, headers=JSON if body is not None else {}
        )
        answer = self.http.send(request, stream="WatchStates" in name)
        if "WatchStates" in name:
            next(answer.iter_lines())
            answer.close()
        return answer

    def note(self, name: str, answer: httpx.Response) -> None:
        """Takes the ids of an answer, and waits for the job that it started."""
        for sample, path in self.in_order[name].get("ids", {}).items():
            value = answer.json()
            for part in path.split("."):
                value = value[int(part)] if part.isdigit() else value[part]
            self.ids[sample] = value
        ends = self.in_order[name].get("ends", "")
        if ends == "kit":
            kit = f"/v1/kits/{self.ids['kit_id']}"
            while self.http.get(kit).json()["kit"]["status"] in RUNNING:
                pass
        elif ends == "delivery":
            dead = "/v1/deliveries?state=DEAD&target=chat"
            while not self.http.get(dead).json().get("deliveries"):
                pass
        elif ends:
            job = f"/v1/jobs/{self.ids[ends[1:]]}?wait=60s"
            while (answer := self.http.get(job)).json()["job"]["status"] in RUNNING:
                pass
            assert answer.json()["job"]["status"] == "STATUS_FINISHED", answer.text


@pytest.mark.timeout(900)
def test_every_rpc_answers_the_example_of_the_document(
    suite: Suite, document: Any, http: httpx.Client
) -> None:
    (suite.data / "reviews.json").write_bytes((ROOT / "examples/data/reviews.json").read_bytes())
    for _, attributes, text in blocks("docs/http.md"):
        if name := attributes.strip().removeprefix("file="):
            (suite.data / name).write_text(text, encoding="utf-8")
    examples = Examples(document, http)
    upload = http.put("/v1/files/prices.csv", content=b"item,price\napple,1.10\n").json()
    examples.ids["upload_id"] = upload["upload"]["upload_id"]
    wrong = {}
    with serving_site(int(suite.site.rpartition(":")[2])) as site:
        examples.ids |= {"hook_url": f"{site.url}/hook", "site_url": f"{site.url}/"}
        site.html("/", "<p class=quote><b class=text>Less is more.</b></p>")
        site.pages["/hook"] = 410, {}, b""
        for name, example in examples.in_order.items():
            operation, expected = name.replace("/", "_"), example.get("status", 200)
            # Those that change something have the same example under both paths.
            is_read = (
                operation in examples.operations and examples.operations[operation][0] == "get"
            )
            for each in [f"{operation}_rpc", *([operation] if is_read else [])]:
                answer = examples.send(each)
                if answer.status_code != expected:
                    wrong[each] = answer.status_code, answer.text
            if answer.status_code == 200 == expected:
                examples.note(name, answer)

    assert wrong == {}, json.dumps(wrong, indent=1)
    served = {name.rpartition(".")[2] for name, rpc in METHODS.items() if not rpc.client_streaming}
    assert served == set(examples.in_order)


def attack(document: Any, base: str, most_examples: int) -> dict[str, int]:
    """Sends requests that schemathesis makes of the document; answers by operation and status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import schemathesis
        from schemathesis.core.result import Ok
    counts: dict[str, int] = {}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=base)
    failures: dict[str, str] = {}

    def send_some(operation: Any, name: str) -> None:
        @seed(14)
        @settings(
            max_examples=most_examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: Any) -> None:
            arguments = case.as_transport_kwargs(base_url=base)
            for unknown in ("cookies", "allow_redirects", "timeout", "verify"):
                arguments.pop(unknown, None)
            # Only whether and how the answer begins: some streams have no end.
            try:
                with http.stream(**_for_httpx(arguments)) as answer:
                    status = answer.status_code
                    if status >= 500 and status not in ALLOWED:
                        failures[f"{name} {arguments}"[:600]] = answer.read().decode()[:300]
            except (httpx.InvalidURL, UnicodeEncodeError, httpx.LocalProtocolError):
                return  # No client can send that.
            counts[str(status)] = counts.get(str(status), 0) + 1

        send()

    with httpx.Client(base_url=base, timeout=180, trust_env=False) as http:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            name = operation.definition.raw.get("operationId", operation.path)
            if name in LEFT_OUT:
                continue

            send_some(operation, name)
    assert failures == {}, json.dumps(failures, indent=1)
    return counts


def _for_httpx(arguments: dict[str, Any]) -> dict[str, Any]:
    data = arguments.pop("data", None)
    if data is not None:
        key = "data" if isinstance(data, dict) else "content"
        arguments[key] = data
    headers = {name: str(value) for name, value in (arguments.pop("headers") or {}).items()}
    # How long the door waits for what a caller never sends is of another test.
    headers = {name: text for name, text in headers.items() if name.lower() != "content-length"}
    return arguments | {"headers": headers}


@pytest.mark.timeout(900)
def test_no_request_that_the_document_allows_is_answered_by_500(
    own_suite: Suite, document: Any
) -> None:
    counts = attack(document, url_of(own_suite), 2)
    assert sum(counts.values()) > 250, counts
    assert counts["200"] > 20, counts


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_request_of_many_is_answered_by_500(own_suite: Suite, document: Any) -> None:
    counts = attack(document, url_of(own_suite), 60)
    assert sum(counts.values()) > 5_000, counts


def test_rows_are_asked_for_with_curl_as_users_do(suite: Suite, tmp_path: Path) -> None:
    """The requests of the notes: parameters by `-G -d`, a file by `-o`, JSON by `Accept`."""
    (suite.data / "thing.csv").write_text("scope,n\n1,a\n2,b\n", encoding="utf-8")
    sql = 'query=select scope, n from files."raw/thing.csv" where scope=1'

    def curl(*words: str) -> str:
        command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    token = suite.json("token", "create", "--role", "viewer", "--project", "default", "curl")[0]
    bearer = f"Authorization: Bearer {token['secret']}"
    url = f"{url_of(suite)}/v1/query"
    refused = subprocess.run(
        [
            "curl",
            "-s",
            "--noproxy",
            "*",
            "-G",
            url,
            "-H",
            "Authorization: Bearer access_token_goes_here",
            "--data-urlencode",
            sql,
        ],
        capture_output=True,
        text=True,
    )
    answer = json.loads(
        curl("-G", url, "-d", "limit=10", "-d", "wait=60s", "--data-urlencode", sql)
    )
    curl(
        "-G",
        "-d",
        "wait=60s",
        "-H",
        "Accept: text/csv",
        "-o",
        "data.csv",
        url,
        "--data-urlencode",
        sql,
    )
    query = answer["query"]["query_id"]
    rows = f"{url_of(suite)}/v1/queries/{query}/rows"
    as_json = curl(rows, "-H", "Accept: application/json")
    listed = json.loads(curl(f"{url_of(suite)}/v1/kits", "-H", bearer))

    assert json.loads(refused.stdout)["code"] == "UNAUTHENTICATED"
    # Columns of CSV files are texts.
    assert answer["rows"] == json.loads(as_json) == [{"scope": "1", "n": "a"}]
    assert (tmp_path / "data.csv").read_text().splitlines() == ['"scope","n"', '"1","a"']
    assert isinstance(listed, dict)

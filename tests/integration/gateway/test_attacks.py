"""Requests that no honest client sends."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.integration.gateway.readers import Served  # type: ignore[import-not-found]
from vistaflow_services.gateway import listener


async def raw(served: Served, text: str) -> bytes:
    """What the gateway answers to these bytes before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(text.encode())
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while block := await reader.read(1 << 16):
            answer += block
    writer.close()
    return answer


def statuses(answer: bytes) -> list[str]:
    lines = answer.decode("latin-1").splitlines()
    return [line.split(" ")[1] for line in lines if line.startswith("HTTP/1.1 ")]


async def test_a_request_has_one_length_and_one_host(served: Served) -> None:
    kits = "POST /v1/kits HTTP/1.1\r\ncontent-type: application/json\r\n"
    smuggled = "GET /v1/server HTTP/1.1\r\nhost: localhost\r\n\r\n"
    both = f"{kits}host: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"

    assert statuses(await raw(served, f"{both}0\r\n\r\n{smuggled}")) == ["400"]
    two = f"{kits}host: localhost\r\ncontent-length: 2\r\ncontent-length: 9\r\n\r\n{{}}"
    assert statuses(await raw(served, two)) == ["400"]
    hosts = "GET /v1/kits HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n"
    assert statuses(await raw(served, hosts)) == ["400"]
    none = "GET /v1/kits HTTP/1.0\r\n\r\n"
    assert statuses(await raw(served, none)) == ["421"]
    spaced = "GET /v1/kits HTTP/1.1\r\nhost : localhost\r\n\r\n"
    assert statuses(await raw(served, spaced)) == ["400"]
    large = f"GET /v1/kits HTTP/1.1\r\nhost: localhost\r\nx: {'a' * 1_000_000}\r\n\r\n"
    assert statuses(await raw(served, large)) in (["400"], [])


async def test_headers_that_never_end_lose_their_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_SECONDS", 0.3)
    whole = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    begun = "GET /healthz HTTP/1.1\r\nhost: loc"
    for text, answered in (("", []), (begun, []), (whole + begun, ["200"])):
        assert statuses(await raw(served, text)) == answered

    # A connection that only waits for its next request is not one of those.
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(3):
        writer.write(whole.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert statuses(head) == ["200"]
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        await asyncio.sleep(0.4)
    writer.close()


@pytest.mark.parametrize("separator", ["/", "%2f"])
async def test_no_path_leads_out(served: Served, separator: str) -> None:
    for path in (
        "/v1/artifacts/jobs/../../../etc/passwd",
        "/v1/artifacts//etc/passwd",
        "/v1/artifacts/jobs/01994b6e-1d5a-7c40-8d53-2f6f0a1c9e01/1/../../../keys/sessions",
        "/docs/../pages.py",
        "/docs/%2e%2e/%2e%2e/config.py",
        "/docs/__init__.py",
        "/v1/kits/../../etc",
        "/v1/services/../../keys/logs",
        "/v1/rpc/../../etc/passwd",
        "/v1/%00",
    ):
        target = path if separator == "/" else path[:15] + path[15:].replace("/", separator)
        close = "host: localhost\r\nconnection: close\r\n\r\n"
        answer = await raw(served, f"GET {target} HTTP/1.1\r\n{close}")
        # 503: there is no service of artifacts behind this gateway, so none was asked.
        assert statuses(answer)[0] in ("400", "404", "503"), (target, answer)
        assert b"root:" not in answer
        assert b"import" not in answer


async def test_answers_are_nobody_elses(served: Served) -> None:
    kit = await served.kit()
    for path in ("/v1", "/v1/kits", "/v1/server", "/login", "/healthz", "/nothing"):
        assert (await served.http.get(path)).headers["cache-control"] == "no-store", path
    whole = await served.http.get(f"/v1/kits/{kit.kit_id}")
    assert whole.headers["cache-control"] == "private, no-cache"


async def test_head_of_a_stream_ends(served: Served) -> None:
    for path in ("/v1/events", "/v1/kits", "/openapi.yaml"):
        answer = await served.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    while served.gateway.events.readers:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_kit_is_sent_once_a_revision(served: Served) -> None:
    kit = await served.kit()
    path = f"/v1/kits/{kit.kit_id}"
    first = await served.http.get(path)
    tag = first.headers["etag"]

    again = await served.http.get(path, headers={"if-none-match": tag})
    other = await served.kit()
    still = await served.http.get(path, headers={"if-none-match": f'"a", W/{tag}'})
    await served.append(kit, 1, 1)
    changed = await served.http.get(path, headers={"if-none-match": tag})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert still.status_code == 304
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert len(changed.json()["kit"]["jobs"][0]["tasks"]) == 1
    name = "vistaflow.api.registry.v1.RegistryService/GetKit"
    plain = await served.http.post(f"/v1/rpc/{name}", json={"kit_id": kit.kit_id})
    assert changed.json() == plain.json()
    assert other.kit_id != kit.kit_id


async def test_the_document_and_its_pages_are_served(served: Served) -> None:
    as_yaml = await served.http.get("/openapi.yaml")
    as_json = await served.http.get("/openapi.json")
    again = await served.http.get(
        "/openapi.json", headers={"if-none-match": as_json.headers["etag"]}
    )
    assert as_yaml.text.startswith("# Generated by `make proto`")
    assert (as_json.json()["openapi"], again.status_code) == ("3.0.3", 304)
    for path in ("/docs", "/redoc"):
        page = await served.http.get(path)
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "<script>" not in page.text
        for file in [part.split('"')[0] for part in page.text.split('src="')[1:]]:
            script = await served.http.get(file)
            assert (script.status_code, script.headers["content-type"].split(";")[0]) == (
                200,
                "text/javascript",
            )
            assert "https://cdn.redoc.ly" not in script.text

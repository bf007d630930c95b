"""Who may call the gateway, and with which rights."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.gateway.readers import Reader, Served, gateway_serving
from tests.strangers import as_root, stranger  # type: ignore[import-not-found]
from vistaflow._machine.local import token_file
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.door.owner import make_token
from vistaflow_services.core.server.shell import StartError
from vistaflow_services.gateway.listener import bound
from vistaflow_services.registry.__main__ import Registry

JSON = {"content-type": "application/json"}
KIT = {"name": "a", "jobs": [{"name": "work", "job_type": "JOB_TYPE_DOE"}]}


async def make(registry: Registry, role: str, project: str = "") -> tuple[str, str]:
    """The id and the text of a new token."""
    token, text, _ = await registry.token_store.create(
        name=role, project=project, role=Role(role), created_by="test", seconds=None
    )
    return str(token.token_id), text


@pytest.fixture
async def guarded(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Served, Registry]]:
    """A gateway and a registry that ask for tokens; the gateway's own is a worker's."""
    monkeypatch.setenv("VISTAFLOW_AUTH", "required")
    async with serving(database) as registry:
        _, own = await make(registry, "WORKER")
        monkeypatch.setenv("VISTAFLOW_TOKEN", own)
        async with gateway_serving(
            registry.address, tmp_path, origins=("https://lab.example",)
        ) as served:
            yield served, registry


@pytest.fixture
async def owned(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """A gateway and a registry that serve this user without a token."""
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("VISTAFLOW_AUTH", "owner")
    monkeypatch.setenv("VISTAFLOW_TOKEN", make_token(token_file(tmp_path)))
    async with (
        serving(database) as registry,
        gateway_serving(registry.address, tmp_path) as served,
    ):
        yield served


FOREIGN = {
    "another name": {"host": "evil.example"},
    "a name that begins alike": {"host": "localhost.evil.example:8080"},
    "no name": {"host": ""},
    "another origin": {"origin": "http://evil.example"},
    "another port": {"origin": "http://127.0.0.1:1"},
    "an opaque origin": {"origin": "null"},
    "a picture of another site": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    "a page of another port": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    "a frame": {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "iframe",
    },
}


async def test_pages_of_others_read_nothing_and_start_nothing(served: Served) -> None:
    for name, headers in FOREIGN.items():
        for path in ("/v1/kits", "/v1/events", "/", "/login", "/healthz"):
            answer = await served.http.get(path, headers=headers)
            assert answer.status_code in (403, 421), (name, path, answer.text)
            assert "access-control-allow-origin" not in answer.headers
        for path in ("/v1/kits", "/login"):
            answer = await served.http.post(path, headers={**JSON, **headers}, json=KIT)
            assert answer.status_code in (403, 421), (name, path)
    assert (await served.registry.server_info()).revision == 0


async def test_a_change_has_to_be_json_and_a_link_starts_no_query(served: Served) -> None:
    text = await served.http.post("/v1/kits", content=b"{}", headers={"content-type": "text/plain"})
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    link["sec-fetch-dest"] = "document"
    page = await served.http.get("/docs", headers=link)
    query = await served.http.get("/v1/query?query=select+1", headers=link)
    old = await served.http.get("/v1/query?query=select+1", headers={"user-agent": "Mozilla/5.0"})

    assert [each.status_code for each in (text, page, query, old)] == [415, 200, 403, 403]


async def test_every_caller_needs_a_token_and_has_its_rights_only(
    guarded: tuple[Served, Registry],
) -> None:
    served, registry = guarded
    _, viewer = await make(registry, "VIEWER", "one")
    _, editor = await make(registry, "EDITOR", "two")

    def headers(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}", **JSON}

    nobody = await served.http.get("/v1/kits")
    wrong = await served.http.get("/v1/kits", headers=headers(f"vf1.{'0' * 32}.{'a' * 43}"))
    made = await served.http.post("/v1/kits", json=KIT, headers=headers(editor))
    refused = await served.http.post("/v1/kits", json=KIT, headers=headers(viewer))
    hidden = await served.http.get("/v1/kits/1", headers=headers(viewer))
    seen = await served.http.get("/v1/kits/1", headers=headers(editor))
    lists = [
        (await served.http.get("/v1/kits", headers=headers(token))).json().get("kits", [])
        for token in (viewer, editor)
    ]
    leases = await served.http.get("/v1/events", headers={"last-event-id": "0"})

    assert [each.status_code for each in (nobody, wrong, made, refused, hidden, seen)] == [
        401, 401, 200, 403, 404, 200,
    ]  # fmt: skip
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert nobody.json()["reason"] == "TOKEN_MISSING"
    assert [len(each) for each in lists] == [0, 1]
    assert leases.status_code == 401


async def test_a_session_lasts_as_long_as_its_token(guarded: tuple[Served, Registry]) -> None:
    served, registry = guarded
    token_id, viewer = await make(registry, "VIEWER", "one")
    wrong = await served.http.post("/login", data={"token": "guessed"})
    entered = await served.http.post("/login", data={"token": viewer})
    cookie = entered.headers["set-cookie"]
    reader = Reader()
    reading = asyncio.create_task(reader.read(served.http, "/v1/events", lambda now: False))
    async with asyncio.timeout(120):
        while "synced" not in reader.kinds:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    kits = await served.http.get("/v1/kits")
    await registry.token_store.revoke(token_id)
    async with asyncio.timeout(120):
        await reading
        while (after := await served.http.get("/v1/kits")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    assert (wrong.status_code, entered.status_code, kits.status_code) == (401, 303, 200)
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert viewer not in cookie
    assert reader.kinds[-1] == "end"
    assert after.status_code == 401


async def test_an_allowed_origin_may_call(guarded: tuple[Served, Registry]) -> None:
    served, registry = guarded
    _, viewer = await make(registry, "VIEWER", "one")
    origin = {"origin": "https://lab.example"}
    asked = await served.http.options("/v1/kits", headers=origin)
    answer = await served.http.get(
        "/v1/kits", headers={**origin, "authorization": f"Bearer {viewer}"}
    )

    assert asked.headers["access-control-allow-origin"] == "https://lab.example"
    assert "authorization" in asked.headers["access-control-allow-headers"]
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
        200,
        "https://lab.example",
    )


@as_root
async def test_another_user_of_the_machine_needs_a_token(owned: Served, tmp_path: Path) -> None:
    token = token_file(tmp_path).read_text().strip()
    url = str(owned.http.base_url)

    def attempts() -> list[int]:
        with stranger() as other:
            return [
                other.fetch(f"{url}/v1/kits")[0],
                other.fetch(f"{url}/v1/events")[0],
                other.fetch(f"{url}/v1/rpc/vistaflow.api.registry.v1.RegistryService/ListKits")[0],
                # A header says nothing about who calls.
                other.fetch(f"{url}/v1/kits", {"x-forwarded-for": "127.0.0.1"})[0],
                other.fetch(f"{url}/v1/kits", {"authorization": f"Bearer {token}"})[0],
            ]

    mine = await owned.http.get("/v1/kits")
    assert await asyncio.to_thread(attempts) == [401, 401, 401, 401, 200]
    assert mine.status_code == 200


def test_the_network_is_not_served_without_tls_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    for secure, tokens in ((False, True), (True, False), (False, False)):
        with pytest.raises(StartError, match="reachable from the network"):
            bound("0.0.0.0:0", secure=secure, tokens=tokens)
    bound("0.0.0.0:0", secure=True, tokens=True).close()
    monkeypatch.setitem(os.environ, "VISTAFLOW_ALLOW_INSECURE", "1")
    bound("0.0.0.0:0", secure=False, tokens=False).close()

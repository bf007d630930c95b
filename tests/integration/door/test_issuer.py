"""Tokens of an OpenID Connect issuer, over gRPC and through the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from issuers import AUDIENCE, LocalIssuer, local_issuer
from joserfc.jwk import ECKey, RSAKey
from keys import Keys, code_of, new_kit

from tests.integration.gateway.readers import gateway_serving  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import access_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from vistaflow_services.core.errors import UnauthenticatedError
from vistaflow_services.core.server.shell import StartError
from vistaflow_services.registry.__main__ import Registry
from vistaflow_services.registry.access import issuer as issuing
from vistaflow_services.registry.access.issuer import IssuerConfig, read_issuer

RULES = (
    "realm_access.roles=admins:admin; realm_access.roles=editors:editor:$project; "
    "email=*:viewer:open"
)


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalIssuer]:
    """An issuer that answers, and a registry of this test accepts."""
    there = local_issuer()
    monkeypatch.setenv("VISTAFLOW_OIDC_ISSUER", there.url)
    monkeypatch.setenv("VISTAFLOW_OIDC_AUDIENCE", AUDIENCE)
    monkeypatch.setenv("VISTAFLOW_OIDC_ROLES", RULES)
    with there.serving():
        yield there


@pytest.fixture
async def accepting(
    issuer: LocalIssuer, database: str, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Registry]:
    monkeypatch.setenv("VISTAFLOW_AUTH", "required")
    async with serve(database) as registry:
        yield registry


async def shown(registry: Registry, token: str) -> Any:
    """What the registry says of the bearer of a token, or the status that it answers."""
    async with Keys(registry).channel(token) as channel:
        stub: Any = RegistryServiceStub(channel)
        try:
            return (await stub.GetServerInfo(pb.GetServerInfoRequest())).caller
        except grpc.aio.AioRpcError as error:
            return error.code()


async def test_claims_give_the_role_and_the_project(
    accepting: Registry, issuer: LocalIssuer
) -> None:
    editor = await shown(accepting, issuer.token("rsa"))
    admin = await shown(accepting, issuer.token("ec", realm_access={"roles": ["admins"]}))
    viewer = await shown(
        accepting, issuer.token(realm_access=None, email="a@b", aud=["x", AUDIENCE])
    )

    assert (editor.name, editor.project, editor.role) == ("kim@lab", "lab", access_pb2.ROLE_EDITOR)
    assert (admin.project, admin.role) == ("", access_pb2.ROLE_ADMIN)
    assert (viewer.project, viewer.role) == ("open", access_pb2.ROLE_VIEWER)
    assert editor.expires_at.seconds >= issuer.claims()["iat"] + 300
    async with Keys(accepting).channel(issuer.token("ec", realm_access={"roles": ["admins"]})) as c:
        answer = await RegistryServiceStub(c).GetServerInfo(pb.GetServerInfoRequest())
        (found,) = [found for found in answer.findings if found.name == "issuer"]
        assert (found.state, issuer.url in found.summary) == (pb.CHECK_STATE_OK, True)
    # A new token of the same person has the same limits.
    again = await shown(accepting, issuer.token("ec"))
    assert again.token_id == editor.token_id != admin.token_id or admin.name == editor.name


FORGED: dict[str, Callable[[LocalIssuer], str]] = {
    "another audience": lambda it: it.token(aud="another"),
    "no audience": lambda it: it.token(aud=None),
    "another issuer": lambda it: it.token(iss=f"{it.url}/"),
    "expired": lambda it: it.token(exp=it.claims()["iat"] - 120),
    "no expiry": lambda it: it.token(exp=None),
    "an expiry that is no number": lambda it: it.token(exp="never"),
    "not yet": lambda it: it.token(nbf=it.claims()["iat"] + 600),
    "no subject": lambda it: it.token(sub=None),
    "a subject with a line break": lambda it: it.token(sub="kim\nroot"),
    "a project that is no name": lambda it: it.token(project="../lab"),
    "no role": lambda it: it.token(realm_access={"roles": ["cooks"]}),
    "algorithm none": lambda it: it.unsigned(),
    "HS256 with the public key": lambda it: it.signed_with_public_key(),
    "a foreign key of a known name": lambda it: it.token(
        "rsa", RSAKey.generate_key(2048, {"kid": "rsa"})
    ),
    "a key of another kind": lambda it: it.token("ec", it.key("rsa")),
    "a key that it brings along": lambda it: it.with_header(
        kid="mine", jku="http://127.0.0.1:1/keys", jwk=it.key("rsa").as_dict(private=False)
    ),
    "a critical extension": lambda it: it.with_header(crit=["exp"]),
    "a name that is no text": lambda it: it.with_header(kid={"a": 1}),
    "a changed signature": lambda it: it.token()[:-8] + "AAAAAAAA",
    "huge": lambda it: it.token(padding="a" * 6_000),
}


async def test_tokens_that_are_not_for_us_are_refused(
    accepting: Registry, issuer: LocalIssuer
) -> None:
    answers = {name: await shown(accepting, forge(issuer)) for name, forge in FORGED.items()}

    assert answers == dict.fromkeys(FORGED, grpc.StatusCode.UNAUTHENTICATED)
    assert (await shown(accepting, issuer.token())).name == "kim@lab"


async def test_clocks_may_differ_by_a_little(accepting: Registry, issuer: LocalIssuer) -> None:
    now = issuer.claims()["iat"]

    late = await shown(accepting, issuer.token(iat=now - 400, exp=now - 20))
    early = await shown(accepting, issuer.token(iat=now + 20, nbf=now + 20))

    assert late.name == early.name == "kim@lab"


async def test_a_rotated_key_is_fetched_and_unknown_ones_are_not_a_flood(
    accepting: Registry, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "FETCH_SECONDS", 3600.0)
    assert (await shown(accepting, issuer.token())).name == "kim@lab"
    unknown = ECKey.generate_key("P-256", {"kid": "unknown"})
    for number in range(5):
        token = issuer.token("unknown", unknown, jti=str(number))
        assert await shown(accepting, token) is grpc.StatusCode.UNAUTHENTICATED
    assert issuer.served == 1

    old = issuer.token()
    issuer.keys.clear()
    issuer.add_key("new", ECKey.generate_key("P-256", {"kid": "new", "use": "sig"}))
    monkeypatch.setattr(issuing, "FETCH_SECONDS", 0.0)
    assert (await shown(accepting, issuer.token("new"))).name == "kim@lab"
    assert issuer.served == 2
    # The registry forgets what it knows of a token after 2 s; the key of the old one is gone.
    while await shown(accepting, old) is not grpc.StatusCode.UNAUTHENTICATED:  # noqa: ASYNC110
        await asyncio.sleep(0.1)


async def test_keys_are_used_on_while_the_issuer_is_down(
    accepting: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = local_issuer()
    monkeypatch.setattr(issuing, "FETCH_SECONDS", 0.0)
    monkeypatch.setattr(issuing, "FRESH_SECONDS", 0.0)
    rules = {"audience": AUDIENCE, "roles": RULES}
    checker = issuing.Issuer(IssuerConfig(issuer=there.url, **rules))
    with pytest.raises(Exception, match="does not answer"):
        await checker.caller(there.token())
    there.names_itself = "https://another.example"
    with there.serving():
        with pytest.raises(Exception, match="does not answer"):
            await checker.caller(there.token())
        there.names_itself = there.url
        assert (await checker.caller(there.token())).project == "lab"

    assert (await checker.caller(there.token("ec"))).project == "lab"
    with pytest.raises(UnauthenticatedError):
        await checker.caller(there.token("other", ECKey.generate_key("P-256", {"kid": "other"})))
    assert checker.failures >= 3
    await checker.close()


async def test_the_gateway_accepts_the_token_and_the_trail_names_the_subject(
    accepting: Registry, issuer: LocalIssuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_TOKEN", await Keys(accepting).make("WORKER"))
    async with gateway_serving(accepting.address, tmp_path) as served:

        def bearer(token: str) -> dict[str, str]:
            return {"authorization": f"Bearer {token}"}

        http: httpx.AsyncClient = served.http
        kit = {"name": "a", "jobs": [{"name": "work", "job_type": "JOB_TYPE_DOE"}]}
        mine = await http.post("/v1/kits", json=kit, headers=bearer(issuer.token()))
        viewer = bearer(issuer.token(realm_access=None, email="a@b", sub="lee"))
        other = await http.post("/v1/kits", json=kit, headers=viewer)
        hidden = await http.get(f"/v1/kits/{mine.json()['kit']['kit_id']}", headers=viewer)
        forged = await http.get("/v1/kits", headers=bearer(issuer.unsigned()))
        signed_in = await http.post("/login", data={"token": issuer.token()})
        listed = await http.get("/v1/kits")

        admin = bearer(issuer.token(realm_access={"roles": ["admins"]}, sub="root"))
        name = "vistaflow.api.registry.v1.RegistryService/ListRequests"
        trail = await http.post(f"/v1/rpc/{name}", json={}, headers=admin)

    assert mine.json()["kit"]["project"] == "lab", mine.text
    assert [other.status_code, hidden.status_code, forged.status_code] == [403, 404, 401]
    assert (signed_in.status_code, len(listed.json()["kits"])) == (303, 1)
    assert "kim@lab" in [request["actor"] for request in trail.json()["requests"]], trail.text


async def test_a_stream_ends_when_the_token_expires(
    accepting: Registry, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "SKEW_SECONDS", 0)
    token = issuer.token(exp=issuer.claims()["iat"] + 6)
    async with Keys(accepting).channel(token) as channel:
        stub: Any = RegistryServiceStub(channel)
        await new_kit(stub, project="lab")
        watch = stub.WatchStates(pb.WatchStatesRequest(include_snapshot=True))
        while (event := await watch.read()) is not grpc.aio.EOF and not event.HasField("end"):
            pass
        assert await code_of(stub.ListKits(pb.ListKitsRequest())) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"ISSUER": "https://a.example,https://b.example"}, "one URL"),
        ({"ISSUER": "http://a.example"}, "https://"),
        ({"ISSUER": "https://a.example", "AUDIENCE": ""}, "AUDIENCE is missing"),
        ({"ISSUER": "https://a.example", "ROLES": ""}, "ROLES is missing"),
        ({"ISSUER": "https://a.example", "ROLES": "a=b:cook"}, "`a=b:cook` is no CLAIM"),
        ({"ISSUER": "https://a.example", "ROLES": "a=b:editor"}, "have one project"),
        ({"ISSUER": "https://a.example", "ROLES": "a=b:admin:lab"}, "have one project"),
        ({"AUDIENCE": AUDIENCE}, "ISSUER is missing"),
    ],
)
def test_settings_that_cannot_be_are_named(
    settings: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"AUDIENCE": AUDIENCE, "ROLES": RULES} | settings).items():
        monkeypatch.setenv(f"VISTAFLOW_OIDC_{name}", value)
    with pytest.raises(StartError, match=problem):
        read_issuer(required=True)


def test_an_issuer_needs_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ISSUER", "https://a.example"), ("AUDIENCE", "b"), ("ROLES", RULES)):
        monkeypatch.setenv(f"VISTAFLOW_OIDC_{name}", value)
    with pytest.raises(StartError, match="no effect"):
        read_issuer(required=False)

"""A reader reads the final versions that its token names, and sees nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from keys import Keys

from tests.integration.gateway.readers import gateway_serving
from tests.integration.stages import refused
from vistaflow.api.common.v1 import access_pb2
from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

sys.path.insert(0, str(Path(__file__).parents[1] / "registry" / "datasets"))

from recording import Client, refusal

Code = grpc.StatusCode


async def reader_of(keys: Keys, *scopes: str) -> str:
    """The text of a token that an administrator makes."""
    request = registry_pb2.CreateTokenRequest(
        name="the shop", role=access_pb2.ROLE_READER, scopes=scopes
    )
    made = await (await keys.stub("ADMIN")).CreateToken(request)
    assert list(made.token.scopes) == [
        scope if "@" in scope else scope.replace(":read", "@final:read") for scope in scopes
    ]
    text: str = made.secret
    return text


async def recorded(keys: Keys) -> tuple[Client, Client]:
    """Datasets of two projects with three versions, the second of which is final."""
    admin, worker = [Client(keys.channel(await keys.make(role))) for role in ("ADMIN", "WORKER")]
    for project in ("mine", "theirs"):
        for name in ("whisky", "secret"):
            for version in range(3):
                job_id = await admin.job(project)
                await worker.record(name, {f"{project} {name} {version}": 1}, job_id=job_id)
            for alias, number in (("final", 2), ("draft", 3)):
                await admin.datasets.SetDatasetAlias(
                    pb.SetDatasetAliasRequest(
                        dataset=f"{project}.{name}", alias=alias, version=number
                    )
                )
    return admin, worker


async def test_a_reader_gets_the_final_version_and_nothing_else(keys: Keys) -> None:
    admin, _ = await recorded(keys)
    reader = Client(keys.channel(await reader_of(keys, "dataset:mine.whisky:read")))
    for name in ("mine.whisky", "mine.whisky@final", "whisky", "mine.whisky@2"):
        answer = await reader.get(name)
        assert answer.version.version == 2
        assert MessageToDict(answer.dataset) == {
            "project": "mine",
            "name": "whisky",
            "aliases": {"final": "2"},
        }
        assert not answer.version.job_id
        assert not answer.version.source
        assert answer.tables[0].rows == 1
    for name in ("mine.whisky@1", "mine.whisky@3", "mine.whisky@draft", "mine.secret@final"):
        assert await refusal(reader.get(name)) == (
            Code.NOT_FOUND,
            (await refusal(reader.get(name.replace(name.split("@")[0], "mine.never"))))[1].replace(
                "mine.never", name.split("@")[0]
            )
            if "secret" in name
            else f"there is no dataset `{name}`",
        )
    for name in ("theirs.whisky@final", "theirs.never"):
        assert (await refusal(reader.get(name)))[0] is Code.NOT_FOUND
    # The alias moves, and with it what the reader sees.
    moved = pb.SetDatasetAliasRequest(dataset="mine.whisky", alias="final", version=3)
    await admin.datasets.SetDatasetAlias(moved)
    assert (await reader.get("mine.whisky")).version.version == 3
    assert (await refusal(reader.get("mine.whisky@2")))[0] is Code.NOT_FOUND
    drafts = Client(keys.channel(await reader_of(keys, "dataset:mine.secret@draft:read")))
    assert (await drafts.get("mine.secret")).version.version == 3
    assert (await refusal(drafts.get("mine.secret@final")))[0] is Code.NOT_FOUND


async def test_a_reader_learns_of_the_server_where_it_is(keys: Keys) -> None:
    channel = keys.channel(await reader_of(keys, "dataset:mine.whisky:read"))
    info = await RegistryServiceStub(channel).GetServerInfo(registry_pb2.GetServerInfoRequest())
    assert set(MessageToDict(info)) == {"version", "services", "now", "caller"}
    assert {service.name for service in info.services} == {"registry"}


@pytest.mark.parametrize(
    ("role", "project", "scopes", "fields"),
    [
        ("READER", "", [], {"scopes", "project"}),
        ("READER", "", ["dataset:whisky:read"], {"scopes[0]", "project"}),
        ("READER", "", ["dataset:mine.whisky:write"], {"scopes[0]", "project"}),
        ("READER", "", ["dataset:mine.whisky@3:read"], {"scopes[0]", "project"}),
        ("READER", "", ["dataset:mine.a:read", "dataset:theirs.a:read"], {"scopes[1]"}),
        ("READER", "", ["dataset:mine.a:read", "dataset:mine.a@x:read"], {"scopes[1]"}),
        ("READER", "theirs", ["dataset:mine.a:read"], {"scopes[0]"}),
        ("VIEWER", "mine", ["dataset:mine.a:read"], {"scopes"}),
        ("ADMIN", "", ["dataset:mine.a:read"], {"scopes"}),
    ],
)
async def test_a_scope_that_cannot_be_is_named(
    keys: Keys, role: str, project: str, scopes: list[str], fields: set[str]
) -> None:
    request = registry_pb2.CreateTokenRequest(
        name="x", role=access_pb2.Role.Value(f"ROLE_{role}"), project=project, scopes=scopes
    )
    code, found = await refused((await keys.stub("ADMIN")).CreateToken(request))
    assert (code, set(found)) == (Code.INVALID_ARGUMENT, fields)


async def test_a_reader_reads_over_http_too(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await recorded(keys)
    text = await reader_of(keys, "dataset:mine.whisky:read")
    monkeypatch.setenv("VISTAFLOW_TOKEN", await keys.make("WORKER"))
    async with gateway_serving(keys.registry.address, tmp_path) as served:
        headers = {"authorization": f"Bearer {text}"}
        codes = {
            path: (await served.http.get(path, headers=headers)).status_code
            for path in (
                "/v1/datasets/mine.whisky",
                "/v1/datasets/mine.whisky@1",
                "/v1/datasets/mine.secret",
                "/v1/datasets",
                "/v1/kits",
                "/v1/jobs",
                "/v1/queries",
                "/v1/tokens",
                "/v1/events",
            )
        }
    assert codes.pop("/v1/datasets/mine.whisky") == 200
    assert codes.pop("/v1/datasets/mine.whisky@1") == 404
    assert codes.pop("/v1/datasets/mine.secret") == 404
    assert set(codes.values()) <= {403, 503}, codes
    assert 403 in codes.values()

"""Ingestion on a real registry: decks in, checked and kept, everything through gRPC."""

from __future__ import annotations

import io
import tarfile
import uuid
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from tests.integration.stages import finished, refused, stage_serving
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.models import struct_dict
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.deck import read_archive, shipped_deck, shipped_decks
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config

pytestmark = pytest.mark.asyncio(loop_scope="module")

DECK = """\
name: {name}
version: "{version}"
description: A resistor.
simulator: devsim
entry: resistor.py:simulate
parameters:
  - {{name: r, range: [1, 100], scale: log, unit: ohm, description: Resistance.}}
  - {{name: material, type: categorical, choices: [copper, gold]}}
responses:
  - {{name: current, unit: A, range: [0, 1]}}
"""
PROGRAM = "def simulate(parameters):\n    return {'current': 1 / parameters['r']}\n"


def files(name: str = "resistor", version: str = "1") -> dict[str, str]:
    return {"deck.yaml": DECK.format(name=name, version=version), "resistor.py": PROGRAM}


def packed(content: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def tarred(content: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def collect(*sources: pb.DeckSource, request_id: str = "") -> pb.CollectDecksRequest:
    return pb.CollectDecksRequest(
        request_id=request_id, spec=pb.CollectDecksSpec(sources=list(sources))
    )


@dataclass(frozen=True)
class Suite:
    """A registry and ingestion, both serving."""

    ingestion: rpc.IngestionServiceAsyncStub
    registry: RegistryClient
    home: Path
    shelf: Path

    async def collected(self, *sources: pb.DeckSource) -> common_pb2.Job:
        """The ended job of collecting those decks."""
        answer = await self.ingestion.CollectDecks(collect(*sources))
        return await finished(self.registry, answer.job)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_registry: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home, shelf = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("shelf")
    registry = RegistryClient(module_registry)
    config = Config(listen="127.0.0.1:0", deck_folders=(shelf,))
    # The job's process reads its settings from the environment, as in production.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_INGESTION_DECK_FOLDERS", str(shelf))
        async with stage_serving(SERVICE, config, home=home, registry=module_registry) as channel:
            yield Suite(
                ingestion=rpc.IngestionServiceStub(channel),
                registry=registry,
                home=home,
                shelf=shelf,
            )
    await registry.close()


async def test_decks_from_everywhere_are_collected_and_kept_once(suite: Suite) -> None:
    (suite.shelf / "folder").mkdir()
    for name, text in files("on_shelf").items():
        (suite.shelf / "folder" / name).write_text(text)
    (suite.shelf / "packed.tar.gz").write_bytes(tarred(files("packed")))
    sources = [
        pb.DeckSource(name="branin"),
        pb.DeckSource(path="folder"),
        pb.DeckSource(path="packed.tar.gz"),
        pb.DeckSource(archive=packed(files("inline"))),
        pb.DeckSource(archive=tarred(files("inline"))),
    ]

    job = await suite.collected(*sources)

    assert job.status == common_pb2.STATUS_FINISHED, job.reason
    decks = struct_dict(job.result)["decks"]
    assert [each["name"] for each in decks] == [
        "branin",
        "on_shelf",
        "packed",
        "inline",
        "inline",
    ]
    assert decks[0]["deck_id"] == shipped_deck("branin").digest
    assert decks[3]["deck_id"] == decks[4]["deck_id"]
    for each in decks:
        path = suite.home / "artifacts" / each["uri"].removeprefix("artifact://")
        assert read_archive(path.read_bytes()).digest == each["deck_id"]
        assert path.stat().st_size == each["bytes"]
    assert decks[1]["parameters"] == ["r", "material"]
    assert decks[1]["responses"] == ["current"]
    done = {each.task_name for each in job.tasks if each.status == common_pb2.STATUS_FINISHED}
    assert done >= {"branin", "on_shelf", "packed", "inline"}
    assert len(list((suite.home / "artifacts" / "decks").glob("*.zip"))) == 4


async def test_a_deck_is_told_with_its_files(suite: Suite) -> None:
    await suite.collected(pb.DeckSource(archive=packed(files("told", "2.10"))))

    deck = (await suite.ingestion.GetDeck(pb.GetDeckRequest(deck="told"))).deck

    assert (deck.name, deck.version, deck.simulator, deck.shipped) == (
        "told",
        "2.10",
        "devsim",
        False,
    )
    resistance, material = deck.parameters
    assert (resistance.low, resistance.high, resistance.unit) == (1, 100, "ohm")
    assert resistance.scale == common_pb2.PARAMETER_SCALE_LOG
    assert [each.string_value for each in material.choices] == ["copper", "gold"]
    assert (deck.responses[0].name, deck.responses[0].unit) == ("current", "A")
    told = {each.path: each.text for each in deck.files}
    assert told["resistor.py"] == PROGRAM
    assert deck.HasField("created_at")
    again = (await suite.ingestion.GetDeck(pb.GetDeckRequest(deck=deck.deck_id))).deck
    assert again == deck


async def test_the_newest_version_of_a_name_is_found(suite: Suite) -> None:
    for version in ("1", "2"):
        await suite.collected(pb.DeckSource(archive=packed(files("grown", version))))

    assert (await suite.ingestion.GetDeck(pb.GetDeckRequest(deck="grown"))).deck.version == "2"
    listed = await suite.ingestion.ListDecks(pb.ListDecksRequest(name_contains="GROW"))
    assert {each.version for each in listed.decks} == {"1", "2"}


async def test_decks_are_listed_page_by_page(suite: Suite) -> None:
    await suite.collected(pb.DeckSource(archive=packed(files("listed"))))
    whole = await suite.ingestion.ListDecks(pb.ListDecksRequest(page_size=1000))
    names = [each.name for each in whole.decks]
    assert set(names) >= {"listed", *shipped_decks()}
    assert not any(one.text for each in whole.decks for one in each.files)

    paged: list[str] = []
    request = pb.ListDecksRequest(page_size=3)
    while True:
        page = await suite.ingestion.ListDecks(request)
        paged += [each.deck_id for each in page.decks]
        assert len(page.decks) <= 3
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert paged == [each.deck_id for each in whole.decks]
    shipped = await suite.ingestion.ListDecks(pb.ListDecksRequest(shipped=True))
    assert {each.name for each in shipped.decks} == set(shipped_decks())
    own = await suite.ingestion.ListDecks(pb.ListDecksRequest(shipped=False))
    assert "listed" in {each.name for each in own.decks}
    assert not {each.name for each in own.decks} & set(shipped_decks())


async def test_the_same_request_again_is_the_same_job(suite: Suite) -> None:
    request = collect(pb.DeckSource(name="branin"), request_id=str(uuid.uuid4()))

    first, second = [(await suite.ingestion.CollectDecks(request)).job.job_id for _ in range(2)]

    assert first == second


async def test_every_mistake_of_every_source_is_told_before_anything_is_queued(
    suite: Suite,
) -> None:
    before = len((await suite.registry.list_jobs()).jobs)
    wrong = files() | {"deck.yaml": DECK.format(name="No Good", version="1").replace("100]", "0]")}

    code, told = await refused(
        suite.ingestion.CollectDecks(
            collect(
                pb.DeckSource(archive=packed(wrong)),
                pb.DeckSource(archive=b"no archive"),
                pb.DeckSource(path="../secret"),
                pb.DeckSource(),
            )
        )
    )

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert any("spec.sources[0]" in each and "name" in each for each in told), told
    assert any("spec.sources[0]" in each and "parameters[0].range" in each for each in told)
    assert {each.partition("]")[0] for each in told} == {f"spec.sources[{at}" for at in range(4)}
    assert len((await suite.registry.list_jobs()).jobs) == before


@pytest.mark.parametrize(
    "source",
    [pb.DeckSource(name="brannin"), pb.DeckSource(path="nowhere"), pb.DeckSource(name="f" * 64)],
)
async def test_a_deck_that_is_nowhere_is_not_found(suite: Suite, source: pb.DeckSource) -> None:
    code, _ = await refused(suite.ingestion.CollectDecks(collect(source)))

    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_link_out_of_the_deck_folder_is_refused(suite: Suite, tmp_path: Path) -> None:
    for name, text in files("outside").items():
        (tmp_path / name).write_text(text)
    (suite.shelf / "link").symlink_to(tmp_path)

    code, _ = await refused(suite.ingestion.CollectDecks(collect(pb.DeckSource(path="link"))))

    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_requests_beyond_the_limits_are_refused(suite: Suite) -> None:
    for request in (collect(), collect(*[pb.DeckSource(name="branin")] * 101)):
        code, told = await refused(suite.ingestion.CollectDecks(request))
        assert (code, set(told)) == (grpc.StatusCode.INVALID_ARGUMENT, {"spec.sources"})
    code, told = await refused(
        suite.ingestion.ListDecks(pb.ListDecksRequest(page_size=-1, page_token="é"))
    )
    assert (code, set(told)) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_size", "page_token"})
    code, _ = await refused(suite.ingestion.GetDeck(pb.GetDeckRequest(deck="brannin")))
    assert code is grpc.StatusCode.NOT_FOUND

"""Queries, imports and conversions as OpenLineage events at a real receiver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.pipeline.receiver import Receiver, receiving
from tests.integration.stages import finished, stage_serving
from vistaflow.api.ingestion.v1 import ingestion_pb2, ingestion_pb2_grpc
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.tasks import ended
from vistaflow_services.ingestion.__main__ import SERVICE as INGESTION
from vistaflow_services.ingestion.config import Config as IngestionConfig
from vistaflow_services.pipeline.deliveries import loop
from vistaflow_services.pipeline.deliveries.loop import Courier
from vistaflow_services.pipeline.deliveries.sender import Sender
from vistaflow_services.query.__main__ import SERVICE as QUERY
from vistaflow_services.query.config import Config as QueryConfig

SCHEMA = json.loads((Path(__file__).parent / "openlineage.json").read_text("utf-8"))


@dataclass(frozen=True)
class Suite:
    """The services, a worker that delivers, and the catalog that it delivers to."""

    queries: Any
    ingestion: Any
    registry: RegistryClient
    catalog: Receiver
    database: str

    async def run(self, sql: str, **fields: Any) -> pb.Query:
        """A query that has ended."""
        request = pb.SubmitQueryRequest(user_query=sql, **fields)
        query: pb.Query = (await self.queries.SubmitQuery(request)).query
        async with asyncio.timeout(120):
            while query.status not in (4, 5, 6):
                await asyncio.sleep(0.05)
                query = (
                    await self.queries.GetQuery(pb.GetQueryRequest(query_id=query.query_id))
                ).query
        return query

    async def events(self, count: int) -> list[Any]:
        """The events of the catalog, each valid."""
        events = [message.json for message in await self.catalog.until(count)]
        for event in events:
            jsonschema.validate(
                event, SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
            )
        return events

    def queue(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, options="-csearch_path=vistadb_test") as connection:
            return connection.execute(
                "SELECT command, model_name_fqn, from_fqn, state, attempts, last_error "
                "FROM model_queue ORDER BY id"
            ).fetchall()


@pytest.fixture
async def suite(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Suite]:
    data = tmp_path / "data"
    data.mkdir()
    (data / "prices.csv").write_text("item,price\napple,1.10\npear,2\n", encoding="utf-8")
    (data / "shops.json").write_text('[{"name": "a"}, {"name": "b"}]', encoding="utf-8")
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
    monkeypatch.setenv("VISTAFLOW_OPENLINEAGE_API_KEY", "a-key")
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.05)
    with receiving() as catalog:
        monkeypatch.setenv("VISTAFLOW_OPENLINEAGE_URL", f"http://{catalog.place}")
        async with serving(database) as registry:
            # Longer than a machine under load takes to send one.
            registry.outbox.lease = timedelta(seconds=30)
            place = {"home": tmp_path, "registry": registry.address}
            async with (
                stage_serving(QUERY, QueryConfig(listen="127.0.0.1:0"), **place) as queries,
                stage_serving(INGESTION, IngestionConfig(listen="127.0.0.1:0"), **place) as imports,
            ):
                client = RegistryClient(registry.address, actor="test")
                courier = asyncio.create_task(Courier(client, Sender("0")).run())
                yield Suite(
                    queries=rpc.QueryServiceStub(queries),
                    ingestion=ingestion_pb2_grpc.IngestionServiceStub(imports),
                    registry=client,
                    catalog=catalog,
                    database=database,
                )
                await ended([courier])
                await client.close()


def of_run(events: list[Any], run_id: str) -> list[Any]:
    return [event for event in events if event.get("run", {}).get("runId") == run_id]


async def test_what_went_from_files_to_a_dataset_to_a_result_is_told_in_order(
    suite: Suite,
) -> None:
    spec = ingestion_pb2.ImportSpec(dataset="prices")
    spec.tables.add().source.files.file_names.append("raw/prices.csv")
    imported = await suite.ingestion.ImportDataset(ingestion_pb2.ImportDatasetRequest(spec=spec))
    await finished(suite.registry, imported.job)
    convert = ingestion_pb2.ConvertJsonRequest(
        file_names=["raw/shops.json"], output_file_name="shops"
    )
    converted = await suite.ingestion.ConvertJson(convert)
    await finished(suite.registry, converted.job)
    sql = "select item as name, price * 2 as twice, 1 as one from prices"
    query = await suite.run(sql, register_as="doubled")
    kit = await suite.registry.get_kit(query.kit_id)
    await finished(suite.registry, kit.jobs[1])

    events = await suite.events(9)
    types = [event.get("eventType", "DATASET") for event in events]
    assert sorted(types) == ["COMPLETE"] * 4 + ["DATASET"] + ["START"] * 4
    for job_id in (imported.job.job_id, converted.job.job_id, query.query_id, kit.jobs[1].job_id):
        assert [event["eventType"] for event in of_run(events, job_id)] == ["START", "COMPLETE"]

    _, complete = of_run(events, query.query_id)
    prices = "vistaflow.dataset.default.prices"
    result = f'vistaflow.results.default."{query.query_id}"'
    assert complete["job"]["facets"]["sql"]["query"] == sql
    (source,), (target,) = complete["inputs"], complete["outputs"]
    assert (source["name"], target["name"]) == (prices, result)
    assert source["facets"]["version"]["datasetVersion"].startswith("1:")
    assert [field["name"] for field in target["facets"]["schema"]["fields"]] == [
        "name", "twice", "one",
    ]  # fmt: skip
    assert target["outputFacets"]["outputStatistics"]["rowCount"] == 2
    origins = {
        column: [field["field"] for field in entry["inputFields"]]
        for column, entry in target["facets"]["columnLineage"]["fields"].items()
    }
    assert origins == {"name": ["item"], "twice": ["price"]}

    _, loaded = of_run(events, imported.job.job_id)
    assert [table["name"] for table in loaded["inputs"]] == ['vistaflow.files."raw/prices.csv"']
    assert loaded["outputs"][0]["facets"]["version"]["datasetVersion"] == "1"
    _, shops = of_run(events, converted.job.job_id)
    assert [table["name"] for table in shops["inputs"]] == ['vistaflow.files."raw/shops.json"']
    _, registered = of_run(events, kit.jobs[1].job_id)
    assert [table["name"] for table in registered["inputs"]] == [result]
    (announced,) = [event["dataset"] for event in events if "dataset" in event]
    assert announced["name"] == "vistaflow.dataset.default.doubled"
    assert [field["name"] for field in announced["facets"]["schema"]["fields"]] == [
        "name", "twice", "one",
    ]  # fmt: skip
    assert {message.headers["authorization"] for message in suite.catalog.messages} == {
        "Bearer a-key"
    }
    assert {message.path for message in suite.catalog.messages} == {"/api/v1/lineage"}
    async with asyncio.timeout(120):
        while any(row[3] != "SENT" for row in suite.queue()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert suite.queue() == [
        ("LINEAGE", result, prices, "SENT", 1, ""),
        ("INGESTION", "vistaflow.dataset.default.doubled", result, "SENT", 1, ""),
    ]


async def test_a_query_that_fails_or_is_canceled_ends_its_run_and_a_refused_event_is_dead(
    suite: Suite,
) -> None:
    suite.catalog.answer = lambda message: 422 if message.json["eventType"] == "FAIL" else 201
    failed = await suite.run("select cast(item as bigint) as n from (values 'a') as t(item)")
    long = await suite.queries.SubmitQuery(
        pb.SubmitQueryRequest(
            user_query="select count(*) from unnest(sequence(1, 1000000)) a(x), "
            "unnest(sequence(1, 1000000)) b(y) where x * y % 7 = 3"
        )
    )
    async with asyncio.timeout(120):
        while (await suite.registry.get_job(long.query.query_id)).status != 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await suite.queries.CancelQuery(pb.CancelQueryRequest(query_id=long.query.query_id))
    events = await suite.events(3)
    assert [event["eventType"] for event in of_run(events, long.query.query_id)] == [
        "START", "ABORT",
    ]  # fmt: skip
    (refused,) = [m.json for m in suite.catalog.messages if m.status == 422]
    jsonschema.validate(refused, SCHEMA)
    assert refused["run"]["runId"] == failed.query_id
    assert refused["run"]["facets"]["errorMessage"]["message"]
    async with asyncio.timeout(120):
        while True:
            answer = await suite.registry.call(
                suite.registry.outbox.ListDeliveries,
                outbox_pb2.ListDeliveriesRequest(state=outbox_pb2.DELIVERY_STATE_DEAD),
            )
            if answer.deliveries:
                break
            await asyncio.sleep(0.05)
    (dead,) = answer.deliveries
    assert (dead.event_type, dead.answer_status, dead.target) == ("FAIL", 422, "openlineage")
    assert dead.job_id == failed.query_id
    # A job that was made by hand, with any spec, holds nobody up.
    spec = {"sources": [7, {"fqn": 1}], "lineage": {"origins": {"a": [["x", 1]], "b": 2}}}
    request = registry_pb2.CreateKitRequest(name="by hand", spec=spec)
    job = request.jobs.add(name="q", job_type="JOB_TYPE_QUERY")
    assert job.name
    made = await suite.registry.create_kit(request)
    state = {"job_id": made.kit.jobs[0].job_id, "attempt": 1}
    for seq, status in enumerate(("STATUS_RUNNING", "STATUS_FINISHED"), start=1):
        await suite.registry.append(
            [
                registry_pb2.AppendStatesRequest(
                    states=[{**state, "seq": seq, "status": status}]
                ).states[0]
            ]
        )
    after = await suite.run("select 2 as x")
    async with asyncio.timeout(120):
        while not of_run([m.json for m in suite.catalog.taken], after.query_id)[1:]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

"""Data kits on real services: nights on a site that changes, and files with mistakes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from google.protobuf import any_pb2

from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import refused, stage_serving, until
from tests.site import Site, serving_site  # type: ignore[import-not-found]
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow.api.pipeline.v1 import pipeline_pb2_grpc as rpc
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.query.v1.query_pb2_grpc import QueryServiceStub
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.config import read_config
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.doe.__main__ import SERVICE as DOE
from vistaflow_services.doe.config import Config as DoeConfig
from vistaflow_services.ingestion.__main__ import SERVICE as INGESTION
from vistaflow_services.ingestion.config import Config as IngestionConfig
from vistaflow_services.pipeline.__main__ import SERVICE
from vistaflow_services.pipeline.config import Config
from vistaflow_services.query.__main__ import SERVICE as QUERY
from vistaflow_services.query.config import Config as QueryConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")

SELECTORS = """\
name: shop
urls: [http://SITE/1, http://SITE/2]
html:
  rows: li
  columns: {name: i, price: {selector: b, type: number, optional: true}}
"""
KIT = """\
name: nightly whisky
labels: {flow: whisky}
jobs:
  pages:
    collect: shop.yaml
  notes:
    convert: {file_names: [raw/notes.json], output_file_name: notes, format: parquet}
  shop:
    import:
      dataset: shop
      source: ${pages.result}
      primary_key: name
      rules: {named: name <> '', priced: {column: price, minimum: 1, not_null: true}}
      dedupe: best:price
  tasters:
    import: {dataset: tasters, source: "${notes.tables}"}
  cheap:
    query:
      user_query: |
        select s.name, count(*) as notes, max(:least) as least, max(${shop.accepted}) as total
        from ${shop.dataset} s left join ${tasters.dataset} t on t.whisky = s.name
        where (select count(*) from files."raw/notes.json") = 3
        group by s.name order by s.name limit 5
      parameters: {least: 3}
  best:
    import: {dataset: best, source: "${cheap.result}", primary_key: [name]}
  final:
    deliver:
      dataset: ${best.dataset}
      require: {accepted: ">= 2"}
      output: raw/final
"""
NOTES = [
    {"whisky": "Talisker", "note": "smoke"},
    {"whisky": "Talisker", "note": "pepper"},
    {"whisky": "Ardbeg", "note": "lemon, sweet"},
]


@dataclass(frozen=True)
class Suite:
    """A registry, and the services of data kits."""

    pipeline: rpc.PipelineServiceAsyncStub
    query: Any
    registry: RegistryClient
    site: Site
    data: Path
    home: Path
    database: str

    def request(self, kit: str = KIT) -> pb.RunKitRequest:
        """A kit with its selectors."""
        selectors = SELECTORS.replace("SITE", self.site.place)
        return pb.RunKitRequest(kit_yaml=kit, files={"shop.yaml": selectors})

    async def ended(self, kit_id: int) -> dict[str, common_pb2.Job]:
        """The jobs of a kit once none of them moves."""
        async with asyncio.timeout(300):
            while True:
                kit = await self.registry.get_kit(kit_id)
                waits = {job.status for job in kit.jobs} & {
                    common_pb2.STATUS_QUEUED,
                    common_pb2.STATUS_RUNNING,
                }
                if not waits:
                    return {job.name: job for job in kit.jobs}
                await asyncio.sleep(0.1)

    async def night(self, kit: str = KIT) -> dict[str, dict[str, Any]]:
        """The results of the jobs of a kit, which must end well."""
        answer = await self.pipeline.RunKit(self.request(kit))
        jobs = await self.ended(answer.kit.kit_id)
        bad = {name: job.reason for name, job in jobs.items() if job.status != 4}
        assert not bad, bad
        return {name: struct_to_dict(job.result) for name, job in jobs.items()}

    async def mistakes(self, kit: str, **files: str) -> dict[str, str]:
        """What ValidateKit finds, by field."""
        named = {name.replace("_", "."): text for name, text in files.items()}
        request = pb.ValidateKitRequest(kit_yaml=kit, files=named)
        answer = await self.pipeline.ValidateKit(request)
        assert bool(answer.jobs) == (not answer.mistakes)
        return {mistake.field: mistake.description for mistake in answer.mistakes}

    async def webhook(self, name: str) -> None:
        request = outbox_pb2.SetWebhookRequest(
            name=name, url="http://127.0.0.1:9/", secrets=["whsec_" + "c2VjcmV0" * 4]
        )
        await self.registry.call(self.registry.outbox.SetWebhook, request)

    async def version(self, dataset: str) -> int:
        request = datasets_pb2.GetDatasetRequest(dataset=dataset)
        answer = await self.registry.call(self.registry.datasets.GetDataset, request)
        return int(answer.version.version)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Suite]:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    (data / "notes.json").write_text(json.dumps(NOTES))
    async with AsyncExitStack() as stack:
        recorder = await stack.enter_async_context(serving(module_database))
        registry = RegistryClient(recorder.address, actor="test")
        stack.push_async_callback(registry.close)
        site = stack.enter_context(serving_site())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={data}")
        patch.setenv("VISTAFLOW_INGESTION_COLLECT_HOSTS", site.place)
        patch.setenv("VISTAFLOW_INGESTION_COLLECT_DELAY_SECONDS", "0")
        for name in ("INGESTION", "QUERY"):
            patch.setenv(f"VISTAFLOW_{name}_LISTEN", "127.0.0.1:0")
        channels = {}
        for service, config in (
            (INGESTION, read_config(IngestionConfig, "VISTAFLOW_INGESTION_")),
            (QUERY, read_config(QueryConfig, "VISTAFLOW_QUERY_")),
            (DOE, DoeConfig(listen="127.0.0.1:0", warm=False)),
            (SERVICE, Config(listen="127.0.0.1:0")),
        ):
            channels[service.name] = await stack.enter_async_context(
                stage_serving(service, config, home=home, registry=recorder.address)
            )
        async with asyncio.timeout(60):
            while {"ingestion", "query", "doe"} - {  # noqa: ASYNC110
                service.name for service in (await registry.server_info()).services
            }:
                await asyncio.sleep(0.05)
        yield Suite(
            pipeline=rpc.PipelineServiceStub(channels["pipeline"]),
            query=QueryServiceStub(channels["query"]),
            registry=registry,
            site=site,
            data=data,
            home=home,
            database=module_database,
        )


def listed(**prices: str) -> str:
    rows = "".join(f"<li><i>{name}</i> <b>{price}</b>" for name, price in prices.items())
    return f"<ul>{rows}</ul>"


async def test_three_nights_fetch_what_changed_and_deliver_what_is_good(suite: Suite) -> None:
    suite.site.html("/1", listed(Talisker="₩ 58,000", Ardbeg="₩ 71,000"))
    suite.site.html("/2", listed(Talisker="₩ 60,000", Nameless="sold out"))
    limits = datasets_pb2.DatasetLimits(max_versions=2, quota_bytes=1 << 20)
    update = datasets_pb2.UpdateDatasetRequest(dataset="shop", limits=limits)
    await suite.registry.call(suite.registry.datasets.UpdateDataset, update)
    first = await suite.night()

    assert (first["pages"]["unchanged"], first["shop"]["accepted"]) == (0, 2)
    assert first["shop"]["rejected"] == 2  # one is a duplicate, one has no price
    assert (first["cheap"]["rows"], first["final"]["pinned"]) == (2, "best@1")
    assert await suite.version("best@final") == 1
    assert (suite.data / "final" / "best.csv").read_text() == (
        '"name","notes","least","total"\n"Ardbeg",1,3,2\n"Talisker",2,3,2\n'
    )

    query_id = first["cheap"]["result_name"]
    fetch = query_pb2.FetchResultRequest(query_id=query_id, format=query_pb2.RESULT_FORMAT_CSV)
    parts = [part.data async for part in suite.query.FetchResult(fetch)]
    assert b"".join(parts).decode().splitlines()[1] == '"Ardbeg",1,3,2'
    asked = (await suite.query.GetQuery(query_pb2.GetQueryRequest(query_id=query_id))).query
    assert asked.user_query.startswith("select s.name")
    assert asked.converted_query.startswith("SELECT s.name")
    assert {source.name for source in asked.sources} >= {'files."raw/notes.json"'}
    # Also the file, which the SQL alone names.
    tables = [
        "vistaflow.dataset.default.shop",
        "vistaflow.dataset.default.tasters",
        'vistaflow.files."raw/notes.json"',
    ]
    with psycopg.connect(suite.database, options="-csearch_path=vistadb_test") as db:
        models = db.execute(
            "SELECT fully_qualified_name, version FROM fusion_model WHERE job_id = %s ORDER BY id",
            [query_id],
        ).fetchall()
        edges = db.execute(
            "SELECT from_fqn FROM model_queue WHERE job_id = %s ORDER BY id", [query_id]
        ).fetchall()
        row = db.execute(
            "SELECT user_query, converted_query, offset_, limit_ FROM query_job WHERE id = %s",
            [query_id],
        ).fetchone()
    assert sorted(name for name, _ in models) == sorted(name for (name,) in edges) == tables
    assert [version.partition(":")[0] for _, version in sorted(models)][:2] == ["1", "1"]
    assert row is not None
    assert row[0].startswith("select s.name")
    assert row[1].startswith("SELECT s.name")
    assert row[2:] == (0, 5)

    suite.site.html("/2", listed(Talisker="₩ 60,000", Lagavulin="₩ 110,000"))
    second = await suite.night()
    assert (second["pages"]["unchanged"], second["shop"]["accepted"]) == (1, 3)
    assert await suite.version("best@final") == 2
    assert '"Lagavulin",1,3,3' in (suite.data / "final" / "best.csv").read_text()

    suite.site.html("/1", listed(Talisker="sold out"))
    suite.site.html("/2", listed(Lagavulin="₩ 110,000"))
    answer = await suite.pipeline.RunKit(suite.request())
    jobs = await suite.ended(answer.kit.kit_id)
    assert jobs["best"].status == common_pb2.STATUS_FINISHED
    assert "NOT_DELIVERED: accepted is 1, not >= 2; final stays best@2" in jobs["final"].reason
    assert await suite.version("best@final") == 2
    listed_versions = datasets_pb2.ListDatasetVersionsRequest(dataset="shop")
    method = suite.registry.datasets.ListDatasetVersions
    versions = (await suite.registry.call(method, listed_versions)).versions
    assert [version.version for version in versions] == [3, 2]


WRONG = """\
name: wrong
jbs: 1                                       # unknown key of a kit with `jobs`; did you mean `jobs`
jobs:
  pages:
    collect:
      urls: ["http://elsewhere.example/"]    # is no host that the operator lets
      html:
        rows: li
        columns: {name: {selector: b, typ: url}}   # is no key here
      delay: soon                            # is no number of seconds
  more:
    collect:
      urls: ["http://elsewhere.example/"]    # is no host that the operator lets
      html: {rows: li..x, columns: {a: b}}   # is no CSS selector
  gone:
    collect: absent.yaml                     # is no file beside this one
  notes:
    convert:
      file_names: [raw/absent.json]          # raw/absent.json
      output_file_name: notes
      formt: csv                             # unknown key; did you mean `format`
      iv: "00"                               # keep the key with the operator
  load:
    import:
      dataset: No                            # must be 1 to 63
      source: ${pages.pages}                 # is a whole number, not rows
      rules: {good: price >}                 # is not an expression
  old:
    import:
      dataset: fine
      source: {dataset: unheard_of}          # unheard_of
  ask:
    query:
      user_query: |
        select name
        frm ${load.dataset}                  # column
      limit: ${load.dataset}                 # is a version of a dataset, not a whole number
  other:
    query: {user_query: "select 1 as one, from ask"}   # line 1, column
  away:
    query:
      user_query: select * from nothing_here   # there is no table `nothing_here`
  final:
    deliver:
      dataset: ${load.version}               # is a whole number, not a version of a dataset
      require: {acepted: ">= 1"}             # is no figure
      output: nowhere/out                    # names no data root
  tune:
    design: {deck: mosfett, stop_after: doe} # mosfett
  sized:
    design:
      deck: welded_beam
      seed: ${other.rows}
      goals: minimize cost + ${other.rows}   # a value of a job is never a part of a text
      design:
        size: ${load.dataset}                # is a version of a dataset, not a whole number
        parameters:
          h: [0.1, "${othr.rows}"]           # `othr` is no other job; did you mean `other`
      stop_after: ${other.rows}              # cannot be used here; it can in seed, design.size
  late:
    depends_on: [finl]                       # `finl` is no other job; did you mean `final`
    deliver: {dataset: "${lod.dataset}"}     # `lod` is no other job; did you mean `load`
  none: {}                                   # say what the job does by one of
  wrong:
    deliver: {dataset: "${pages.tables}"}    # collect publishes no `tables`
  first:                                     # the jobs wait for each other: `first` needs `second`
    depends_on: [second]
    query: {user_query: select 1 as one}
  second:
    query: {user_query: "select ${first.rows} as two"}
"""


async def test_every_mistake_is_reported_at_its_line(suite: Suite) -> None:
    found = await suite.mistakes(WRONG)

    missing = []
    for number, line in enumerate(WRONG.splitlines(), start=1):
        _, _, wanted = line.rpartition("# ")
        if "# " not in line:
            continue
        here = [text for field, text in found.items() if field.startswith(f"kit.yaml:{number} ")]
        if not any(wanted in text for text in here):
            missing.append((number, wanted, here))
    assert not missing, found
    lines = {int(field.partition(":")[2].split()[0]) for field in found}
    wrong = {number for number, line in enumerate(WRONG.splitlines(), 1) if "# " in line}
    assert lines == wrong, {field: text for field, text in found.items()}
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=WRONG))


MIXED = """\
name: tuned beam
jobs:
  sizes:
    query: {user_query: "select * from (values 1, 2, 3, 4, 5, 6, 7, 8) as v (a)"}
  tune:
    design:
      deck: welded_beam
      seed: ${sizes.rows}
      design:
        generator: sobol
        size: ${sizes.rows}
        parameters: {l: ["${sizes.rows}", 9], t: "${sizes.rows}"}
      stop_after: doe
  runs:
    import: {dataset: runs, source: "${tune.result}"}
  counted:
    query:
      user_query: |
        select count(*) as n, max(${tune.runs}) as runs, min(floor("x.l")) as l, max("x.t") as t
        from ${runs.dataset}
"""


async def test_a_design_is_part_of_a_data_kit(suite: Suite) -> None:
    results = await suite.night(MIXED)

    assert {"sizes", "tune.collect", "tune.design", "runs", "counted"} == set(results)
    assert results["runs"]["accepted"] == 8
    files = results["counted"]["files"]
    path = suite.home / "artifacts" / files[0]["uri"].removeprefix("artifact://")
    assert pq.read_table(path).to_pylist() == [{"n": 8, "runs": 8, "l": 8.0, "t": 8.0}]
    stopped = await suite.mistakes(MIXED.replace("${tune.runs}", "${tune.best}"))
    assert stopped == {
        "kit.yaml:17 jobs.counted.query": "`${tune.best}`: the design stops before that stage"
    }


async def test_a_value_that_a_design_cannot_have_fails_its_stage(suite: Suite) -> None:
    kit = """\
name: no points
jobs:
  none: {query: {user_query: select 1 as one where false}}
  tune: {design: {deck: branin, design: {size: "${none.rows}"}, stop_after: doe}}
"""
    answer = await suite.pipeline.RunKit(pb.RunKitRequest(kit_yaml=kit))
    jobs = await suite.ended(answer.kit.kit_id)

    assert jobs["tune.collect"].status == common_pb2.STATUS_FINISHED
    assert jobs["tune.design"].status == common_pb2.STATUS_FAILED
    assert "size" in jobs["tune.design"].reason


API = """\
name: orders of an API
jobs:
  orders:
    collect:
      urls: [http://SITE/api/1]
      json: {records: data.items, next: next}
  rows:
    convert: {collection: "${orders.result}", output_file_name: rows, format: parquet}
  raw:
    convert:
      collection: {job: "${orders.result}", pages: true}
      output_file_name: raw
  orders_of_rows:
    import: {dataset: api_orders, source: "${rows.tables}", primary_key: _record}
  lines:
    import: {dataset: api_lines, source: {job: "${raw.tables}", table: data.items.lines}}
  counted:
    query:
      user_query: |
        select count(*) as n, max(${rows.records}) as orders, max(${raw.records}) as pages
        from ${lines.dataset}
"""


async def test_what_an_api_answers_is_converted_and_imported(suite: Suite) -> None:
    lines = [{"sku": "가", "n": 1}, {"sku": "b", "n": 2}]
    for page, items in (
        (1, [{"id": 1, "lines": lines}, {"id": 2, "lines": lines[:1]}]),
        (2, [{"id": 3, "lines": lines, "note": "late"}]),
    ):
        answer = {"data": {"items": items}, "next": f"/api/{page + 1}" if page == 1 else None}
        body = json.dumps(answer, indent=1).encode()
        suite.site.pages[f"/api/{page}"] = (200, {"Content-Type": "application/json"}, body)
    results = await suite.night(API.replace("SITE", suite.site.place))

    assert (results["rows"]["records"], results["raw"]["records"]) == (3, 2)
    assert (results["orders_of_rows"]["accepted"], results["lines"]["accepted"]) == (3, 5)
    path = suite.home / "artifacts" / results["counted"]["files"][0]["uri"][len("artifact://") :]
    assert pq.read_table(path).to_pylist() == [{"n": 5, "orders": 3, "pages": 2}]


async def test_a_conversion_names_one_collection_that_has_json(suite: Suite) -> None:
    html = "  shop: {collect: {urls: [http://SITE/1], html: {rows: li, columns: {name: i}}}}"
    kit = """\
name: wrong conversions
jobs:
  HTML
  plain: {collect: {urls: [http://SITE/1]}}
  typed:
    collect: {urls: [http://SITE/1], json: {columns: {a: b}}, format: parquet}
  pages:
    convert: {output_file_name: a, collection: {job: "${shop.result}", pages: true}}
  nothing:
    convert: {output_file_name: b, collection: "${plain.result}"}
  parquet:
    convert: {output_file_name: c, collection: "${typed.result}"}
  both:
    convert: {output_file_name: d, collection: "${shop.result}", file_names: [raw/notes.json]}
  other:
    convert: {output_file_name: e, collection: "${both.tables}"}
  figure:
    convert: {output_file_name: f, collection: "${shop.rows}"}
  named:
    convert: {output_file_name: g, collection: shop}
"""
    found = await suite.mistakes(kit.replace("  HTML", html).replace("SITE", suite.site.place))

    assert {field.split()[1].split(".")[1]: text for field, text in found.items()} == {
        "pages": "the pages of `shop` are HTML; leave `pages` out to read its rows",
        "nothing": "`plain` reads no rows; give it `json`, or say `pages: true`",
        "parquet": "`typed` writes Parquet, which is no JSON; import its rows",
        "both": "are given beside collection; leave out one of both",
        "other": "`${both.tables}` is no result of a `collect` job",
        "figure": "`${shop.rows}` is no result of a `collect` job",
        "named": "give an earlier job, as ${pages.result} or {job: …, pages: true}",
    }
    lines = {int(field.partition(":")[2].split()[0]) for field in found}
    assert lines == {8, 10, 12, 14, 16, 18, 20}


async def test_a_schedule_runs_a_data_kit_and_refuses_a_wrong_one(suite: Suite) -> None:
    kit = suite.request()
    timing = schedules_pb2.Timing(cron="0 2 * * *", time_zone="Asia/Seoul")
    create = pb.CreateScheduleRequest(
        name="whisky", timing=timing, kit_yaml=kit.kit_yaml, files=kit.files
    )
    wrong = pb.CreateScheduleRequest()
    wrong.CopyFrom(create)
    wrong.kit_yaml = KIT.replace("${shop.accepted}", "${shop.acepted}")
    _, mistakes = await refused(suite.pipeline.CreateSchedule(wrong))
    assert mistakes == {
        "kit.yaml:20 jobs.cheap.query.user_query": "column 69: `${shop.acepted}`: import publishes "
        "no `acepted`; did you mean `accepted`?"
    }

    await suite.pipeline.CreateSchedule(create)
    fire = (await suite.pipeline.RunSchedule(pb.RunScheduleRequest(name="whisky"))).fire
    made = await suite.registry.get_kit(fire.kit_id)
    assert (made.labels["schedule"], len(made.jobs)) == ("whisky", 7)
    cancel = registry_pb2.CancelKitRequest(kit_id=fire.kit_id)
    await suite.registry.call(suite.registry.stub.CancelKit, cancel)


async def test_a_job_sees_the_project_of_its_kit_alone(suite: Suite) -> None:
    spec = query_pb2.SubmitQueryRequest(user_query="select * from default.runs")
    template = common_pb2.JobTemplate()
    template.request.Pack(spec)
    packed = any_pb2.Any()
    packed.Pack(template)
    job = registry_pb2.NewJob(name="spy", job_type=common_pb2.JOB_TYPE_QUERY, spec=packed)
    request = registry_pb2.CreateKitRequest(name="spy", project="other", jobs=[job])
    created = await suite.registry.create_kit(request)
    jobs = await suite.ended(created.kit.kit_id)

    assert jobs["spy"].status == common_pb2.STATUS_FAILED
    assert "there is no table `default.runs`" in jobs["spy"].reason


async def test_a_value_that_is_missing_fails_its_job_before_it_starts(suite: Suite) -> None:
    template = common_pb2.JobTemplate(
        values=[common_pb2.JobValue(field="dataset", job="made", key="pinned", type="VARCHAR")]
    )
    template.request.Pack(ingestion_pb2.DeliverSpec())
    packed = any_pb2.Any()
    packed.Pack(template)
    jobs = [
        registry_pb2.NewJob(name="made", job_type=common_pb2.JOB_TYPE_IMPORT),
        registry_pb2.NewJob(
            name="gone", job_type=common_pb2.JOB_TYPE_DELIVER, spec=packed, depends_on=["made"]
        ),
    ]
    request = registry_pb2.CreateKitRequest(name="by hand", jobs=jobs)
    kit = (await suite.registry.create_kit(request)).kit
    made = next(job for job in kit.jobs if job.name == "made")
    rows = [common_pb2.State(job_id=made.job_id, status=status, seq=status) for status in (3, 4)]
    rows[1].metadata.update({"result": {"version": 1}})
    await suite.registry.append(rows)
    ended = await suite.ended(kit.kit_id)

    assert ended["gone"].status == common_pb2.STATUS_FAILED
    assert "NO_VALUE: job made has published no `pinned`" in ended["gone"].reason


async def test_the_end_of_a_data_kit_is_announced_to_the_webhooks_that_it_names(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = 'name: announced\nnotify: [ops]\njobs: {one: {query: {user_query: "select 1 as a"}}}\n'
    assert await suite.mistakes(kit) == {
        "kit.yaml:2 notify[0].webhook": "the project has no webhook `ops`; make it with "
        "`vistaflow webhook set`"
    }
    monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", "127.0.0.1:9")
    await suite.webhook("ops")
    await suite.night(kit)
    request = outbox_pb2.ListDeliveriesRequest(target="ops")

    async def announced() -> bool:
        answer = await suite.registry.call(suite.registry.outbox.ListDeliveries, request)
        return bool(answer.deliveries)

    await until(announced)

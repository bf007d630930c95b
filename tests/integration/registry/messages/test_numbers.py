"""Numbers in metadata and specs: as given in every place, or refused under their field."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2, status_pb2

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parents[1]))

from rig import Rig
from stream_writer import StreamWriter, task_row
from traffic import external_job


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """The fields that a refusal names."""
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    bad = error_details_pb2.BadRequest()
    return [
        violation.field
        for each in status_pb2.Status.FromString(details).details
        if each.Unpack(bad)
        for violation in bad.field_violations
    ]


async def test_a_number_is_one_text_in_psql_by_whatever_way_it_came(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    given = {
        "a": 1,
        "b": 1.0,
        "c": -0.0,
        "d": 1e18,
        "e": 2.0**53,
        "f": 0.1,
        "g": [2.0, {"h": -0.0}],
    }
    quick, careful = task_row(job_id, "quick"), task_row(job_id, "careful", reason="why")
    own = common.State(job_id=job_id, status=common.STATUS_FINISHED)
    for row in (quick, careful):
        row.metadata.update(given)
    own.metadata.update({"result": given})
    request = pb.AppendStatesRequest(
        request_id=str(uuid.uuid4()), states=[quick, careful, own], numbers_checked=True
    )
    await rig.stub.AppendStates(request)
    await rig.stub.CreateKit(
        pb.CreateKitRequest(name="k", spec=quick.metadata, numbers_checked=True)
    )
    texts = (
        "SELECT metadata::text FROM mlops_totalstate_table WHERE metadata ? 'a'",
        "SELECT (metadata -> 'result')::text FROM mlops_totalstate_table WHERE metadata ? 'result'",
        "SELECT metadata::text FROM current_state WHERE metadata ? 'a'",
        "SELECT result::text FROM jobs WHERE result IS NOT NULL",
        "SELECT data_info::text FROM doe_step WHERE data_info IS NOT NULL",
        "SELECT spec::text FROM kits WHERE spec IS NOT NULL",
        "SELECT state -> 'metadata' #>> '{}' FROM request_info, "
        "jsonb_array_elements(data -> 'states') AS state WHERE state -> 'metadata' ? 'a'",
    )
    with psycopg.connect(rig.dsn) as connection:
        connection.execute("SET search_path TO vistadb_test")
        found = [{row[0] for row in connection.execute(query)} for query in texts]
    expected = (
        '{"a": 1, "b": 1, "c": 0, "d": 1000000000000000000, "e": 9007199254740992, "f": 0.1, '
        '"g": [2, {"h": 0}]}'
    )
    assert found == [{expected}] * len(texts)


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, -(2**60) - 1])
async def test_a_whole_number_that_was_rounded_is_refused_on_every_way_and_nothing_is_written(
    rig: Rig, number: int
) -> None:
    _, job_id = await external_job(rig.stub)
    row = task_row(job_id, "t")
    row.metadata.update({"id": [{"of": number}]})
    with pytest.raises(grpc.aio.AioRpcError) as appended:
        await rig.stub.AppendStates(pb.AppendStatesRequest(states=[task_row(job_id, "s"), row]))
    with pytest.raises(grpc.aio.AioRpcError) as created:
        await rig.stub.CreateKit(pb.CreateKitRequest(name="k", spec=row.metadata))
    writer = StreamWriter(rig.stub).open()
    await writer.send([row])
    await writer.over()
    assert writer.error is not None
    assert fields_of(appended.value) == ["states[1].metadata.id[0].of"]
    assert fields_of(created.value) == ["spec.id[0].of"]
    assert fields_of(writer.error) == ["states[0].metadata.id[0].of"]
    assert (await rig.stub.ListStates(pb.ListStatesRequest(after_revision=2))).states == []


async def test_a_list_of_integers_fills_what_the_limit_allows(rig: Rig) -> None:
    _, job_id = await external_job(rig.stub)
    rows = [task_row(job_id, "quick"), task_row(job_id, "careful", reason="why")]
    for row in rows:
        row.metadata.update({"n": [7] * 32_000})
    await rig.stub.AppendStates(pb.AppendStatesRequest(states=rows))
    listed = (await rig.stub.ListStates(pb.ListStatesRequest(after_revision=2))).states
    assert [list(each.metadata["n"]) for each in listed] == [[7] * 32_000] * 2

"""Every status becomes its own exception, with all that the service told."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

import vistaflow
from tests.unit.client.scripted import ScriptedRegistry, info, refuse  # type: ignore[import-not-found]
from vistaflow.aio import connect
from vistaflow.errors import BY_CODE, FieldViolation, VistaError


@pytest.mark.parametrize("code", [each for each in grpc.StatusCode if each.value[0]])
async def test_every_status_becomes_its_own_exception(
    scripted: ScriptedRegistry, code: grpc.StatusCode
) -> None:
    scripted.answers = [refuse(code, "not today", details=[info("BECAUSE")])]

    async with connect(scripted.address) as client:
        with pytest.raises(VistaError) as caught:
            await client.kit(1)

    assert type(caught.value) is BY_CODE[code]
    assert (caught.value.message, caught.value.reason) == ("not today", "BECAUSE")
    assert isinstance(caught.value.__cause__, type(None))
    assert caught.value.__suppress_context__  # no grpc.RpcError in what the caller sees


async def test_every_mistake_and_the_error_id_are_told(scripted: ScriptedRegistry) -> None:
    wrong = error_details_pb2.BadRequest(
        field_violations=[
            {"field": "jobs[0].name", "description": "is empty; give one"},
            {"field": "project", "description": "has a blank"},
        ]
    )
    request = error_details_pb2.RequestInfo(request_id="e-17")
    scripted.answers = [
        refuse(
            grpc.StatusCode.INVALID_ARGUMENT,
            "2 mistakes",
            details=[info("INVALID"), request, wrong, error_details_pb2.DebugInfo(detail="?")],
        )
    ]

    async with connect(scripted.address) as client:
        with pytest.raises(vistaflow.InvalidArgumentError) as caught:
            await client.create_kit("x")

    assert caught.value.error_id == "e-17"
    assert caught.value.violations == (
        FieldViolation(field="jobs[0].name", description="is empty; give one"),
        FieldViolation(field="project", description="has a blank"),
    )


async def test_a_status_without_details_is_told_by_its_message(scripted: ScriptedRegistry) -> None:
    scripted.answers = [refuse(grpc.StatusCode.NOT_FOUND, "")]

    async with connect(scripted.address) as client:
        with pytest.raises(vistaflow.NotFoundError, match="NOT_FOUND") as caught:
            await client.kit(1)

    assert caught.value.violations == ()
    assert caught.value.reason == ""


async def test_nobody_there_is_unavailable_within_the_timeout() -> None:
    async with connect("127.0.0.1:1", timeout=0.5) as client:
        with pytest.raises(vistaflow.UnavailableError):
            await client.server_info()


def test_the_exceptions_have_one_root() -> None:
    named = [getattr(vistaflow, each) for each in vistaflow.__all__ if each.endswith("Error")]

    assert all(issubclass(each, vistaflow.VistaError) for each in named)
    assert set(BY_CODE) == {each for each in grpc.StatusCode if each.value[0]}

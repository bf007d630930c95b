"""Reflection as tools use it, in both versions: every call, message and field with its comment."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.rpc.reflection import ALPHA, V1
from vistaflow_services.core.server.shell import make_server

MODULES: tuple[Any, ...] = (
    registry_pb2, pipeline_pb2, ingestion_pb2, doe_pb2, ml_pb2, optimize_pb2, query_pb2,
    artifacts_pb2,
)  # fmt: skip
SERVICES = [
    service.full_name
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
]
REGISTRY = SERVICES[0]


@contextlib.asynccontextmanager
async def reflecting(version: str, *services: str) -> AsyncIterator[Any]:
    """Asks a server of these services by one version of the protocol."""
    server = make_server(*services)
    address = server.bind("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(
            f"/{version}/ServerReflectionInfo",
            request_serializer=pb.ServerReflectionRequest.SerializeToString,
            response_deserializer=pb.ServerReflectionResponse.FromString,
        )(timeout=60)

        async def ask(**request: Any) -> pb.ServerReflectionResponse:
            message = pb.ServerReflectionRequest(host="here", **request)
            await call.write(message)
            answer: pb.ServerReflectionResponse = await call.read()
            assert (answer.valid_host, answer.original_request) == ("here", message)
            return answer

        yield ask
        call.cancel()
    await server.stop(0)


def files(answer: pb.ServerReflectionResponse) -> list[descriptor_pb2.FileDescriptorProto]:
    texts = answer.file_descriptor_response.file_descriptor_proto
    return [descriptor_pb2.FileDescriptorProto.FromString(text) for text in texts]


def comments(file: descriptor_pb2.FileDescriptorProto) -> dict[tuple[int, ...], str]:
    return {
        tuple(each.path): each.leading_comments.strip() for each in file.source_code_info.location
    }


def places(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every service, call, message, field and value of a file, and its path there."""

    def of_message(message: Any, path: tuple[int, ...], name: str) -> Iterator[Any]:
        if message.options.map_entry:
            return
        yield name, path
        for at, field in enumerate(message.field):
            yield f"{name}.{field.name}", (*path, 2, at)
        for at, inner in enumerate(message.nested_type):
            yield from of_message(inner, (*path, 3, at), f"{name}.{inner.name}")

    for at, message in enumerate(file.message_type):
        yield from of_message(message, (4, at), message.name)
    for at, enum in enumerate(file.enum_type):
        yield enum.name, (5, at)
        for inner, value in enumerate(enum.value):
            yield value.name, (5, at, 2, inner)
    for at, service in enumerate(file.service):
        yield service.name, (6, at)
        for inner, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, at, 2, inner)


@pytest.mark.parametrize("version", [ALPHA, V1])
@pytest.mark.parametrize("service", SERVICES)
async def test_every_call_and_field_of_a_service_is_told_with_its_comment(
    version: str, service: str
) -> None:
    async with reflecting(version, service) as ask:
        file, *needed = files(await ask(file_containing_symbol=service))
        names = {each.name for each in (file, *needed)}
        assert all(set(each.dependency) <= names for each in (file, *needed))
        bare = []
        for each in (file, *needed):
            if each.package.startswith("vistaflow."):
                told = comments(each)
                bare += [name for name, path in places(each) if not told.get(path)]
        assert bare == []
        for method in file.service[0].method:
            (again, *_) = files(await ask(file_containing_symbol=f"{service}.{method.name}"))
            assert again == file


@pytest.mark.parametrize("version", [ALPHA, V1])
async def test_a_comment_is_the_one_of_the_proto(version: str) -> None:
    async with reflecting(version, REGISTRY) as ask:
        (file, *_) = files(await ask(file_containing_symbol=f"{REGISTRY}.CancelJob"))
    told = comments(file)
    paths = dict(places(file))
    assert told[paths["RegistryService.CancelJob"]].startswith(
        "Cancels one job. Its dependents stay INIT."
    )
    assert told[paths["Kit.name"]] == "Its name, for people. 1 to 200 characters."


@pytest.mark.parametrize("version", [ALPHA, V1])
async def test_what_a_tool_may_ask_is_answered(version: str) -> None:
    async with reflecting(version, REGISTRY) as ask:
        listed = (await ask(list_services="")).list_services_response.service
        assert [each.name for each in listed] == sorted(
            [REGISTRY, ALPHA, V1, "grpc.health.v1.Health"]
        )
        for name in (ALPHA, V1, "grpc.health.v1.Health"):
            (file, *_) = files(await ask(file_containing_symbol=name))
            assert f"{file.package}.{file.service[0].name}" == name
        (file, *_) = files(await ask(file_by_filename="vistaflow/api/common/v1/common.proto"))
        assert file.package == "vistaflow.api.common.v1"
        assert comments(file)

        options = "google.protobuf.MethodOptions"
        told = (await ask(all_extension_numbers_of_type=options)).all_extension_numbers_response
        assert (told.base_type_name, 50271 in told.extension_number) == (options, True)
        asked = {"containing_type": options, "extension_number": 50271}
        (file, *_) = files(await ask(file_containing_extension=asked))
        assert file.name == "vistaflow/api/common/v1/access.proto"


@pytest.mark.parametrize(
    "request_",
    [
        {"file_by_filename": "no/such.proto"},
        {"file_containing_symbol": "no.such"},
        {"file_containing_symbol": f"{REGISTRY}.NoSuch"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": "a." * 1000},
        {"file_containing_extension": {"containing_type": "no.such", "extension_number": 1}},
        {"file_containing_extension": {"containing_type": REGISTRY, "extension_number": -1}},
        {"all_extension_numbers_of_type": "no.such"},
        {"all_extension_numbers_of_type": REGISTRY},
    ],
)
async def test_what_is_not_there_is_told_and_the_stream_goes_on(request_: dict[str, Any]) -> None:
    async with reflecting(V1, REGISTRY) as ask:
        assert (await ask(**request_)).error_response.error_code == 5
        assert (await ask()).error_response.error_code == 3
        assert files(await ask(file_containing_symbol=REGISTRY))

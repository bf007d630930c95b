"""Reflection: describes calls and messages to tools, with the comments of the protos.

The generated code has descriptors without comments; those come from a file beside it. Version 1 of
the protocol and its forerunner v1alpha differ in their name alone, so one servicer serves both.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterable
from functools import cache
from importlib import resources
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2 as pb

ALPHA = "grpc.reflection.v1alpha.ServerReflection"
V1 = "grpc.reflection.v1.ServerReflection"

COMMENTS = "comments.binpb.gz"

Pool = Any


class Reflection:
    """Serves both versions.

    Args:
        services: Full names of the services that there are.
        pool: Knows their descriptors.
    """

    def __init__(self, services: Iterable[str], pool: Pool = None) -> None:
        self._pool = pool or descriptor_pool.Default()
        _describe_v1(self._pool)
        self._services = sorted({*services, ALPHA, V1})
        self._files: dict[str, list[bytes]] = {}

    def add_to(self, server: grpc.aio.Server) -> None:
        """Has a server serve it."""
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self.answers,
            pb.ServerReflectionRequest.FromString,
            pb.ServerReflectionResponse.SerializeToString,
        )
        for service in (ALPHA, V1):
            method = {"ServerReflectionInfo": handler}
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, method),)
            )
            server.add_registered_method_handlers(service, method)

    async def answers(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], context: Any
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """An answer a request."""
        async for request in requests:
            yield self._answer(request)

    def _answer(self, request: Any) -> Any:
        answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            match kind:
                case "list_services":
                    for name in self._services:
                        answer.list_services_response.service.add(name=name)
                case "file_by_filename":
                    file = self._pool.FindFileByName(request.file_by_filename)
                    self._put(file, answer)
                case "file_containing_symbol":
                    self._put(self._file_of(request.file_containing_symbol), answer)
                case "file_containing_extension":
                    query = request.file_containing_extension
                    message = self._pool.FindMessageTypeByName(query.containing_type)
                    number = query.extension_number
                    extension: Any = self._pool.FindExtensionByNumber(message, number)
                    self._put(extension.file, answer)
                case "all_extension_numbers_of_type":
                    name = request.all_extension_numbers_of_type
                    message = self._pool.FindMessageTypeByName(name)
                    response = answer.all_extension_numbers_response
                    response.base_type_name = message.full_name
                    extensions = self._pool.FindAllExtensions(message)
                    response.extension_number.extend(sorted(field.number for field in extensions))
                case _:
                    _refuse(answer, grpc.StatusCode.INVALID_ARGUMENT, "the request asks nothing")
        except KeyError:
            _refuse(answer, grpc.StatusCode.NOT_FOUND, f"no such {(kind or '').split('_')[-1]}")
        return answer

    def _file_of(self, symbol: str) -> FileDescriptor:
        """The file that defines a symbol of any kind.

        Raises:
            KeyError: None does.
        """
        try:
            file: FileDescriptor = self._pool.FindFileContainingSymbol(symbol)
            return file
        except KeyError:
            # Methods are found by their service, as the pool knows none by its name.
            service, _, name = symbol.rpartition(".")
            descriptor = self._pool.FindServiceByName(service)
            holder: FileDescriptor = descriptor.methods_by_name[name].containing_service.file
            return holder

    def _put(self, file: FileDescriptor, answer: Any) -> None:
        """Puts a file and all files that it imports into an answer."""
        serialized = self._files.get(file.name)
        if serialized is None:
            needed: dict[str, FileDescriptor] = {}
            _collect(file, needed)
            serialized = self._files[file.name] = [_bytes_of(part) for part in needed.values()]
        answer.file_descriptor_response.file_descriptor_proto.extend(serialized)


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    """The file and all that it imports, each once."""
    files[file.name] = file
    for dependency in file.dependencies:
        if dependency.name not in files:
            _collect(dependency, files)


def _bytes_of(file: FileDescriptor) -> bytes:
    """A file's descriptor with its comments."""
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    comments = _comments().get(file.name)
    if comments is not None:
        proto.source_code_info.CopyFrom(comments)
    return proto.SerializeToString()


@cache
def _comments() -> dict[str, descriptor_pb2.SourceCodeInfo]:
    """The comments of each of our files, by its name."""
    text = gzip.decompress(resources.files("vistaflow.api").joinpath(COMMENTS).read_bytes())
    files = descriptor_pb2.FileDescriptorSet.FromString(text).file
    return {file.name: file.source_code_info for file in files}


def _describe_v1(pool: Pool) -> None:
    """Makes version 1 known to a pool, from the forerunner's descriptor, if it is not."""
    try:
        pool.FindServiceByName(V1)
        return
    except KeyError:
        pass
    proto = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(proto)
    old, new = proto.package, V1.rpartition(".")[0]
    proto.name, proto.package = "grpc/reflection/v1/reflection.proto", new

    def renamed(name: str) -> str:
        return name.replace(f".{old}.", f".{new}.", 1)

    for message in proto.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = renamed(field.type_name)
    for method in proto.service[0].method:
        method.input_type = renamed(method.input_type)
        method.output_type = renamed(method.output_type)
    pool.AddSerializedFile(proto.SerializeToString())


def _refuse(answer: Any, code: grpc.StatusCode, message: str) -> None:
    answer.error_response.error_code = code.value[0]
    answer.error_response.error_message = message

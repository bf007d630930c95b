"""Which function serves each method of the registry, and how its messages are read and written.

The generated table would serve every method by the servicer, with parsed requests and messages as
answers. This one differs in three places:

* AppendStates and StreamStates get large requests unparsed, to parse their rows one by one.
* WatchStates, WatchMany, GetKit and GetJob may answer with bytes: messages in wire form.
* GetKit and GetJob are answered from memory where possible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.server.shell import Server
from vistaflow_services.registry.cached_reads import CachedReads
from vistaflow_services.registry.messages.raw import checks, read_rows
from vistaflow_services.registry.servicer import RegistryServicer

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["RegistryService"]
SERVICE_NAME: Final = _SERVICE.full_name

_READERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "AppendStates": read_rows(pb.AppendStatesRequest),
    "StreamStates": read_rows(pb.StreamStatesRequest),
}
"""What parses the requests of a method, where it is not the generated code."""

_KINDS: Final[dict[tuple[bool, bool], Callable[..., Any]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}
"""Handlers by whether the requests and the answers are streams."""


def serve(server: Server, servicer: RegistryServicer, reads: CachedReads | None = None) -> None:
    """Has a server serve the registry.

    Args:
        server: Not started yet.
        servicer: Serves all methods.
        reads: Serves GetKit and GetJob in place of the servicer, if given.
    """
    server.checks.update(checks())
    server.add_registered_method_handlers(SERVICE_NAME, _handlers(servicer, reads))


def _handlers(
    servicer: RegistryServicer, reads: CachedReads | None
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    served = {method.name: getattr(servicer, method.name) for method in _SERVICE.methods}
    if reads is not None:
        served |= {"GetKit": reads.get_kit, "GetJob": reads.get_job}
    return {
        method.name: _KINDS[method.client_streaming, method.server_streaming](
            served[method.name],
            _READERS.get(method.name) or GetMessageClass(method.input_type).FromString,
            _serialize,
        )
        for method in _SERVICE.methods
    }


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()

"""Server decks: a registered gRPC server that computes points, in any language."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import grpc
from google.protobuf import struct_pb2

from vistaflow._rpc import forks
from vistaflow._rpc.credentials import stays_here, tls_credentials
from vistaflow.api.simulator.v1 import simulator_pb2 as pb
from vistaflow.api.simulator.v1 import simulator_pb2_grpc as rpc
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.decks.deck import DECK_FILE, Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.bridges.registered import SERVERS, registered, servers
from vistaflow_services.simulators.outcome import Failure, Outcome, clipped, failed, gated
from vistaflow_services.simulators.processes.limits import Limits
from vistaflow_services.simulators.processes.supervisor import Canceled

MAX_BYTES: Final = 16 * 1024 * 1024
"""Largest answer."""

_POLL_SECONDS: Final = 0.1
_FAILURES: Final = {
    pb.FAILURE_CRASHED: Failure.CRASHED,
    pb.FAILURE_NO_CONVERGENCE: Failure.NO_CONVERGENCE,
    pb.FAILURE_TIMEOUT: Failure.TIMEOUT,
    pb.FAILURE_INFEASIBLE: Failure.INFEASIBLE,
    pb.FAILURE_LICENSE: Failure.LICENSE,
}
_CODES: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Failure.LICENSE,
}


def check(deck: Deck) -> None:
    """Refuses a deck whose server is not registered.

    Raises:
        InvalidError: Its field is `server`.
    """
    registered(servers(), deck.server, "server", SERVERS)


def compute(
    deck: Deck, point: Point, limits: Limits, should_stop: Callable[[], bool]
) -> tuple[Outcome, str]:
    """The outcome of one point and what the server sent as its log.

    Raises:
        Canceled: If `should_stop` said so; the call is canceled.
    """
    stub = rpc.SimulatorServiceStub(
        _channel(registered(servers(), deck.server, "server", SERVERS), os.getpid())
    )
    request = pb.EvaluateRequest(
        deck=deck.name,
        deck_version=deck.version,
        parameters={name: _value(value) for name, value in point.items()},
        responses=[response.extract for response in deck.responses],
        files={path: content for path, content in deck.files.items() if path != DECK_FILE},
    )
    start = time.perf_counter()
    call: Any = stub.Evaluate.future(request, timeout=limits.seconds)
    while True:
        try:
            answer: pb.EvaluateResponse = call.result(timeout=_POLL_SECONDS)
            break
        except grpc.FutureTimeoutError:
            if should_stop():
                call.cancel()
                raise Canceled(f"the run of {deck.name} was stopped") from None
        except grpc.RpcError as error:
            return _refused(deck, point, error, limits, time.perf_counter() - start), ""
    seconds = time.perf_counter() - start
    if answer.failure:
        kind = _FAILURES.get(answer.failure, Failure.CRASHED)
        message = answer.message or "the server gave no reason"
        return failed(point, kind, message, seconds), answer.log
    return gated(point, deck.responses, dict(answer.responses), seconds), answer.log


def _refused(deck: Deck, point: Point, error: Any, limits: Limits, seconds: float) -> Outcome:
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"no result after {limits.seconds:g} s"
    elif code is grpc.StatusCode.UNAVAILABLE:
        message = f"the simulator server `{deck.server}` does not answer: is it up?"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = (
            f"the server `{deck.server}` has no {pb.DESCRIPTOR.package}.SimulatorService/Evaluate"
        )
    else:
        message = f"the server `{deck.server}` answered {code.name}: {error.details()}"
    return failed(point, _CODES.get(code, Failure.CRASHED), clipped(message), seconds)


@lru_cache(maxsize=32)
def _channel(address: str, _process: int) -> grpc.Channel:
    """A channel of this process; it connects again by itself."""
    forks.note_use()
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", MAX_BYTES)]
    if stays_here(address):
        options.append(("grpc.enable_http_proxy", 0))
        return grpc.insecure_channel(address, options=options)
    credentials = tls_credentials()
    if credentials is None:
        if os.environ.get("VISTAFLOW_ALLOW_INSECURE") == "1":
            return grpc.insecure_channel(address, options=options)
        raise UnavailableError(
            f"the simulator server {address} is on another machine and there is no TLS: set "
            "VISTAFLOW_TLS_CA, or VISTAFLOW_ALLOW_INSECURE=1 where the network itself is private"
        )
    return grpc.secure_channel(address, credentials, options=options)


def _value(value: float | int | str) -> struct_pb2.Value:
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    return struct_pb2.Value(number_value=value)

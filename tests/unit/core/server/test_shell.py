from __future__ import annotations

import asyncio
import contextlib
import http.server
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import obstore
import pytest
from google.protobuf import wrappers_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vistaflow_services.core import errors
from vistaflow_services.core.rpc.status import error_of
from vistaflow_services.core.server.shell import (
    Server,
    ServerSettings,
    StartError,
    make_server,
    reach_this_machine_directly,
    run,
)
from vistaflow_services.stores import bucket

NAME = "vistaflow.api.registry.v1.RegistryService"
TEST_SERVICE = "test.Service"
SECRET = "secret aes256cbckey=deadbeef in /srv/private/table"
Text = wrappers_pb2.StringValue

STREAMS = ("unary_stream", "stream_unary", "stream_stream", "stream_stream_by_context")
KINDS = ("unary_unary", *STREAMS)


def handlers(act: Callable[[Any], Any]) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """One method a kind of RPC, each of which does `act` after it has read its requests."""

    async def done(value: Any) -> Any:
        result = act(value)
        return await result if asyncio.iscoroutine(result) else result

    async def unary_unary(request: Any, context: Any) -> Any:
        return await done(request)

    async def unary_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield Text(value="first")
        yield await done(request)

    async def stream_unary(requests: Any, context: Any) -> Any:
        seen = [each async for each in requests]
        return await done(seen[0])

    async def stream_stream(requests: Any, context: Any) -> AsyncIterator[Any]:
        async for each in requests:
            yield await done(each)

    async def by_context(requests: Any, context: Any) -> None:
        request = await context.read()
        await context.write(await done(request))

    codec = {
        "request_deserializer": Text.FromString,
        "response_serializer": Text.SerializeToString,
    }
    return {
        "unary_unary": grpc.unary_unary_rpc_method_handler(unary_unary, **codec),
        "unary_stream": grpc.unary_stream_rpc_method_handler(unary_stream, **codec),
        "stream_unary": grpc.stream_unary_rpc_method_handler(stream_unary, **codec),
        "stream_stream": grpc.stream_stream_rpc_method_handler(stream_stream, **codec),
        "stream_stream_by_context": grpc.stream_stream_rpc_method_handler(by_context, **codec),
    }


@contextlib.asynccontextmanager
async def serving(
    act: Callable[[Any], Any], settings: ServerSettings | None = None
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    server = make_server(NAME, settings=settings)
    server.add_registered_method_handlers(TEST_SERVICE, handlers(act))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(TEST_SERVICE, handlers(act))]
    )
    address = server.bind("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield server, channel
    finally:
        await server.stop(0.1)


async def call(
    channel: grpc.aio.Channel, kind: str, data: bytes | None = None, seconds: float | None = 5
) -> list[str]:
    path = f"/{TEST_SERVICE}/{kind}"
    request = Text(value="hello").SerializeToString() if data is None else data

    async def requests() -> AsyncIterator[bytes]:
        yield request

    if kind == "unary_unary":
        answers = [await channel.unary_unary(path)(request, timeout=seconds)]
    elif kind == "unary_stream":
        answers = [each async for each in channel.unary_stream(path)(request, timeout=seconds)]
    elif kind == "stream_unary":
        answers = [await channel.stream_unary(path)(requests(), timeout=seconds)]
    else:
        stream = channel.stream_stream(path)(requests(), timeout=seconds)
        answers = [each async for each in stream]
    return [Text.FromString(each).value for each in answers]


async def failure(
    channel: grpc.aio.Channel, kind: str, data: bytes | None = None, seconds: float | None = 5
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(channel, kind, data, seconds)
    return caught.value


def details(error: grpc.aio.AioRpcError) -> list[Any]:
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = []
    for each in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RequestInfo,
        ):
            message = kind()
            if each.Unpack(message):
                found.append(message)
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_succeeds_is_answered(kind: str) -> None:
    async with serving(lambda request: Text(value=request.value.upper())) as (_, channel):
        first = ["first"] if kind == "unary_stream" else []
        assert await call(channel, kind) == [*first, "HELLO"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "thrown", [ValueError(SECRET), ExceptionGroup(SECRET, [OSError(SECRET)]), StopAsyncIteration()]
)
async def test_an_unforeseen_exception_tells_the_caller_nothing_but_an_id(
    kind: str, thrown: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def act(request: Any) -> Any:
        raise thrown

    async with serving(act) as (_, channel):
        error = await failure(channel, kind)
    assert error.code() is grpc.StatusCode.INTERNAL
    told = f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
    assert "secret" not in told
    assert "private" not in told
    info, request = details(error)
    assert info == error_details_pb2.ErrorInfo(reason="INTERNAL", domain="vistaflow")
    assert f"id {request.request_id}" in (error.details() or "")
    logged = [each for each in caplog.records if getattr(each, "error_id", "")]
    assert [each.error_id for each in logged] == [request.request_id]
    assert logged[0].exc_info is not None


@pytest.mark.parametrize("kind", KINDS)
async def test_a_response_of_the_wrong_type_is_an_internal_error(kind: str) -> None:
    async with serving(lambda request: SECRET) as (_, channel):
        error = await failure(channel, kind)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_error_keeps_its_code_reason_and_violations(kind: str) -> None:
    violations = [errors.FieldViolation(field="jobs[2].name", description="is taken; choose anew")]

    def act(request: Any) -> Any:
        raise errors.InvalidError(
            "two mistakes", reason="TAKEN", violations=violations, metadata={"kit": "7"}
        )

    async with serving(act) as (_, channel):
        error = await failure(channel, kind)
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "two mistakes")
    info, request = details(error)
    assert info == error_details_pb2.ErrorInfo(
        reason="TAKEN", domain="vistaflow", metadata={"kit": "7"}
    )
    assert [(each.field, each.description) for each in request.field_violations] == [
        ("jobs[2].name", "is taken; choose anew")
    ]


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidError,
        errors.NotFoundError,
        errors.ExistsError,
        errors.ConflictError,
        errors.ExpiredError,
        errors.ExhaustedError,
        errors.UnavailableError,
        errors.StaleAttemptError,
    ],
)
async def test_every_error_comes_back_as_itself_on_the_other_side(
    kind: type[errors.ServiceError],
) -> None:
    violations = (errors.FieldViolation(field="a.b", description="no"),)

    def act(request: Any) -> Any:
        raise kind("no ünicode harm", violations=violations, metadata={"x": "y"})

    async with serving(act) as (_, channel):
        error = error_of(await failure(channel, "unary_unary"))
    assert type(error) is kind
    assert (error.message, error.reason) == ("no ünicode harm", kind.reason)
    assert (error.violations, error.metadata) == (violations, {"x": "y"})


async def test_hundreds_of_long_violations_still_reach_the_caller() -> None:
    def act(request: Any) -> Any:
        found = errors.Violations()
        for number in range(500):
            found.add(f"jobs[{number}].depends_on[0]", "ü" * 900)
        found.check()

    async with serving(act) as (_, channel):
        error = await failure(channel, "unary_unary")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    *_, request = details(error)
    shown = len(request.field_violations) - 1
    assert shown >= 3
    assert request.field_violations[-1].description.startswith(f"and {500 - shown} more mistakes")


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_no_message_are_an_invalid_argument(kind: str) -> None:
    async with serving(lambda request: Text()) as (_, channel):
        error = await failure(channel, kind, data=b"\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)[0].reason == "MALFORMED"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_whose_own_wait_was_canceled_ends_the_call(kind: str) -> None:
    def act(request: Any) -> Any:
        raise asyncio.CancelledError

    async with serving(act) as (_, channel):
        assert (await failure(channel, kind)).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_canceled_by_its_caller_stops_the_handler(kind: str) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def act(request: Any) -> Any:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async with serving(act) as (_, channel):
        for seconds in (0.2, 2, 20):  # On a busy machine a call may be over before it begins.
            error = await failure(channel, kind, seconds=seconds)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if begun.is_set():
                break
        async with asyncio.timeout(60):
            await stopped.wait()


async def test_a_unary_call_without_a_deadline_gets_the_default_one() -> None:
    settings = ServerSettings(default_timeout=0.2)
    async with serving(lambda request: asyncio.sleep(60), settings) as (_, channel):
        error = await failure(channel, "unary_unary", seconds=None)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "not done within 0.2 s; set a longer deadline"


async def test_a_request_larger_than_the_limit_is_refused() -> None:
    settings = ServerSettings(max_receive_bytes=1000)
    async with serving(lambda request: Text(), settings) as (_, channel):
        data = Text(value="x" * 2000).SerializeToString()
        error = await failure(channel, "unary_unary", data=data)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_health_follows_readiness_for_each_service_name() -> None:
    ready = [False]

    async def is_ready() -> bool:
        if ready[0] is None:
            raise OSError("the database is gone")
        return ready[0]

    server = make_server(NAME, settings=ServerSettings(ready_interval=0.02))
    stop = asyncio.Event()
    address = server.bind("127.0.0.1:0")
    running = asyncio.create_task(run(server, ready=is_ready, stop=stop))
    response = health_pb2.HealthCheckResponse
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for value, expected in [
            (False, response.NOT_SERVING),
            (True, response.SERVING),
            (None, response.NOT_SERVING),
            (True, response.SERVING),
        ]:
            ready[0] = value
            for name in ("", NAME):
                request = health_pb2.HealthCheckRequest(service=name)
                async with asyncio.timeout(60):
                    while (await stub.Check(request, timeout=60)).status != expected:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    stop.set()
    await running


async def test_reflection_lists_every_service() -> None:
    async with serving(lambda request: Text()) as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        async def requests() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        async for answer in stub.ServerReflectionInfo(requests(), timeout=60):
            names = [each.name for each in answer.list_services_response.service]
    assert sorted(names) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        NAME,
    ]


async def test_draining_says_not_serving_first_and_lets_running_calls_finish() -> None:
    events: list[str] = []
    entered = asyncio.Event()

    async def act(request: Any) -> Any:
        entered.set()
        await asyncio.sleep(0.5)
        events.append("finished")
        return Text(value="done")

    server = make_server(NAME)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(TEST_SERVICE, handlers(act))]
    )
    stop = asyncio.Event()
    address = server.bind("127.0.0.1:0")

    async def on_drain() -> None:
        events.append(f"drain serving={server.serving}")

    async def on_stopped() -> None:
        events.append("stopped")

    running = asyncio.create_task(run(server, on_drain=on_drain, on_stopped=on_stopped, stop=stop))
    async with grpc.aio.insecure_channel(address) as channel:
        answer = asyncio.create_task(call(channel, "unary_unary"))
        await entered.wait()
        stop.set()
        assert await answer == ["done"]
        await running
    assert events == ["drain serving=False", "finished", "stopped"]


async def test_a_port_in_use_is_told_plainly() -> None:
    async with serving(lambda request: Text()) as (server, _):
        taken = make_server(NAME)
        address = taken.bind("127.0.0.1:0")
        with pytest.raises(StartError, match=f"cannot listen on {address}: is the port taken"):
            make_server(NAME).bind(address)
        await taken.stop(0)
        assert server.serving is False


@pytest.mark.parametrize(
    ("listen", "problem"),
    [
        ("0.0.0.0:0", "reachable from the network"),
        ("[::]:0", "reachable from the network"),
        ("example.com:0", "reachable from the network"),
        ("127.0.0.1", "is no address"),
        ("127.0.0.1:http", "is no address"),
        ("127.0.0.1:70000", "is no address"),
        ("::1:50051", "in brackets"),
    ],
)
async def test_an_address_that_is_unsafe_or_malformed_is_refused(
    listen: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISTAFLOW_ALLOW_INSECURE", raising=False)
    server = make_server(NAME)
    with pytest.raises(StartError, match=problem):
        server.bind(listen)
    await server.stop(0)


async def test_an_open_address_is_taken_when_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTAFLOW_ALLOW_INSECURE", "1")
    server = make_server(NAME)
    host, _, port = server.bind("0.0.0.0:0").rpartition(":")
    assert (host, int(port) > 0) == ("0.0.0.0", True)
    await server.stop(0)


async def test_sigterm_ends_a_service_with_0_and_a_bad_setting_with_2(tmp_path: Path) -> None:
    program = tmp_path / "service.py"
    program.write_text(
        "import sys\n"
        "from vistaflow_services.core import log\n"
        "from vistaflow_services.core.server import shell as server\n"
        "log.configure('test')\n"
        f"made = lambda: server.make_server({NAME!r})\n"
        "async def serve():\n"
        "    await server.run(made(), sys.argv[1])\n"
        "server.main('test', serve)\n"
    )

    async def start(listen: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, str(program), listen, stderr=asyncio.subprocess.PIPE, env=os.environ
        )

    process = await start("127.0.0.1:0")
    assert process.stderr is not None
    while b"SERVING" not in (line := await process.stderr.readline()):
        assert line, "it ended before it served"
    process.send_signal(signal.SIGTERM)
    assert (await process.communicate())[1].count(b'"message": "stopped"') == 1
    assert process.returncode == 0
    process = await start("0.0.0.0:0")
    _, told = await process.communicate()
    assert process.returncode == 2
    assert b"reachable from the network" in told
    assert b"Traceback" not in told


def test_details_that_are_no_status_are_passed_over() -> None:
    failed = grpc.aio.AioRpcError(
        grpc.StatusCode.NOT_FOUND,
        trailing_metadata=grpc.aio.Metadata(("grpc-status-details-bin", b"\xff\xff")),
        details="gone",
    )
    error = error_of(failed)
    assert (type(error), error.message) == (errors.NotFoundError, "gone")


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


DEAF = """
import asyncio

from vistaflow_services.core.server import shell


async def deaf():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(3600)  # as `asyncio.wait_for` of Python 3.11 loses one at times


async def serve():
    serve.task = asyncio.create_task(deaf())
    await asyncio.sleep(0)


shell.main("deaf", serve)
"""


def test_a_service_ends_though_a_task_lost_its_cancellation() -> None:
    assert subprocess.run([sys.executable, "-c", DEAF], timeout=60).returncode == 0


@pytest.mark.parametrize("library", ["httpx", "requests", "obstore"])
def test_what_listens_here_is_reached_past_a_proxy(
    monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet.example")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"

        reach_this_machine_directly()

        match library:
            case "obstore":
                config: Any = {"aws_endpoint": url, "aws_region": "x", "aws_skip_signature": "true"}
                content = obstore.get(bucket.connect("b", "b", "", config), "x").bytes()
            case _:
                content = importlib.import_module(library).get(f"{url}/b/x").content
        server.shutdown()
    assert bytes(content) == b"ok"
    assert os.environ["no_proxy"].split(",")[0] == "intranet.example"

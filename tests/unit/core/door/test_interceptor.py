"""The door on its own: who is let in, what each caller may do at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from vistaflow._rpc.credentials import BearerChannel
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.access import NOBODY, rule_of
from vistaflow_services.core.door.callers import AccessRule, Caller, Role, Validity
from vistaflow_services.core.door.interceptor import Door, DoorSettings
from vistaflow_services.core.door.tokens import Tokens, digest_of, id_of, invalid, new_token
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.core.server.shell import ServerSettings, make_server

SERVICE = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
Text = wrappers_pb2.StringValue
CODEC = {"request_deserializer": Text.FromString, "response_serializer": Text.SerializeToString}


class Keeper:
    """Knows tokens, and how often it was asked."""

    def __init__(self) -> None:
        self.known: dict[str, Caller] = {}
        self.asked = 0
        self.away = False
        self.broken = ""

    def make(self, role: Role, *, project: str = "", seconds: float | None = None) -> str:
        token_id, text = new_token()
        self.known[text] = Caller(
            token_id=str(token_id),
            name="t",
            project=project,
            role=role,
            secret=text,
            validity=Validity(seconds),
        )
        return text

    async def admit(self, caller: Caller, request: Any) -> None:
        if self.broken == "looking at a request":
            raise RuntimeError("secret")

    async def find(self, text: str) -> Caller:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.broken == "asking for a token":
            raise RuntimeError("secret")
        if self.away:
            raise UnavailableError("away")
        if text not in self.known:
            raise invalid()
        return self.known[text]


@contextlib.asynccontextmanager
async def serving(
    keeper: Keeper, *, calls: int = 2_000, kept_seconds: float = 0.3, **settings: Any
) -> AsyncIterator[str]:
    door = Door(DoorSettings(**settings), Tokens(keeper.find, seconds=kept_seconds))
    door.admit = keeper.admit
    server = make_server(SERVICE, door=door, settings=ServerSettings(max_concurrent_calls=calls))

    async def who(request: Any, context: Any) -> Any:
        return Text(value=f"{callers.current().role} {callers.current().name}".strip())

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield await who(request, context)
        await asyncio.sleep(300)

    handlers = {
        "GetKit": grpc.unary_unary_rpc_method_handler(who, **CODEC),
        "WatchStates": grpc.unary_stream_rpc_method_handler(stream, **CODEC),
        "LeaseJobs": grpc.stream_stream_rpc_method_handler(stream, **CODEC),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    unknown = {"Unknown": grpc.unary_unary_rpc_method_handler(who, **CODEC)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, unknown)])
    address = server.bind("127.0.0.1:0")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def calling(address: str, token: str = "") -> AsyncIterator[grpc.aio.Channel]:
    channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
    async with channel:
        yield BearerChannel(channel, lambda: token) if token else channel


async def get(channel: grpc.aio.Channel, name: str = "GetKit") -> str:
    answer = await channel.unary_unary(f"/{SERVICE}/{name}")(b"", timeout=60)
    return Text.FromString(answer).value


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    raw = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    for each in status_pb2.Status.FromString(raw).details:
        found = kind()
        if each.Unpack(found):
            return found
    return None


async def test_a_handler_knows_whose_call_it_serves() -> None:
    keeper = Keeper()
    async with serving(keeper, required=True) as address:
        token = keeper.make(Role.VIEWER)
        async with calling(address, token) as channel:
            assert await get(channel) == "VIEWER t"
            stream = channel.unary_stream(f"/{SERVICE}/WatchStates")(b"")
            assert Text.FromString(await stream.read()).value == "VIEWER t"
            stream.cancel()


async def test_many_calls_at_once_ask_once_for_their_token() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True, kept_seconds=600.0) as address,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):
        await asyncio.gather(*(get(channel) for _ in range(50)))
    assert keeper.asked == 1


async def test_a_call_that_the_protos_do_not_know_is_refused_to_everybody() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True) as address,
        calling(address, keeper.make(Role.ADMIN)) as channel,
    ):
        error = await failed(get(channel, "Unknown"))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_token_is_refused_while_nobody_can_say_whose_it_is() -> None:
    keeper = Keeper()
    async with serving(keeper, required=True) as address:
        keeper.away = True
        async with calling(address, keeper.make(Role.VIEWER)) as channel:
            assert (await failed(get(channel))).code() is grpc.StatusCode.UNAVAILABLE
            keeper.away = False
            assert await get(channel) == "VIEWER t"


@pytest.mark.parametrize("known", [False, True], ids=["a new token", "a known token"])
@pytest.mark.parametrize("broken", ["asking for a token", "looking at a request"])
async def test_a_door_that_breaks_tells_the_caller_nothing_but_an_id(
    broken: str, known: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True) as address,
        calling(address, keeper.make(Role.VIEWER, project="mine")) as channel,
    ):
        if known:
            assert await get(channel) == "VIEWER t"
            await asyncio.sleep(0.4)  # what was learned of the token is to be asked for again
        keeper.broken = broken
        error = await failed(get(channel))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in f"{error.details()} {error.trailing_metadata()}"
    # gRPC's poller may log that the loop of an earlier test is closed.
    logged = [each for each in caplog.records if each.exc_info and each.name != "asyncio"]
    assert [each.error_id for each in logged] == [
        detail(error, error_details_pb2.RequestInfo).request_id
    ]


@pytest.mark.parametrize("shown", ["", "Bearer", "Basic dXNlcg==", "Bearer x" * 99])
async def test_what_is_no_bearer_token_is_refused_without_asking(shown: str) -> None:
    keeper = Keeper()
    async with serving(keeper, required=True) as address, calling(address) as channel:
        metadata = (("authorization", shown),) if shown else ()
        call = channel.unary_unary(f"/{SERVICE}/GetKit")(b"", timeout=60, metadata=metadata)
        error = await failed(call)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert keeper.asked == 0


async def test_health_is_open_and_reflection_for_whoever_has_a_token() -> None:
    async def reflected(channel: grpc.aio.Channel) -> grpc.StatusCode:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5
        )
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    keeper = Keeper()
    async with serving(keeper, required=True) as address, calling(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        codes = [await reflected(channel)]
        for role in Role:
            async with calling(address, keeper.make(role)) as shown:
                codes.append(await reflected(shown))
    assert [code.name for code in codes] == ["UNAUTHENTICATED", *["OK"] * len(Role)]


async def test_a_stream_ends_when_its_token_expires() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True) as address,
        calling(address, keeper.make(Role.VIEWER, seconds=2.0)) as channel,
    ):
        stream = channel.unary_stream(f"/{SERVICE}/WatchStates")(b"", timeout=60)
        await stream.read()
        error = await failed(stream.read())
    assert (error.code(), detail(error, error_details_pb2.ErrorInfo).reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_ENDED",
    )


async def test_a_caller_over_its_rate_is_told_when_to_come_back_and_another_is_not() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True, rate_per_second=5) as address,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):
        begun = time.monotonic()
        outcomes = await asyncio.gather(*(get(channel) for _ in range(30)), return_exceptions=True)
        refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        most = 11 + 5 * (time.monotonic() - begun)
        assert 10 <= len(outcomes) - len(refused) <= most
        assert {each.code() for each in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        wait = detail(refused[0], error_details_pb2.RetryInfo).retry_delay
        assert 0 < wait.ToNanoseconds() <= 0.2e9
        async with calling(address, keeper.make(Role.VIEWER)) as other:
            assert await get(other) == "VIEWER t"
        await asyncio.sleep(0.25)
        assert await get(channel) == "VIEWER t"


async def test_without_tokens_the_rate_is_a_machines() -> None:
    async with (
        serving(Keeper(), rate_per_second=2) as address,
        calling(address) as one,
        calling(address) as two,
    ):
        outcomes = await asyncio.gather(
            *(get(each) for each in (one, two) * 6), return_exceptions=True
        )
    refused = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refused) >= 7


async def test_a_caller_has_only_so_many_streams_open_and_a_closed_one_makes_room() -> None:
    keeper = Keeper()
    async with (
        serving(keeper, required=True, streams_per_caller=2) as address,
        calling(address, keeper.make(Role.VIEWER)) as channel,
    ):

        def watch() -> Any:
            return channel.unary_stream(f"/{SERVICE}/WatchStates")(b"", timeout=60)

        streams = [watch(), watch()]
        for each in streams:
            await each.read()
        error = await failed(watch().read())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 5
        assert await get(channel) == "VIEWER t"
        streams[0].cancel()
        # The server learns of it a moment later.
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await watch().read() is not None
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        (AccessRule(role=Role.VIEWER), "VIEWER EDITOR ADMIN"),
        (AccessRule(role=Role.VIEWER, worker=True), "VIEWER EDITOR ADMIN WORKER"),
        (AccessRule(role=Role.EDITOR, worker=True), "EDITOR ADMIN WORKER"),
        (AccessRule(role=Role.ADMIN), "ADMIN"),
        (AccessRule(role=Role.WORKER), "WORKER"),
        (NOBODY, ""),
    ],
)
def test_a_role_may_what_those_below_it_may_and_a_worker_stands_apart(
    rule: AccessRule, admitted: str
) -> None:
    assert [each for each in Role if rule.admits(each)] == admitted.split()


def test_a_method_of_no_proto_has_no_rule() -> None:
    assert rule_of("/no.such.Service/Call") is None
    assert rule_of(f"/{SERVICE}/NoSuchCall") is None


def test_the_text_of_a_token_holds_its_id_and_256_random_bits() -> None:
    made = [new_token() for _ in range(100)]

    assert all(id_of(text) == token_id for token_id, text in made)
    assert len({digest_of(text) for _, text in made}) == 100
    assert all(len(text.split(".")[2]) == 43 for _, text in made)
    assert [id_of(each) for each in ("", "vf1", "vf1.a.b", made[0][1] + "x")] == [None] * 4

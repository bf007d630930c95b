"""The blocking client with a registry that errs, stalls and repeats, and with wrong arguments.

The registry listens on a port: the channels of grpcio-testing are for blocking stubs only, and the
blocking client runs the asynchronous one.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import vistaflow
from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    CUT,
    HANG,
    ScriptedRegistry,
    delta,
    info,
    refuse,
    row,
    stall,
)
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb


@pytest.fixture
def client(background: ScriptedRegistry) -> Iterator[vistaflow.Client]:
    with vistaflow.connect(background.address, timeout=60) as client:
        yield client


def test_an_error_of_a_service_is_one_of_ours(
    background: ScriptedRegistry, client: vistaflow.Client
) -> None:
    background.answers = [
        refuse(grpc.StatusCode.NOT_FOUND, "no kit 7", details=[info("KIT_UNKNOWN")])
    ]
    with pytest.raises(vistaflow.NotFoundError, match="no kit 7") as raised:
        client.kit(7)
    assert raised.value.reason == "KIT_UNKNOWN"
    assert not isinstance(raised.value, grpc.RpcError)


def test_a_call_is_repeated_with_one_request_id(
    background: ScriptedRegistry, client: vistaflow.Client
) -> None:
    lost = refuse(grpc.StatusCode.UNAVAILABLE)
    background.answers = [lost, lost, pb.CreateKitResponse(kit=pb.Kit(kit_id=7))]

    assert client.create_kit("x").kit_id == 7
    assert len(background.requests) == 3
    assert len({request.request_id for request in background.requests}) == 1


def test_a_registry_that_stalls_ends_the_call_at_its_timeout(background: ScriptedRegistry) -> None:
    background.answers = [stall(60)]
    with (
        vistaflow.connect(background.address, timeout=0.3) as client,
        pytest.raises(vistaflow.DeadlineExceededError),
    ):
        client.server_info()


def test_a_listing_that_fails_on_its_second_page_delivers_the_first(
    background: ScriptedRegistry, client: vistaflow.Client
) -> None:
    background.answers = [
        pb.ListStatesResponse(states=[row(1), row(2)], next_page_token="a"),
        refuse(grpc.StatusCode.INTERNAL, "broken"),
    ]
    states = client.states()
    assert [next(states).revision, next(states).revision] == [1, 2]
    with pytest.raises(vistaflow.InternalError, match="broken"):
        next(states)


def test_a_watch_that_is_cut_and_repeats_delivers_each_row_once(
    background: ScriptedRegistry, client: vistaflow.Client
) -> None:
    background.streams = [[delta(1), delta(1), delta(2), CUT], [delta(2), delta(3), HANG]]
    revisions = []
    for event in client.watch(kit_ids=[1]):
        revisions.append(event.revision)
        if event.revision == 3:
            break
    assert revisions == [1, 2, 3]
    assert [request.after_revision for request in background.watches] == [0, 2]


def test_closing_a_client_ends_a_call_that_waits_in_another_thread(
    background: ScriptedRegistry,
) -> None:
    background.answers = [stall(60)]
    client = vistaflow.connect(background.address, timeout=60)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            client.server_info()
        except BaseException as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    end = time.monotonic() + 120
    while not background.requests and time.monotonic() < end:
        time.sleep(0.01)
    client.close()
    asking.join(120)
    assert not asking.is_alive()
    assert [type(error) for error in raised] == [vistaflow.CanceledError]


def test_closing_a_client_ends_the_watches_of_other_threads(background: ScriptedRegistry) -> None:
    for _ in range(100):
        background.streams = [[delta(1), HANG]]
        client = vistaflow.connect(background.address, timeout=60)
        begun = threading.Event()

        def watch(client: vistaflow.Client = client, begun: threading.Event = begun) -> None:
            with contextlib.suppress(vistaflow.VistaError):
                for _ in client.watch(kit_ids=[1]):
                    begun.set()

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        assert begun.wait(60)
        client.close()
        watching.join(60)
        assert not watching.is_alive()


def test_a_closed_client_says_so(background: ScriptedRegistry) -> None:
    client = vistaflow.connect(background.address)
    client.close()
    with pytest.raises(vistaflow.CanceledError, match="closed"):
        client.server_info()
    with pytest.raises(vistaflow.CanceledError, match="closed"):
        next(client.states())
    with pytest.raises(vistaflow.CanceledError, match="closed"):
        client.watch()


VALUES: dict[str, Any] = {
    "kit": {"name": "x"},
    "kit_id": 1,
    "name": "x",
    "job_id": "j",
    "job_type": "DOE",
    "status": "RUNNING",
    "states": [row(1)],
    "deck": "diode",
    "folder": ".",
    "design": doe_pb2.DesignSpec(),
    "design_id": "d",
    "model_id": "m",
    "points": [{"x": 1.0}],
    "study_id": "s",
    "picture": "effects",
    "role": "VIEWER",
    "token_id": "t",
    "uri": "artifact://jobs/j/1/a.png",
    "path": "a.png",
    "job": "j",
    "files": ["raw/a.json"],
    "output_file_name": "a",
    "file": "raw/a.json",
    "user_id": "u",
    "proposal_id": "p",
    "sql": "select 1",
    "query_id": "q",
    "dataset": "whisky",
    "alias": "production",
    "keys": [7],
    "upload_id": "u",
    "service": "doe",
    "delivery_id": 1,
}
"""Arguments of a right type for each parameter without a default."""


def arguments() -> Iterator[Any]:
    for name, method in inspect.getmembers(vistaflow.Client, inspect.isfunction):
        if name.startswith("_") or name == "close":
            continue
        for parameter in inspect.signature(method).parameters.values():
            if parameter.name != "self" and parameter.kind is not parameter.VAR_KEYWORD:
                wrong = parameter.name
                yield pytest.param(method, wrong, id=f"{name}-{wrong}")


class Strange:
    """A value of no type that any parameter takes."""


@pytest.mark.parametrize(("method", "wrong"), list(arguments()))
def test_a_wrong_type_is_an_error_of_ours(
    client: vistaflow.Client, method: Callable[..., Any], wrong: str
) -> None:
    values = {
        parameter.name: VALUES[parameter.name]
        for parameter in inspect.signature(method).parameters.values()
        if parameter.name in VALUES and parameter.default is parameter.empty
    }
    values[wrong] = Strange()
    with pytest.raises(vistaflow.InvalidArgumentError) as raised:
        method(client, **values)
    assert wrong in str(raised.value)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"statuses": "FAILED"}, "statuses"),
        ({"statuses": ["done"]}, "status"),
        ({"job_types": ["doer"]}, "job_type"),
        ({"kit_ids": [2**40]}, "kit_ids"),
        ({"labels": ["a"]}, "labels"),
        ({"recorded_after": "yesterday"}, "recorded_after"),
        ({"after_revision": -(2**70)}, "after_revision"),
        ({"limit": -1}, "limit"),
    ],
)
def test_a_wrong_value_of_a_filter_is_named(
    client: vistaflow.Client, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(vistaflow.InvalidArgumentError) as raised:
        client.states(**options)
    assert [violation.field for violation in raised.value.violations] == [field]


@pytest.mark.parametrize("options", [{"timeout": "3"}, {"timeout": 0}, {"token": 3}])
def test_a_wrong_argument_of_connect_is_an_error_of_ours(options: dict[str, Any]) -> None:
    before = threading.active_count()
    with pytest.raises(vistaflow.InvalidArgumentError):
        vistaflow.connect("127.0.0.1:1", **options)
    assert threading.active_count() == before

"""No token is ever logged, wherever it stands."""

from __future__ import annotations

import json
import logging

import pytest

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.door.tokens import new_token
from vistaflow_services.core.log import JsonFormatter

TEXT = new_token()[1]
SECRET = TEXT.rpartition(".")[2]


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        (f"the call showed {TEXT}", ()),
        ("metadata %s", ((("authorization", f"Bearer {TEXT}"), ("user-agent", "a")),)),
        ("metadata %r", ({"authorization": f"Bearer {TEXT}"},)),
        ("answered %s", (registry_pb2.CreateTokenResponse(secret=TEXT),)),
        ("environment VISTAFLOW_TOKEN=%s", (TEXT,)),
        ("caller %r", (Caller(name="a", secret=TEXT),)),
    ],
    ids=["text", "metadata", "mapping", "message", "environment", "caller"],
)
def test_a_token_is_kept_out_of_the_logs(message: str, arguments: tuple[object, ...]) -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, message, arguments, None)
    record.shown = TEXT

    line = JsonFormatter("test").format(record)

    assert SECRET not in line
    assert json.loads(line)["shown"] == "[redacted]"


def test_a_token_is_kept_out_of_tracebacks() -> None:
    try:
        raise RuntimeError(f"cannot call with Bearer {TEXT}")
    except RuntimeError as error:
        record = logging.LogRecord("a", 40, "f", 1, "broke", (), (type(error), error, None))

    assert SECRET not in JsonFormatter("test").format(record)


def test_whoever_prints_a_caller_prints_no_token() -> None:
    with callers.serving(Caller(name="a", secret=TEXT)):
        assert SECRET not in repr(callers.current())

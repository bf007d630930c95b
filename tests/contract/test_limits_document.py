"""The table of limits in the documentation is that of the code, and names every method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core import message_limits, names
from vistaflow_services.core.server.shell import ServerSettings
from vistaflow_services.registry import domain
from vistaflow_services.registry.messages import raw

TEXT = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")
MODULES = (
    registry_pb2,
    pipeline_pb2,
    ingestion_pb2,
    doe_pb2,
    ml_pb2,
    optimize_pb2,
    query_pb2,
    artifacts_pb2,
    datasets_pb2,
    schedules_pb2,
    outbox_pb2,
)
NUMBERS = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", TEXT, re.MULTILINE))
ROWS = re.findall(r"^\| ((?:`\w+\.\w+` ?)+)\| (.+) \| (.+) \|$", TEXT, re.MULTILINE)


def services() -> list[ServiceDescriptor]:
    return [each for module in MODULES for each in module.DESCRIPTOR.services_by_name.values()]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_limit_is_written_down_as_it_is(name: str) -> None:
    home = message_limits if hasattr(message_limits, name) else raw
    assert NUMBERS[name] == f"{getattr(home, name):,}"


def test_every_limit_of_messages_is_written_down() -> None:
    limits = {name for name, value in vars(message_limits).items() if isinstance(value, int)}
    units = {"KIBIBYTE", "MEBIBYTE", "ROW_BYTES", "ENTRY_BYTES"}
    assert set(NUMBERS) == limits - units | {"SMALL_BYTES"}


def test_every_method_is_in_the_table_once() -> None:
    told = [name for methods, _, _ in ROWS for name in re.findall(r"`(\w+\.\w+)`", methods)]
    known = [
        f"{service.full_name.split('.')[2]}.{method.name}"
        for service in services()
        for method in service.methods
    ]
    assert sorted(told) == sorted(known)


def test_counts_beside_bytes_are_written_down_as_they_are() -> None:
    text = " ".join(TEXT.split())
    for count, what in (
        (domain.MAX_STATES_AN_APPEND, "rows an append"),
        (domain.MAX_JOBS_A_REQUEST, "jobs a `CreateKit`"),
        (domain.MAX_NEEDS_A_REQUEST, "others together in `depends_on`"),
        (domain.MAX_JOBS_A_KIT, "jobs a kit"),
        (domain.MAX_NEEDS_A_KIT, "others together,"),
        (domain.MAX_FILTER_IDS, "entries of each list in a filter"),
        (names.MAX_LABELS, "labels"),
        (domain.MAX_REASON, "characters of a reason"),
        (domain.MAX_CAPACITY, "attempts"),
    ):
        assert f"{count:,} {what}" in text


def test_a_server_sends_nothing_that_a_stock_client_refuses() -> None:
    assert ServerSettings().max_send_bytes == message_limits.STOCK_BYTES
    assert ServerSettings().max_receive_bytes == message_limits.RECEIVE_BYTES

"""Which services are listed."""

from __future__ import annotations

import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.services import ServiceDirectory


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> ServiceDirectory:
    return ServiceDirectory(
        hub=Hub(0),
        store=None,  # type: ignore[arg-type]  # only GetServerInfo asks the database
        name_schema="vistadb_test",
        version="1.2.3",
        address=lambda: "127.0.0.1:50051",
        limits={},
        clock=clock,
    )


def announce(
    directory: ServiceDirectory,
    name: str = "doe",
    address: str = "127.0.0.1:4001",
    status: str = "SERVING",
) -> None:
    service = pb.ServiceInfo(name=name, address=address, version="1.2.3", status=status)
    directory.announce(pb.AnnounceServiceRequest(service=service))


def listed(directory: ServiceDirectory) -> list[tuple[str, str, str]]:
    return [(s.name, s.address, s.status) for s in directory.services()]


REGISTRY = ("registry", "127.0.0.1:50051", "SERVING")


def test_a_service_that_announced_itself_is_listed(directory: ServiceDirectory) -> None:
    announce(directory)
    assert listed(directory) == [REGISTRY, ("doe", "127.0.0.1:4001", "SERVING")]


def test_a_service_that_falls_silent_is_not_serving(
    directory: ServiceDirectory, clock: Clock
) -> None:
    announce(directory)
    clock.now += 15
    assert listed(directory)[1][2] == "SERVING"
    clock.now += 0.1
    assert listed(directory)[1][2] == "NOT_SERVING"
    announce(directory)
    assert listed(directory)[1][2] == "SERVING"


def test_a_service_that_moved_is_listed_only_where_it_serves(
    directory: ServiceDirectory, clock: Clock
) -> None:
    announce(directory, address="127.0.0.1:4001")
    clock.now += 20
    announce(directory, address="127.0.0.1:4002")
    assert listed(directory) == [REGISTRY, ("doe", "127.0.0.1:4002", "SERVING")]


def test_a_service_silent_for_an_hour_is_forgotten(
    directory: ServiceDirectory, clock: Clock
) -> None:
    announce(directory, name="ml")
    clock.now += 3601
    announce(directory, name="doe")
    assert [name for name, _, _ in listed(directory)] == ["registry", "doe"]


def test_every_mistake_of_an_announcement_is_told(directory: ServiceDirectory) -> None:
    with pytest.raises(InvalidError) as refused:
        announce(directory, name="Bad Name", address="", status="UP")
    assert [violation.field for violation in refused.value.violations] == [
        "service.name",
        "service.address",
        "service.status",
    ]

"""Asks the DOE service which simulators are there."""

from __future__ import annotations

from typing import Any

import grpc

from vistaflow.api.doe.v1 import doe_pb2, doe_pb2_grpc
from vistaflow_services.core.dial import open_channel
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.pipeline.services import TIMEOUT_SECONDS, address_of


class Simulators:
    """The simulators of the DOE service.

    Args:
        registry: Asked where the service is.
        address: Where it is; the registry is not asked.
    """

    def __init__(self, registry: RegistryClient, address: str = "") -> None:
        self._registry = registry
        self._address = address

    async def __call__(self) -> list[doe_pb2.SimulatorInfo]:
        """What the service lists.

        Raises:
            UnavailableError: It does not answer.
        """
        address = self._address or await address_of(self._registry, "doe", "look at the simulators")
        async with open_channel(address) as channel:
            stub: Any = doe_pb2_grpc.DoeServiceStub(channel)
            try:
                answer = await stub.ListSimulators(
                    doe_pb2.ListSimulatorsRequest(), timeout=TIMEOUT_SECONDS, wait_for_ready=True
                )
            except grpc.aio.AioRpcError:
                raise UnavailableError(
                    "the DOE service does not answer; it is needed to look at the simulators"
                ) from None
        return list(answer.simulators)

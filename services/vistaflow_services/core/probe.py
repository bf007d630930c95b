"""Asks a service whether it serves: `python -m vistaflow_services.core.probe ADDRESS`.

For container health checks: exit code 0 if it does, 1 if not.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vistaflow_services.core.dial import sync_channel


def serves(address: str, timeout: float = 2.0) -> bool:
    """Whether the service at `address` answers SERVING within `timeout` seconds."""
    with sync_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    raise SystemExit(not serves(sys.argv[1]))

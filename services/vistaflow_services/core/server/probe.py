"""Asks a service whether it serves: `python -m vistaflow_services.core.server.probe ADDRESS`.

Of the gateway, which serves HTTP, ADDRESS begins with `http://`.

For container health checks: exit code 0 if it does, 1 if not.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vistaflow._rpc.credentials import CA, CLIENT_CERT, CLIENT_KEY
from vistaflow_services.core.dial import environment, sync_channel


def serves(address: str, timeout: float = 2.0) -> bool:
    """Whether the service at `address` answers SERVING within `timeout` seconds."""
    with sync_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def answers(address: str, timeout: float = 2.0) -> bool:
    """Whether the gateway at `address` says within `timeout` seconds that it serves."""
    variables = environment()
    connection: http.client.HTTPConnection
    try:
        if variables.get(CA):
            context = ssl.create_default_context(cafile=variables[CA])
            if variables.get(CLIENT_CERT):
                context.load_cert_chain(variables[CLIENT_CERT], variables.get(CLIENT_KEY))
            connection = http.client.HTTPSConnection(address, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(address, timeout=timeout)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return False


if __name__ == "__main__":
    scheme, colon, rest = sys.argv[1].partition("://")
    raise SystemExit(not (answers(rest.partition("/")[0]) if colon else serves(scheme)))

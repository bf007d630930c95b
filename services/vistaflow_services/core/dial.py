"""Channels from one service to another, secured as the environment says.

A call made while a caller is being served shows that caller's token, so that the service asked
sees the same kits and jobs; any other shows the service's own, `VISTAFLOW_TOKEN`. Where services
ask for certificates of their callers, a service shows the one that it serves with, unless
`VISTAFLOW_TLS_CLIENT_CERT` names another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import grpc

from vistaflow._rpc.credentials import (
    CLIENT_CERT,
    CLIENT_KEY,
    TOKEN,
    Options,
    secured_channel,
    tls_credentials,
)
from vistaflow.errors import VistaError
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.rpc import tls
from vistaflow_services.core.rpc.channels import client_arguments


def open_channel(
    address: str, *, token: str | None = None, options: Options | None = None
) -> grpc.aio.Channel:
    """A channel to a service; it connects at the first call.

    Args:
        address: Such as `127.0.0.1:50051`.
        token: Shown with every call; the caller's or the service's own if None.
        options: gRPC's channel arguments, if not those of every channel between services.

    Raises:
        InvalidError: The settings of TLS or of the token cannot be.
    """
    own = os.environ.get(TOKEN, "").strip() if token is None else token

    def shown() -> str:
        return callers.current().secret or own if token is None else token

    options = client_arguments() if options is None else options
    try:
        return secured_channel(address, options, token=shown, environment=environment())
    except VistaError as error:
        raise InvalidError(error.message, reason=error.reason) from None


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a service that calls others."""
    result = dict(variables)
    if not result.get(CLIENT_CERT) and result.get(tls.CERT) and result.get(tls.KEY):
        result |= {CLIENT_CERT: result[tls.CERT], CLIENT_KEY: result[tls.KEY]}
    return result


def sync_channel(address: str) -> grpc.Channel:
    """A blocking channel without a token, to ask for a service's health."""
    options = [("grpc.enable_http_proxy", 0)]
    credentials = tls_credentials(environment())
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)

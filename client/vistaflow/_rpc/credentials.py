"""How a channel is secured: TLS, and the token that its calls show.

`VISTAFLOW_TLS_CA` names the certificates, in PEM, of who signs those of the services: with it a
channel speaks TLS. Where services ask for certificates of their callers,
`VISTAFLOW_TLS_CLIENT_CERT` and `VISTAFLOW_TLS_CLIENT_KEY` name this side's. `VISTAFLOW_TOKEN` is
the token shown.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from vistaflow._rpc import forks
from vistaflow.errors import InvalidArgumentError, UnauthenticatedError

CA: Final = "VISTAFLOW_TLS_CA"
CLIENT_CERT: Final = "VISTAFLOW_TLS_CLIENT_CERT"
CLIENT_KEY: Final = "VISTAFLOW_TLS_CLIENT_KEY"
TOKEN: Final = "VISTAFLOW_TOKEN"
ALLOW_INSECURE: Final = "VISTAFLOW_ALLOW_INSECURE"

Options = Sequence[tuple[str, Any]]


def secured_channel(
    address: str,
    options: Options,
    *,
    token: str | Callable[[], str] = "",
    environment: Mapping[str, str] = os.environ,
) -> grpc.aio.Channel:
    """A channel to `address`, with TLS if the environment says so.

    Args:
        address: Such as `127.0.0.1:50051`.
        options: gRPC's channel arguments.
        token: Shown with every call, or asked for at every call; empty for none.
        environment: Where the settings are.

    Raises:
        ForkedError: This process was forked from one that had opened a channel.
        UnauthenticatedError: A token would travel in the open over a network.
        InvalidArgumentError: A file cannot be read, or is not what it should be.
    """
    forks.note_use()
    if isinstance(token, str):
        token = token.strip()
        if not (token.isascii() and token.isprintable()):
            # gRPC would break the call without a word of why.
            raise UnauthenticatedError(f"what {TOKEN} holds is no token", reason="TOKEN_INVALID")
    if stays_here(address):
        # `http_proxy` and similar variables are for other machines only.
        options = [*options, ("grpc.enable_http_proxy", 0)]
    credentials = tls_credentials(environment)
    if credentials is not None:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    else:
        channel = grpc.aio.insecure_channel(address, options=options)
    if not token:
        return BearerChannel(channel, lambda: "")
    # Asked for at every call, it may turn out to be empty: then nothing travels.
    is_open = credentials is None and not stays_here(address)
    if is_open and environment.get(ALLOW_INSECURE) != "1":
        if not callable(token) or token():
            raise UnauthenticatedError(
                f"the token would travel to {address} for everybody to read: set {CA}, or "
                f"{ALLOW_INSECURE}=1 where the network itself is private",
                reason="TOKEN_IN_THE_OPEN",
            )
        return BearerChannel(channel, lambda: "")
    return BearerChannel(channel, token if callable(token) else lambda: str(token))


def tls_credentials(
    environment: Mapping[str, str] = os.environ,
) -> grpc.ChannelCredentials | None:
    """What the environment's files say; None for a channel without TLS.

    Raises:
        InvalidArgumentError: A file cannot be read, or is not what it should be.
    """
    if not environment.get(CA):
        return None
    if bool(environment.get(CLIENT_CERT)) != bool(environment.get(CLIENT_KEY)):
        raise InvalidArgumentError(f"set both {CLIENT_CERT} and {CLIENT_KEY}, or neither")
    return grpc.ssl_channel_credentials(
        _pem(CA, environment, "CERTIFICATE"),
        _pem(CLIENT_KEY, environment, "PRIVATE KEY"),
        _pem(CLIENT_CERT, environment, "CERTIFICATE"),
    )


def _pem(name: str, environment: Mapping[str, str], kind: str) -> bytes | None:
    """What the file holds that a setting names; None if it names none."""
    path = environment.get(name)
    if not path:
        return None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{name}: {path}: {error.strerror}") from None
    if f"{kind}-----".encode() not in data:
        # gRPC would take it, and fail at each connection without a word of why.
        raise InvalidArgumentError(f"{name}: {path} holds no {kind.lower()} in PEM")
    return data


class BearerChannel(grpc.aio.Channel):
    """A channel whose calls send a token if there is one, for the process that opened it.

    Not an interceptor: those wrap the calls, and streams behave differently then.
    """

    def __init__(self, channel: grpc.aio.Channel, token: Callable[[], str]) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """A call whose request and answer are one message."""
        return self._shown(self._channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """A call whose answer is a stream."""
        return self._shown(self._channel.unary_stream(*arguments, **named))

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """A call whose request is a stream."""
        return self._shown(self._channel.stream_unary(*arguments, **named))

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """A call of two streams."""
        return self._shown(self._channel.stream_stream(*arguments, **named))

    async def close(self, grace: float | None = None) -> None:
        """Closes the connection, unless another process opened it."""
        if not forks.in_fork():
            await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Whether it is connected."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until it is connected."""
        await self._channel.channel_ready()

    async def __aenter__(self) -> BearerChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def _shown(self, method: Any) -> Callable[..., Any]:
        def call(*arguments: Any, metadata: Any = None, **named: Any) -> Any:
            forks.check()
            shown = list(metadata or ())
            token = self._token()
            if token and not any(key == "authorization" for key, _ in shown):
                shown.append(("authorization", f"Bearer {token}"))
            return method(*arguments, metadata=tuple(shown) or None, **named)

        return call


def stays_here(address: str) -> bool:
    """Whether an address is on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    # gRPC takes several, too: `ipv4:127.0.0.1:50051,127.0.0.1:50052`.
    named = re.sub(r"^(ipv4|ipv6|dns|passthrough):(//[^/]*/)?", "", address)
    return all(_is_loopback(part.strip()) for part in named.split(","))


def _is_loopback(address: str) -> bool:
    bracketed = re.fullmatch(r"\[(.*)\](:.*)?", address)
    host = bracketed[1] if bracketed else address.rpartition(":")[0] or address
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        # As connect(2) reads it: short forms such as 127.1, and 0.0.0.0 for this machine.
        ip = ipaddress.ip_address(host if ":" in host else socket.inet_aton(host))
    except (OSError, ValueError):
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified

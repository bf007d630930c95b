"""The HTTP server: its socket, TLS and connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from vistaflow_services.core.rpc import tls
from vistaflow_services.core.rpc.tls import TlsFiles
from vistaflow_services.core.server.shell import (
    ALLOW_INSECURE,
    StartError,
    is_loopback,
    split_address,
)

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 10.0
"""Longest time until the headers of a request are there: of the first one from the connection on,
of others from their first byte on."""

GRACE_SECONDS: Final = 3
"""How long requests may go on once the service stops."""


def bound(listen: str, *, secure: bool, tokens: bool) -> socket.socket:
    """A socket that listens.

    Args:
        listen: Where, such as `127.0.0.1:8080`.
        secure: Whether there is TLS.
        tokens: Whether callers from other machines need a token.

    Raises:
        StartError: The address is malformed, taken, or open to the network without TLS and tokens.
    """
    host, port = split_address(listen)
    if host == "unix":
        raise StartError(f"`{listen}`: the gateway listens on host:port")
    is_open = not is_loopback(host) and os.environ.get(ALLOW_INSECURE) != "1"
    if is_open and not (secure and tokens):
        raise StartError(
            f"{listen} is reachable from the network; listen on 127.0.0.1, set both {tls.CERT} and "
            f"{tls.KEY} and VISTAFLOW_AUTH=required, or set {ALLOW_INSECURE}=1 where the network "
            "itself is private"
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise StartError(f"cannot listen on {listen}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket, listen: str) -> str:
    """The address of a socket, with the real port for port 0."""
    host, _ = split_address(listen)
    port = listener.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Joined:
    """A transport that sends the head of an answer together with the body that follows it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes; a head waits for the next write, or for the end of this turn of the loop."""
        if not self._head and data.startswith(b"HTTP/1.1 "):
            self._head = data
            asyncio.get_running_loop().call_soon(self._send_head)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Closes the connection, once everything is sent."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head:
            self.write(b"")


class Connection(H11Protocol):
    """A connection: requests know it, and it does not wait for its first one without end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Lets requests know the transport, and add what is called once it is gone."""
        joined: Any = _Joined(transport)
        self._at_end: set[Callable[[], object]] = set()
        super().connection_made(joined)
        self.app_state = {**self.app_state, "transport": joined, "at_end": self._at_end}
        self._waiting: asyncio.TimerHandle | None = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; the headers of a request that began have to follow soon."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        elif self.conn.their_state is not h11.IDLE:
            self._end_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wait, and what was done for the caller alone."""
        self._end_wait()
        for end in list(self._at_end):
            end()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(FIRST_SECONDS, self.transport.abort)

    def _end_wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class HttpServer(uvicorn.Server):
    """uvicorn, which its service starts and stops.

    Args:
        application: Answers the requests.
        files: TLS.
        most_connections: Connections at once; further requests are 503.
    """

    def __init__(
        self, application: ASGIApp, files: TlsFiles | None, *, most_connections: int
    ) -> None:
        arguments: dict[str, Any] = {}
        if files is not None:
            arguments = {"ssl_certfile": str(files.cert), "ssl_keyfile": str(files.key)}
            if files.client_ca is not None:
                arguments |= {
                    "ssl_ca_certs": str(files.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED
                }  # fmt: skip
        super().__init__(
            uvicorn.Config(
                application,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                # Who calls is what the connection says, not a header.
                proxy_headers=False,
                server_header=False,
                limit_concurrency=most_connections,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=GRACE_SECONDS,
                **arguments,
            )
        )
        # What breaks an answer off is logged where it is known.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._files = files
        self._stamp = files.stamp() if files is not None else ()
        try:
            self.config.load()
        except (OSError, ssl.SSLError) as error:
            raise StartError(f"TLS: the certificate cannot be used: {error.strerror}") from None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the service."""
        yield

    def reload_tls(self) -> None:
        """Serves new connections with the certificate as it is now."""
        if self._files is None or self.config.ssl is None:
            return
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return
            # First elsewhere: a certificate and a key of different pairs must not be half used.
            trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            trial.load_cert_chain(self._files.cert, self._files.key)
            self.config.ssl.load_cert_chain(self._files.cert, self._files.key)
        except (OSError, ssl.SSLError) as error:
            # Half of a rotation: serve on with what there was and look again next time.
            logger.warning("the TLS files cannot be read again: %s", error)
            return
        self._stamp = stamp

"""The shell every service runs in: health, reflection, errors, limits, drain.

    server = make_server("vistaflow.api.doe.v1.DoeService")
    add_DoeServiceServicer_to_server(DoeServicer(...), server)
    await run(server, "127.0.0.1:50053", ready=store.is_up)

A service is SERVING only while its `ready` says so. On SIGTERM it says NOT_SERVING, tells
`on_drain`, lets running calls finish for a grace period, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vistaflow_services.core.door.interceptor import Door, door_settings
from vistaflow_services.core.door.limits import Places
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.message_limits import RECEIVE_BYTES, REQUEST_BYTES, STOCK_BYTES
from vistaflow_services.core.rpc import tls
from vistaflow_services.core.rpc.channels import server_arguments
from vistaflow_services.core.rpc.interceptor import Context, ErrorInterceptor
from vistaflow_services.core.rpc.reflection import Reflection
from vistaflow_services.core.rpc.request_size import Check
from vistaflow_services.core.rpc.tls import TlsError, TlsFiles, tls_files
from vistaflow_services.core.tasks import ended

if TYPE_CHECKING:
    from vistaflow_services.core.server.metrics import Metrics

__all__ = ["Context", "Ready", "Server", "ServerSettings", "StartError", "make_server", "run"]

logger = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[bool]]
"""Tells whether what the service depends on is there. Raising means no."""

ALLOW_INSECURE = "VISTAFLOW_ALLOW_INSECURE"
_HERE = ("localhost", "127.0.0.1", "::1")


class StartError(Exception):
    """The service cannot start as configured; the message is for the operator."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits of a server."""

    default_timeout: float = 60.0
    """Seconds a unary call may take whose caller set no deadline."""

    max_receive_bytes: int = RECEIVE_BYTES
    """Largest message received."""

    max_request_bytes: int = REQUEST_BYTES
    """Largest request served; a larger one is refused without being parsed."""

    max_send_bytes: int = STOCK_BYTES
    """Largest message sent; what makes messages keeps a margin below it."""

    max_concurrent_calls: int = 2_000
    """Calls served at once, streams among them; more are RESOURCE_EXHAUSTED."""

    grace_seconds: float = 5.0
    """How long running calls may go on once the server drains."""

    ready_interval: float = 1.0
    """Seconds between two looks at `ready`."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")


class Server(grpc.aio.Server):
    """A gRPC server with health, reflection, the door and the error interceptor."""

    def __init__(
        self,
        service_names: tuple[str, ...],
        settings: ServerSettings,
        door: Door,
        tls: TlsFiles | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.service_names = service_names
        self.door = door
        """Admits callers. Its source of tokens is set before the server starts."""
        self.checks: dict[str, Check] = {}
        """What looks at requests before they are parsed, by `/service/method`."""
        door.places = Places(settings.max_concurrent_calls)
        self._tls = tls
        self._server = grpc.aio.server(
            interceptors=[
                # Outermost, to see how all calls end.
                *([metrics.calls()] if metrics is not None else ()),
                door,
                ErrorInterceptor(
                    default_timeout=settings.default_timeout,
                    max_request_bytes=settings.max_request_bytes,
                    checks=self.checks,
                ),
            ],
            options=server_arguments(
                max_receive_bytes=settings.max_receive_bytes,
                max_send_bytes=settings.max_send_bytes,
            ),
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
        )
        self._health = health.aio.HealthServicer()
        self._serving: bool | None = None
        self._has_served = False
        self.health_changed = asyncio.Event()
        """Set whenever health has changed; cleared by its one reader."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self)
        Reflection((*service_names, health.SERVICE_NAME)).add_to(self)
        if metrics is not None:
            metrics.follow(self)

    @property
    def serving(self) -> bool:
        """Whether health says SERVING."""
        return bool(self._serving)

    async def set_serving(self, serving: bool) -> None:
        """Says SERVING or NOT_SERVING for every service of the server."""
        if serving == self._serving:
            return
        self._serving = serving
        self._has_served |= serving
        self.health_changed.set()
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", *self.service_names):
            await self._health.set(name, status)
        logger.info("now %s", "SERVING" if serving else "NOT_SERVING")

    def bind(self, listen: str) -> str:
        """Takes the port of `listen` and returns the address, with the real port for port 0.

        Raises:
            StartError: The address is malformed, taken, or open to the network without TLS.
        """
        host, port = split_address(listen)
        if not self._tls and not is_loopback(host) and os.environ.get(ALLOW_INSECURE) != "1":
            raise StartError(
                f"{listen} is reachable from the network and this server has no TLS; listen on "
                f"127.0.0.1, set {tls.CERT} and {tls.KEY}, or set {ALLOW_INSECURE}=1 where the "
                "network itself is private"
            )
        try:
            if self._tls and host != "unix":
                bound = self._server.add_secure_port(listen, self._tls.credentials())
            else:
                with _private_socket(host == "unix" and self.door.owner is not None):
                    bound = self._server.add_insecure_port(listen)
        except TlsError as error:
            raise StartError(str(error)) from error
        except RuntimeError as error:
            raise StartError(
                f"cannot listen on {listen}: is the port taken by another process?"
            ) from error
        if self.door.owner is not None:
            self.door.owner.listens(host, bound)
        if host == "unix":
            return listen
        return f"[{host}]:{bound}" if ":" in host else f"{host}:{bound or port}"

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        """Serves what the handlers serve."""
        self._server.add_generic_rpc_handlers(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Serves the methods of one service."""
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def add_insecure_port(self, address: str) -> int:
        """Takes a port; `bind` does it with checks."""
        return int(self.bind(address).rpartition(":")[2])

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Takes a port for TLS."""
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Begins to serve; its health is NOT_SERVING until `set_serving`."""
        if self.door.owner is not None:
            await self.door.owner.prepare()
        await self.set_serving(False)
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Takes no more calls and ends those that run after `grace` seconds."""
        await self._health.enter_graceful_shutdown()
        self._serving = False
        await self._server.stop(grace)
        if self.door.owner is not None:
            self.door.owner.close()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits until the server has stopped."""
        return await self._server.wait_for_termination(timeout)

    async def watch_readiness(self, ready: Ready) -> None:
        """Keeps health at what `ready` says, until canceled."""
        logged_reason = ""
        while True:
            try:
                async with asyncio.timeout(max(5.0, self.settings.ready_interval)):
                    is_ready, why = await ready(), "not ready"
            except Exception as error:
                is_ready, why = False, str(error) or type(error).__name__
            if not is_ready and why != logged_reason:
                # That it is not ready yet is nothing to warn of; that it no longer is, is.
                level = logging.WARNING if self._has_served else logging.INFO
                logger.log(level, "not serving: %s", why)
            logged_reason = "" if is_ready else why
            await self.set_serving(is_ready)
            wait = self.settings.ready_interval
            await asyncio.sleep(wait if is_ready else min(wait, 0.2))


def make_server(
    *service_names: str,
    settings: ServerSettings | None = None,
    door: Door | None = None,
    metrics: Metrics | None = None,
) -> Server:
    """A server for the services of these full names, not yet started.

    Args:
        service_names: Such as `vistaflow.api.doe.v1.DoeService`.
        settings: Its limits.
        door: Who is let in; as the environment says if None.
        metrics: Where its calls are counted and its health is published.

    Raises:
        StartError: What the environment says of tokens or TLS cannot be.
    """
    try:
        door = door or Door(door_settings())
        files = tls_files()
    except (ValueError, TlsError) as error:
        raise StartError(str(error)) from None
    return Server(service_names, settings or ServerSettings(), door, files, metrics)


async def run(
    server: Server,
    listen: str | None = None,
    *,
    ready: Ready | None = None,
    on_drain: Callable[[], Awaitable[None]] | None = None,
    on_stopped: Callable[[], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serves until SIGTERM, SIGINT, SIGHUP or `stop`, then drains.

    Args:
        server: With its servicers added.
        listen: Where, such as `127.0.0.1:50051`; None when `bind` was called before.
        ready: Asked every `ready_interval`; without it the server is ready once started.
        on_drain: Called once the server says NOT_SERVING and before calls are ended: the
            moment to end streams and give work back.
        on_stopped: Called when the last call has ended.
        stop: Set to stop from within.

    Raises:
        StartError: It cannot listen there.
    """
    if listen is not None:
        logger.info("listening on %s", server.bind(listen))
    stop = stop or asyncio.Event()
    with signals(stop.set):
        await server.start()
        _return_memory()
        async with _readiness(server, ready):
            await stop.wait()
        logger.info("draining")
        await server.set_serving(False)
        if on_drain is not None:
            try:
                async with asyncio.timeout(server.settings.grace_seconds * 2):
                    await on_drain()
            except Exception:
                logger.exception("draining failed; stopping all the same")
        await server.stop(server.settings.grace_seconds)
        if on_stopped is not None:
            await on_stopped()
    logger.info("stopped")


def main(service: str, serve: Callable[[], Awaitable[None]]) -> None:
    """Runs a service's coroutine to its end. Errors that its operator can correct take one line.

    Raises:
        SystemExit: With 2 if it cannot start as configured.
    """
    reach_this_machine_directly()
    try:
        asyncio.run(_awaited(serve))
    except (StartError, ServiceError) as error:
        logger.error("%s cannot start: %s", service, error)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None


def reach_this_machine_directly() -> None:
    """Excepts this machine from the proxies of the environment, for every library and child.

    Stores, issuers and engines may listen here, and no proxy reaches the loopback of its caller.
    """
    excepted = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = dict.fromkeys([*filter(None, map(str.strip, excepted.split(","))), *_HERE])
    # Libraries differ in which of the two they read.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


async def _awaited(serve: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.current_task()
    assert task is not None
    # Before it serves and after: what was started meanwhile is stopped, not left behind.
    with signals(task.cancel):
        try:
            await serve()
        finally:
            # What a start that was stopped has left behind. `asyncio.run` cancels a task once, and
            # waits without end for one that lost its cancellation.
            await ended(asyncio.all_tasks() - {task})


_handlers: list[Callable[[], object]] = []


@contextlib.contextmanager
def signals(handle: Callable[[], object]) -> Iterator[None]:
    """Calls a function at SIGTERM, SIGINT and SIGHUP; inside another one, in its stead.

    A SIGHUP that is ignored, as `nohup` has it, stays ignored.
    """
    loop = asyncio.get_running_loop()
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
    ]

    def install() -> None:
        for number in numbers:
            # Only the main thread may; a server in a test's thread is stopped by its event.
            with contextlib.suppress(ValueError, RuntimeError):
                loop.remove_signal_handler(number)
                if _handlers:
                    loop.add_signal_handler(number, _handlers[-1])

    _handlers.append(handle)
    install()
    try:
        yield
    finally:
        _handlers.remove(handle)
        install()


@contextlib.asynccontextmanager
async def _readiness(server: Server, ready: Ready | None) -> AsyncIterator[None]:
    if ready is None:
        await server.set_serving(True)
        yield
        return
    watching = asyncio.create_task(server.watch_readiness(ready))
    try:
        yield
    finally:
        await ended([watching])


def _return_memory() -> None:
    """Gives back what imports used for a time, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _private_socket(private: bool) -> Iterator[None]:
    """Only this user may open a socket's file that is made while the block runs."""
    if not private:
        yield
        return
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)


def split_address(listen: str) -> tuple[str, int]:
    """Host and port of an address; the host is `unix` for a socket's path.

    Raises:
        StartError: The address is malformed.
    """
    if listen.startswith("unix:"):
        return "unix", 0
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise StartError(f"`{listen}` is no address; write host:port, such as 127.0.0.1:50051")
    if host.count(":") and not host.startswith("["):
        raise StartError(f"`{listen}`: write an IPv6 address in brackets, such as [::1]:50051")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    if host in ("localhost", "unix"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def private_address(listen: str, what: str) -> tuple[str, int]:
    """Host and port of an address for a server without authentication.

    Raises:
        StartError: The address is malformed, or open to the network without a setting that the
            network itself is private.
    """
    host, port = split_address(listen)
    if not is_loopback(host) and os.environ.get(ALLOW_INSECURE) != "1":
        raise StartError(
            f"{what} at {listen} would be open to the network; listen on 127.0.0.1, or set "
            f"{ALLOW_INSECURE}=1 where the network itself is private"
        )
    return host, port

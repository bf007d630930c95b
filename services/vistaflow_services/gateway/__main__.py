"""Serves the gateway: `python -m vistaflow_services.gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from vistaflow_services.core import config as configuration
from vistaflow_services.core import files, log
from vistaflow_services.core.door.interceptor import door_settings
from vistaflow_services.core.door.limits import Places
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.home import prepare_home
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.rpc.tls import TlsError, tls_files
from vistaflow_services.core.server.metrics import served
from vistaflow_services.core.server.shell import StartError, signals
from vistaflow_services.core.server.shell import main as run_service
from vistaflow_services.core.stage import version
from vistaflow_services.core.tasks import ended
from vistaflow_services.core.vouching import vouched
from vistaflow_services.gateway.application import application
from vistaflow_services.gateway.config import Config
from vistaflow_services.gateway.door import HttpDoor
from vistaflow_services.gateway.events import Events
from vistaflow_services.gateway.gate import Gate
from vistaflow_services.gateway.listener import HttpServer, address_of, bound
from vistaflow_services.gateway.upstream import Upstream

logger = logging.getLogger(__name__)

READY_SECONDS = 2.0
"""How often the registry is asked whether it serves, and told where the gateway is."""


class Gateway:
    """The gateway, built and not yet serving.

    Args:
        config: Its settings.
        home: `$VISTAFLOW_HOME`.
        registry: Where the other services are.

    Raises:
        StartError: It cannot listen there, or what the environment says of tokens or TLS cannot be.
    """

    def __init__(self, config: Config, home: Path, registry: RegistryClient) -> None:
        self.config = config
        self.home = home
        self.registry = registry
        self.serving = False
        """Whether requests can be answered."""
        self.upstream = Upstream(registry)
        self.events = Events(self.upstream)
        try:
            self.settings = door_settings()
            self.tls = tls_files()
        except (ValueError, TlsError) as error:
            raise StartError(str(error)) from None
        self.listener = bound(
            config.listen, secure=self.tls is not None, tokens=self.settings.required
        )
        self.address = address_of(self.listener, config.listen)
        host = config.advertise.rpartition(":")[0].strip("[]")
        names = {*config.hosts, host, self.address.rpartition(":")[0].strip("[]")}
        self.door = HttpDoor(
            self.settings,
            vouched(registry),
            hosts=frozenset(name.lower() for name in {*names, socket.gethostname()} if name),
            origins=frozenset(config.origins),
            key_file=home / "keys" / "sessions",
        )

    async def serve(self, stop: asyncio.Event) -> None:
        """Serves until `stop`, SIGTERM, SIGINT or SIGHUP."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.upstream.close)
            metrics = await stack.enter_async_context(served(self.config.metrics_listen))
            if metrics is not None:
                metrics.follow(self)
                metrics.gauge("vistaflow_gateway_readers", "Event streams.", self._readers)
                metrics.gauge(
                    "vistaflow_gateway_cut_off", "Readers that were too slow.", self._cut_off
                )
            if self.door.owner is not None:
                self.door.owner.listens(*self.listener.getsockname()[:2])
                await self.door.owner.prepare()
                stack.callback(self.door.owner.close)
            inner = application(
                self.upstream,
                self.events,
                self.door,
                scratch=self.home / "scratch",
                most_upload_bytes=self.config.upload_mib << 20,
                serving=lambda: self.serving,
            )
            gate = Gate(inner, self.door, Places(self.config.max_connections), metrics)
            server = HttpServer(gate, self.tls, most_connections=self.config.max_connections)
            with signals(stop.set):
                watching = asyncio.create_task(self._watch(server))
                running = asyncio.create_task(server.serve(sockets=[self.listener]))
                stopping = asyncio.create_task(stop.wait())
                await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
                logger.info("draining")
                await ended([watching, stopping])
                self.serving = False
                await self.events.close()
                server.should_exit = True
                await running
            with contextlib.suppress(ServiceError):
                await self._announce()
        logger.info("stopped")

    async def _watch(self, server: HttpServer) -> None:
        """Keeps `serving` at whether the registry answers."""
        while True:
            try:
                await self.registry.server_info()
                serving, why = True, ""
            except ServiceError as error:
                serving, why = False, error.message
            if serving != self.serving:
                logger.info("now %s %s", "SERVING" if serving else "NOT_SERVING", why)
            self.serving = serving
            with contextlib.suppress(ServiceError):
                await self._announce()
            server.reload_tls()
            await asyncio.sleep(READY_SECONDS if serving else 0.2)

    async def _announce(self) -> None:
        status = "SERVING" if self.serving else "NOT_SERVING"
        address = self.config.advertise or self.address
        await self.registry.announce("gateway", address, version(), status)

    def _readers(self) -> float:
        return float(self.events.readers)

    def _cut_off(self) -> float:
        return float(self.events.cut_off)


def build(config: Config, home: Path, registry: RegistryClient) -> Gateway:
    """The gateway, listening and not yet serving."""
    return Gateway(config, home, registry)


async def serve(
    config: Config,
    *,
    home: Path,
    registry_address: str | None = None,
    stop: asyncio.Event | None = None,
    on_bound: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or `stop`.

    Args:
        config: How.
        home: `$VISTAFLOW_HOME`.
        registry_address: Where the registry listens; `$VISTAFLOW_REGISTRY` if None.
        stop: Set to stop from within.
        on_bound: Told the address once it is known.
    """
    registry = RegistryClient(registry_address, actor="gateway")
    try:
        gateway = build(config, home, registry)
        logger.info("listening on %s", gateway.address, extra={"address": gateway.address})
        if on_bound is not None:
            on_bound(gateway.address)
        if config.address_file is not None:
            files.write(config.address_file, gateway.address.encode())
        await gateway.serve(stop or asyncio.Event())
    finally:
        await registry.close()


def main() -> None:
    """Serves until a signal stops the service."""
    log.configure("gateway")

    async def serving() -> None:
        config = configuration.read_config(Config, "VISTAFLOW_GATEWAY_")
        home = configuration.home()
        prepare_home(home)
        log.configure("gateway", home=home, level=config.log_level)
        await serve(config, home=home)

    run_service("gateway", serving)


if __name__ == "__main__":
    main()

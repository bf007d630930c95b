"""Runs the suite: `python -m vistaflow_services.suite [--home DIR] [--port N] [--auth WHO]`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vistaflow._machine.encoding import degrade_output
from vistaflow._machine.interpreter import module_command
from vistaflow._machine.local import token_file
from vistaflow._rpc.credentials import TOKEN
from vistaflow_services.core import config, log
from vistaflow_services.core.door.interceptor import AUTH, AUTHS
from vistaflow_services.core.door.owner import make_token
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.rpc import tls
from vistaflow_services.core.server.shell import StartError, signals, split_address
from vistaflow_services.core.tasks import ended
from vistaflow_services.core.work.forks.owner import Links, keep_fork_server
from vistaflow_services.core.work.spawner import child_environment
from vistaflow_services.suite.home import Home
from vistaflow_services.suite.supervisor import GaveUpError, Supervised

logger = logging.getLogger(__name__)

SERVICES: Final = (
    "registry", "ingestion", "doe", "ml", "optimize", "pipeline", "query", "gateway"
)  # fmt: skip
"""The services, the registry first: the others announce themselves to it."""

DEFAULT_PORT: Final = 50051

WITH_JOBS: Final = ("ingestion", "doe", "ml", "optimize", "query")
"""The services whose attempts the fork server of the suite makes."""

GATEWAY_PORT: Final = 8080
"""Where the gateway listens, unless something else does."""


DEFAULT_AUTH: Final = "owner"
"""The default of `--auth` and `VISTAFLOW_AUTH`."""


async def serve(home: Home, port: int, auth: str = DEFAULT_AUTH) -> None:
    """Runs all services until a signal comes, then stops them, the registry last.

    Raises:
        GaveUpError: If a service cannot start or died too often; the others are stopped.
    """
    check_port(port)
    stop = asyncio.Event()
    with signals(stop.set):
        await _serve(home, port, auth, stop)


async def _serve(home: Home, port: int, auth: str, stop: asyncio.Event) -> None:
    services = services_of(home, port, auth)
    links = Links()
    warm = [service for service in services if is_warm(service)]
    for service in warm:
        service.links = links
    stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
    tasks: list[asyncio.Task[Any]] = [stopping]
    forking: list[asyncio.Task[None]] = []
    try:
        for group in (services[:1], services[1:]):
            if group[0].name != "registry":
                await introduce(group, auth)
            tasks += [asyncio.create_task(one.run(), name=one.name) for one in group]
            serving: asyncio.Future[Any] = asyncio.gather(*(one.serving.wait() for one in group))
            await asyncio.wait({serving, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                serving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await serving
                break
        else:
            home.publish({service.name: service.address for service in services})
            print(
                f"vistaflow is up: registry at {services[0].address}, "
                f"page at {'https' if os.environ.get(tls.CERT) else 'http'}://{services[-1].address}/",
                flush=True,
            )
            if warm:
                # Not before: its imports would take the cores that the services start with.
                modules = [f"vistaflow_services.{service.name}.jobs" for service in warm]
                environment = child_environment(environment=warm[0].environment)
                forking = [asyncio.create_task(keep_fork_server(modules, environment, links.run))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        failed = [task for task in tasks if task.done() and task is not stopping]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            home.endpoints_file.unlink()
        await asyncio.gather(*(service.stop() for service in services[1:]))
        await services[0].stop()
        # After the services, which give back what their attempts do.
        await ended(forking)
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        task.result()


def is_warm(service: Supervised) -> bool:
    """Whether attempts of a service are forked from a process that has their imports done."""
    if service.name not in WITH_JOBS:
        return False
    setting = service.environment.get(f"VISTAFLOW_{service.name.upper()}_WARM", "1")
    try:
        return config.truth(setting)
    except ValueError:
        return False  # it will not start


async def introduce(services: Sequence[Supervised], auth: str) -> None:
    """Gives services a token of their own where they need one and have none.

    The registry serves by now: its database is where the token is made. The one that an earlier
    suite made here is revoked.
    """
    if auth != "required" or os.environ.get(TOKEN):
        return
    process = await asyncio.create_subprocess_exec(
        *module_command("vistaflow_services.registry.tokens"),
        "create",
        "--role=worker",
        f"--name=the suite on {socket.gethostname()}",
        "--replace",
        env=services[0].environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        raise GaveUpError(f"no token for the services: {errors.decode(errors='replace')[-500:]}")
    for service in services:
        service.environment = {**service.environment, TOKEN: output.decode().strip()}


def check_port(port: int) -> None:
    """Raises `GaveUpError` if the registry's port is taken.

    Another suite's registry there would answer that it serves, and be taken for this one's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise GaveUpError(
                f"cannot listen on 127.0.0.1:{port}: {error.strerror}; choose another with --port"
            ) from None


def services_of(home: Home, port: int, auth: str) -> list[Supervised]:
    """The services of a suite, not yet started.

    Raises:
        GaveUpError: The token of the home cannot be made.
    """
    registry = f"127.0.0.1:{port}"
    # Where the kernel does not name the owner of a connection, services need the token, too. A
    # token in the environment may be for another suite.
    file = token_file(home.path)
    try:
        token = {TOKEN: make_token(file)} if auth == "owner" else {}
        if not token:
            file.unlink(missing_ok=True)  # clients would show it, and be refused
    except OSError as error:
        raise GaveUpError(f"{error.filename or file}: {error.strerror}") from None
    services = []
    for name in SERVICES:
        own_port = port if name == "registry" else 0
        if name == "gateway":
            host, own_port = gateway_address()
        service = Supervised(name, port=own_port, logs=home.logs, over_http=name == "gateway")
        if name == "gateway":
            service.listen = service.listen[0], host
            service.may_move = not own_port or service.listen[0] not in os.environ
        service.environment = {
            **os.environ,
            **token,
            AUTH: auth,
            "VISTAFLOW_HOME": str(home.path),
            "VISTAFLOW_REGISTRY": registry,
        }
        services.append(service)
    return services


def gateway_address() -> tuple[str, int]:
    """Host and port of the gateway: those of the environment, or port 8080 if it is free.

    Raises:
        GaveUpError: The environment has no address.
    """
    if listen := os.environ.get("VISTAFLOW_GATEWAY_LISTEN"):
        try:
            host, port = split_address(listen)
        except StartError as error:
            raise GaveUpError(str(error)) from None
        return f"[{host}]" if ":" in host else host, port
    try:
        check_port(GATEWAY_PORT)
    except GaveUpError:
        return "127.0.0.1", 0
    return "127.0.0.1", GATEWAY_PORT


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and runs; the exit code."""
    degrade_output()
    parser = argparse.ArgumentParser(prog="vistaflow up", description=__doc__)
    parser.add_argument("--home", type=Path, help="where everything is kept; $VISTAFLOW_HOME")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--auth", choices=AUTHS, default=os.environ.get(AUTH) or DEFAULT_AUTH)
    options = parser.parse_args(arguments)
    if options.auth not in AUTHS:  # argparse takes a default as it is
        parser.error(f"{AUTH} is one of {', '.join(AUTHS)}, not {options.auth}")
    try:
        path = config.home({"VISTAFLOW_HOME": str(options.home)} if options.home else os.environ)
        home = Home(path.resolve())
        home.create()
    except InvalidError as error:
        print(f"vistaflow cannot start: {error}", file=sys.stderr)
        return 2
    if not home.hold(options.port):
        return _tell_holder(home)
    log.configure("suite", home=home.path)
    try:
        asyncio.run(serve(home, options.port, options.auth))
    except GaveUpError as error:
        print(f"vistaflow stopped: {error}", file=sys.stderr)
        return 1
    finally:
        home.release()
    return 0


def _tell_holder(home: Home) -> int:
    """Says where the suite that holds the home is."""
    end = time.monotonic() + 5.0
    while (holder := home.holder()) is None and time.monotonic() < end:
        time.sleep(0.05)  # it has only just begun
    where = f"registry at 127.0.0.1:{holder.port}, process {holder.pid}" if holder else home.path
    print(f"already up: {where}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

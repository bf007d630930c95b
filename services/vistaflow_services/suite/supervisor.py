"""One service: started, proven to serve, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vistaflow._machine.interpreter import module_command
from vistaflow_services.core.dial import open_channel
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.server import probe
from vistaflow_services.core.work.forks.owner import FORK_LINK, Links
from vistaflow_services.suite.ports import free_port

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 5.0
MOST_STARTS: Final = 10
"""Starts within `STARTS_SECONDS` after which a service is given up."""
STARTS_SECONDS: Final = 60.0
CANNOT_START: Final = 2
"""Exit code of a service that cannot start as configured."""
MOST_REFUSALS: Final = 3
"""Such ends one after another after which a service is given up."""
GRACE_SECONDS: Final = 20.0
"""How long a service may take to end after SIGTERM."""


class GaveUpError(Exception):
    """A service cannot start, or died too often."""


class Supervised:
    """A service of the suite, in a process of its own that does not outlive this one."""

    def __init__(
        self, name: str, *, port: int, logs: Path, module: str = "", over_http: bool = False
    ) -> None:
        self.name = name
        self.listen = (f"VISTAFLOW_{name.upper()}_LISTEN", "127.0.0.1")
        """The variable that says where to listen, and the host in it."""
        self.may_move = not port
        """Whether it may get another port, if it cannot start at this one."""
        self._over_http = over_http
        self._module = module or f"vistaflow_services.{name}"
        self.port = port or free_port()
        self.serving = asyncio.Event()
        """Set from when the service says that it serves until its process ends."""
        self.environment: Mapping[str, str] = {}
        """What the process is started with."""
        self.links: Links | None = None
        """The services that use the fork server, if this one does."""
        self._path = logs / f"{name}.out"
        self._process: asyncio.subprocess.Process | None = None
        self._starts: deque[float] = deque(maxlen=MOST_STARTS)
        self._refusals = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process now; 0 if there is none."""
        return self._process.pid if self._process else 0

    async def run(self) -> None:
        """Keeps the service running until cancelled.

        Raises:
            GaveUpError: If it cannot start or died too often.
        """
        wait = FIRST_WAIT_SECONDS
        while True:
            self._count_start()
            begun = time.monotonic()
            code = await self._once()
            self._refusals = self._refusals + 1 if code == CANNOT_START else 0
            if self._refusals == MOST_REFUSALS:
                raise GaveUpError(self._describe("cannot start"))
            if self._refusals and self.may_move:
                # Another suite may have taken the port since it was free.
                self.port = free_port()
            if time.monotonic() - begun > LONGEST_WAIT_SECONDS:
                wait = FIRST_WAIT_SECONDS
            logger.warning("%s ended with %s; starting it again", self.name, code)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def stop(self) -> None:
        """Ends the process: asks, then kills its whole group."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE_SECONDS):
                await process.wait()
        except TimeoutError:
            logger.warning("%s did not end in %.0f s; killing it", self.name, GRACE_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _once(self) -> int:
        """Runs the process once; its exit code."""
        try:
            channel = open_channel(self.address, token="", options=_OPTIONS)
        except InvalidError as error:
            raise GaveUpError(f"{self.name} cannot be asked whether it serves: {error}") from None
        with contextlib.nullcontext() if self.links is None else self.links.link() as link:
            self._process = await self._start(link)
            prover = asyncio.create_task(
                self._prove_over_http() if self._over_http else self._prove(channel)
            )
            try:
                return await self._process.wait()
            finally:
                prover.cancel()
                self.serving.clear()

    async def _start(self, link: socket.socket | None) -> asyncio.subprocess.Process:
        """Starts the process, with its end of the link if it has one."""
        variable, host = self.listen
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(self._output())
            links = [] if link is None else [stack.enter_context(link).fileno()]
            return await asyncio.create_subprocess_exec(
                *module_command("vistaflow_services.suite.child"),
                str(os.getpid()),
                self._module,
                *(f"{FORK_LINK}{descriptor}" for descriptor in links),
                pass_fds=links,
                env={**self.environment, variable: f"{host}:{self.port}"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _prove(self, channel: grpc.aio.Channel) -> None:
        """Asks the service whether it serves, until it does."""
        async with channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while not self.serving.is_set():
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                    serves = answer.status == health_pb2.HealthCheckResponse.SERVING
                except grpc.aio.AioRpcError:
                    serves = False
                await self._note(serves)

    async def _prove_over_http(self) -> None:
        """The same of a service that serves HTTP only."""
        while not self.serving.is_set():
            await self._note(await asyncio.to_thread(probe.answers, self.address))

    async def _note(self, serves: bool) -> None:
        """Notes an answer; waits until the next question if there is one."""
        if serves:
            self.may_move = False
            self.serving.set()
        else:
            await asyncio.sleep(0.1)

    def _output(self) -> IO[bytes]:
        """Where what the process prints goes; its own logs are files beside it."""
        if self._path.exists() and self._path.stat().st_size > 10_000_000:
            self._path.replace(self._path.with_suffix(".out.1"))
        return self._path.open("ab")

    def _count_start(self) -> None:
        now = time.monotonic()
        if len(self._starts) == MOST_STARTS and now - self._starts[0] < STARTS_SECONDS:
            raise GaveUpError(self._describe(f"died {MOST_STARTS} times in a minute"))
        self._starts.append(now)

    def _describe(self, problem: str) -> str:
        """The problem, with the last error in the service's log."""
        head = f"{self.name} {problem}: "
        last = last_error(self._path).removeprefix(head)
        return f"{head}{last} (see `vistaflow logs {self.name}`)"


_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_http_proxy", 0),
)


def last_error(output: Path) -> str:
    """The last error among what a service printed; its last line if it logged none."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - 64 * 1024))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return "it printed nothing"
    spoken = [line.strip() for line in lines if line.strip()]
    for line in reversed(spoken):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("level") in ("ERROR", "CRITICAL"):
            return str(record.get("message", ""))
    return spoken[-1] if spoken else "it printed nothing"

"""The one shape of a stage service: a server for its RPCs, a worker for its jobs.

A stage's `__main__.py` is this and no more:

    SERVICE = StageService(
        name="doe",
        config=DoeConfig,
        service_names=("vistaflow.api.doe.v1.DoeService",),
        add_servicers=lambda stage, server: add_DoeServiceServicer_to_server(
            DoeServicer(stage), server
        ),
        jobs_module="vistaflow_services.doe.jobs",
        job_types=("DOE",),
    )

    def main() -> None:
        serve_stage(SERVICE)
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.metadata
import logging
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import Message

from vistaflow.api.artifacts.v1.artifacts_pb2_grpc import add_ArtifactServiceServicer_to_server
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files, log
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.home import prepare_home
from vistaflow_services.core.registry_client import RegistryClient, job_type_number, result_of
from vistaflow_services.core.results import stored_result
from vistaflow_services.core.server.metrics import Metrics, served
from vistaflow_services.core.server.shell import Server, ServerSettings, main, make_server, run
from vistaflow_services.core.vouching import vouched
from vistaflow_services.core.work import artifact_service
from vistaflow_services.core.work.artifact_service import ArtifactServicer, OpenStored
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.forks.owner import FORK_LINK, inherited_link
from vistaflow_services.core.work.templates import Complete
from vistaflow_services.core.work.worker import Worker

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 2.0
"""How often a service tells the registry where it listens, beside each change of its health.

After a restart the registry knows none of them: a client waits 4 s for the one that it asks."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """The settings of every stage service, read from `VISTAFLOW_<SERVICE>_<FIELD>`."""

    listen: str = "127.0.0.1:0"
    """Where it listens; port 0 takes a free one."""

    advertise: str = ""
    """The address others reach it by, if it is not the one it listens on."""

    address_file: Path | None = None
    """A file to write the address to once it is known, for the program that started the service."""

    capacity: int = 1
    """Jobs run at once."""

    cores: int = 0
    """Cores one job may keep busy; its share of the machine if 0."""

    memory_mib: int = 0
    """Memory one job may use, in MiB; 0 for no limit."""

    warm: bool = True
    """Whether a process with its imports done forks the attempts, which then start at once."""

    worker: str = ""
    """Name of its worker, unique among those alive; made of service and host if empty."""

    metrics_listen: str = ""
    """Where metrics and health checks are served over HTTP, such as `127.0.0.1:9465`; empty:
    nowhere."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= 1_000:
            raise ValueError(f"capacity is from 1 to 1,000, not {self.capacity}")
        if self.cores < 0 or self.memory_mib < 0:
            raise ValueError("cores and memory_mib are at least 0")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level is DEBUG, INFO, WARNING or ERROR, not {self.log_level}")


class Ends:
    """Waits for ends of jobs that this service's worker publishes; others are not heard of."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    def note(self, job_id: str) -> None:
        """Ends the waits for a job."""
        if event := self._events.get(job_id):
            event.set()

    @contextlib.contextmanager
    def event_of(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set once the end of a job is published while the block runs."""
        is_first = job_id not in self._events
        event = self._events.setdefault(job_id, asyncio.Event())
        try:
            yield event
        finally:
            if is_first:
                # Who came later holds the event itself.
                self._events.pop(job_id, None)


class Stage:
    """What a servicer of a stage service has at hand."""

    def __init__(
        self, name: str, config: StageConfig, registry: RegistryClient, home: Path
    ) -> None:
        self.name = name
        self.config = config
        self.registry = registry
        self.home = home
        self.artifacts = ArtifactStore(home / "artifacts")
        self.closing = contextlib.ExitStack()
        """What the servicers hold; closed when the service has stopped."""
        self.metrics: Metrics | None = None
        """Set while it serves, if it has metrics."""
        self.complete: Complete | None = None
        """Makes specs of requests of data kits; set with the servicers."""
        self.ends = Ends()
        """The jobs whose ends its worker publishes."""
        self.open_stored: OpenStored | None = None
        """Opens artifacts that are in the stores of blobs; set with the servicers."""

    async def submit(
        self,
        spec: Message,
        job_type: str,
        name: str = "",
        request_id: str = "",
        *,
        kit_id: int = 0,
        depends_on: Sequence[str] = (),
        timeout: float = 0.0,
        max_attempts: int = 0,
        project: str = "",
    ) -> common_pb2.Job:
        """Starts a job: in a kit of its own, or in the one given.

        Args:
            spec: What to do, the message that the stage's jobs unpack.
            job_type: Such as `DOE`.
            name: The job's name, unique in its kit; the job type in lower case if empty.
            request_id: From the caller's request, so that repeating that is safe.
            kit_id: The kit to add it to; 0 for a new one.
            depends_on: Names of jobs of the kit that must be FINISHED first.
            timeout: Seconds one attempt may take; 0 for no limit.
            max_attempts: Attempts that may be lost; the registry's default if 0.
            project: Of a new kit; the caller's, else the default one, if empty.

        Returns:
            The job as the registry recorded it, queued.
        """
        packed = any_pb2.Any()
        packed.Pack(spec)
        job = registry_pb2.NewJob(
            name=name,
            job_type=job_type_number(job_type),
            depends_on=depends_on,
            spec=packed,
            max_attempts=max_attempts,
        )
        if timeout:
            job.timeout.FromNanoseconds(round(timeout * 1e9))
        request = registry_pb2.CreateJobRequest(
            request_id=request_id, kit_id=kit_id, job=job, project=project
        )
        return (await self.registry.create_job(request)).job

    async def result_so_far(
        self, job_id: str, job_type: str, field: str
    ) -> Mapping[str, Any] | None:
        """What a job published; None if it has not, whatever its status.

        Args:
            job_id: The job.
            job_type: The type it has to be of, such as `DOE`.
            field: The field of the request that named it, for the violation.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: It is of another type.
        """
        job = await self.registry.job_of_type(job_id, job_type=job_type, field=field)
        if job.status == common_pb2.STATUS_FINISHED:
            return result_of(job).result
        # Its attempt may have published already what the registry is about to record.
        return await asyncio.to_thread(
            stored_result, job.job_id, self.artifacts.root, attempt=job.attempt
        )


@dataclass(frozen=True, kw_only=True)
class StageService:
    """A stage service: what it serves and what its worker runs."""

    name: str
    """Such as `doe`."""

    config: type[StageConfig] = StageConfig
    """Its configuration, read from `VISTAFLOW_<NAME>_*`."""

    service_names: tuple[str, ...]
    """Full names of its services, such as `vistaflow.api.doe.v1.DoeService`."""

    add_servicers: Callable[[Stage, Server], None]
    """Adds its servicers to the server."""

    jobs_module: str = ""
    """The module whose `JOBS` does its jobs; imported by the attempts' processes only."""

    job_types: tuple[str, ...] = ()
    """The types of job it runs; empty for a service without a worker."""

    credentials: tuple[str, ...] = ()
    """Variables with secrets that its jobs may read; for jobs that run no code of users."""

    stand_by: bool = False
    """Whether a process waits for the next job while none runs."""

    loops: tuple[Callable[[Stage], Coroutine[Any, Any, None]], ...] = ()
    """What runs beside its server, without end; the process ends if one of them raises."""

    settings: ServerSettings = field(default_factory=ServerSettings)
    """Limits of its server."""

    @property
    def all_service_names(self) -> tuple[str, ...]:
        """Full names of its services, and of the one that reads artifacts and logs."""
        return (*self.service_names, artifact_service.SERVICE_NAME)

    def add_to(self, server: Server, stage: Stage) -> ArtifactServicer:
        """Adds all its servicers to a server; returns the one that reads artifacts and logs."""
        self.add_servicers(stage, server)
        reading = ArtifactServicer(
            stage.registry,
            stage.artifacts.root,
            stage.home / "logs" / "jobs",
            stage.open_stored,
        )
        add_ArtifactServiceServicer_to_server(reading, server)
        return reading


def serve_stage(service: StageService) -> None:
    """Runs a stage service until SIGTERM: the whole of its `main`."""
    log.configure(service.name)

    async def serving() -> None:
        config = configuration.read_config(service.config, f"VISTAFLOW_{service.name.upper()}_")
        home = configuration.home()
        prepare_home(home)
        log.configure(service.name, home=home, level=config.log_level)
        await serve(service, config, home=home, fork_link=_fork_link(sys.argv[1:]))

    main(service.name, serving)


async def serve(
    service: StageService,
    config: StageConfig,
    *,
    home: Path,
    registry_address: str | None = None,
    stop: asyncio.Event | None = None,
    on_bound: Callable[[str], None] | None = None,
    fork_link: socket.socket | None = None,
) -> None:
    """Serves until SIGTERM or `stop`, with a worker if the service has jobs.

    Args:
        service: What to serve.
        config: How.
        home: `$VISTAFLOW_HOME`.
        registry_address: Where the registry listens; `$VISTAFLOW_REGISTRY` if None.
        stop: Set to stop from within.
        on_bound: Told the address once it is known.
        fork_link: Where connections to the suite's fork server come from; None without a suite.
    """
    async with contextlib.AsyncExitStack() as stack:
        name = stack.enter_context(worker_name(service.name, config.worker, home))
        registry = RegistryClient(registry_address, actor=service.name)
        stack.push_async_callback(registry.close)
        stage = Stage(service.name, config, registry, home)
        stack.enter_context(stage.closing)
        metrics = await stack.enter_async_context(served(config.metrics_listen))
        stage.metrics = metrics
        server = make_server(*service.all_service_names, settings=service.settings, metrics=metrics)
        server.door.tokens = vouched(registry)
        reading = service.add_to(server, stage)
        address = server.bind(config.listen)
        logger.info("listening on %s", address, extra={"address": address})
        _tell(address, config.address_file, on_bound)
        worker = _worker(service, stage, name, fork_link) if service.job_types else None
        if metrics is not None and worker is not None:
            metrics.watch_worker(lambda: len(worker.running), lambda: worker.connected)

        async def ready() -> bool:
            if worker is not None:
                return worker.connected
            await registry.server_info()
            return True

        announced_address = advertised(config, address)

        async def drain() -> None:
            await reading.drain()
            if worker is not None:
                await worker.drain()

        async with contextlib.AsyncExitStack() as parts:
            announcing = _announce(service.name, registry, server, announced_address)
            running = [worker.run()] if worker is not None else []
            for part in (*running, announcing, *(loop(stage) for loop in service.loops)):
                await parts.enter_async_context(_beside(part))
            await run(server, ready=ready, on_drain=drain, stop=stop)
        with contextlib.suppress(ServiceError):
            await registry.announce(service.name, announced_address, version(), "NOT_SERVING")


def _tell(address: str, file: Path | None, on_bound: Callable[[str], None] | None) -> None:
    if on_bound is not None:
        on_bound(address)
    if file is not None:
        files.write(file, address.encode())


def _fork_link(arguments: Sequence[str]) -> socket.socket | None:
    """The link to the suite's fork server that the service was started with, if any."""
    for argument in arguments:
        if argument.startswith(FORK_LINK):
            return inherited_link(int(argument.removeprefix(FORK_LINK)))
    return None


def _worker(
    service: StageService, stage: Stage, name: str, fork_link: socket.socket | None
) -> Worker:
    return Worker(
        name,
        service.jobs_module,
        service.job_types,
        stage.registry,
        stage.artifacts,
        stage.config.capacity,
        home=stage.home,
        cores=stage.config.cores,
        memory_bytes=stage.config.memory_mib << 20,
        warm=stage.config.warm,
        fork_link=fork_link,
        credentials=service.credentials,
        complete=stage.complete,
        stand_by=service.stand_by,
        published=stage.ends.note,
    )


async def _announce(name: str, registry: RegistryClient, server: Server, address: str) -> None:
    """Announces the service's address to the registry, again and again and when health changes."""
    while True:
        server.health_changed.clear()
        status = "SERVING" if server.serving else "NOT_SERVING"
        wait = ANNOUNCE_SECONDS
        try:
            await registry.announce(name, address, version(), status)
        except ServiceError as error:
            logger.debug("not announced: %s", error)
            wait = 1.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await server.health_changed.wait()


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Does `work` for as long as the block runs; should it fail, the process must not go on."""
    task = asyncio.create_task(work)
    task.add_done_callback(_end_if_broken)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _end_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a part of the service broke; it ends", exc_info=task.exception())
        # The supervisor starts the service again; a service without this part is of no use.
        os._exit(70)


@contextlib.contextmanager
def worker_name(service: str, name: str, home: Path) -> Iterator[str]:
    """A worker's name: the same after a restart, another for a second one beside it.

    The same name lets the registry know at once that what the former process ran is lost, instead
    of waiting for its leases to expire.
    """
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60]
    folder = home / "run"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, 1_000):
        file = (folder / f"{service}-{number}@{host}.lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        with file:
            yield name or f"{service}-{number}@{host}"
            return
    raise ServiceError(f"more than 1,000 {service} services run on this machine")


def advertised(config: StageConfig, address: str) -> str:
    """The address others reach a service by."""
    if config.advertise:
        return config.advertise
    host, _, port = address.rpartition(":")
    return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "[::]") else address


@functools.cache
def version() -> str:
    """The version of vistaflow."""
    try:
        return importlib.metadata.version("vistaflow")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"

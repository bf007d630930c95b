"""Prometheus metrics and health checks: served over HTTP on a port of their own.

    async with served("127.0.0.1:9464") as metrics:
        server = make_server(..., metrics=metrics)
        ...

`/metrics` has what is counted in the process. `/livez` is 200 while the event loop turns,
`/readyz` while it does and the server says SERVING; else they are 503.

Each server has a registry of its own, so that two in one process do not mix. Calls are counted
under the names that gRPC has given them: `grpc.server.call.started` and
`grpc.server.call.duration`, in Prometheus' spelling.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from vistaflow_services.core.rpc.handlers import WrappingInterceptor, behaving, behaviour_of
from vistaflow_services.core.server.listener import Listener, probe
from vistaflow_services.core.server.shell import StartError, private_address
from vistaflow_services.core.tasks import ended

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
LAG_INTERVAL = 0.25
LAG_KEPT = 40
"""Measurements of the event loop of which the largest is reported: those of ten seconds."""

LIVE_SECONDS = 2.0
"""How long the event loop of a live process may do nothing else."""


class HasHealth(Protocol):
    """A server that knows whether it serves."""

    @property
    def serving(self) -> bool:
        """Whether calls are served."""
        ...


class Metrics:
    """The metrics of one process.

    Raises:
        StartError: `prometheus_client` is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise StartError("metrics need prometheus_client: pip install 'vistaflow[metrics]'")
        import prometheus_client as prometheus

        self._server: HasHealth | None = None
        self._turned_at = time.monotonic()
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.GCCollector(registry=self.registry)
        self._lag = prometheus.Gauge(
            "vistaflow_event_loop_lag_seconds",
            "Longest time of the last ten seconds in which the event loop did nothing else.",
            registry=self.registry,
        )
        self._started = prometheus.Counter(
            "grpc_server_call_started",
            "Calls that began (grpc.server.call.started).",
            ["grpc_method"],
            registry=self.registry,
        )
        self._duration = prometheus.Histogram(
            "grpc_server_call_duration_seconds",
            "How long calls took, streams included (grpc.server.call.duration).",
            ["grpc_method", "grpc_status"],
            buckets=CALL_SECONDS,
            registry=self.registry,
        )

    def calls(self) -> CallInterceptor:
        """Counts and times every call; the outermost interceptor, so that it sees how all end."""
        return CallInterceptor(self._started, self._duration)

    def follow(self, server: HasHealth) -> None:
        """Is ready from now on when the server is."""
        self._server = server

    @property
    def live(self) -> bool:
        """Whether the event loop turns."""
        return time.monotonic() - self._turned_at < LIVE_SECONDS

    @property
    def ready(self) -> bool:
        """Whether calls are served."""
        return self.live and self._server is not None and self._server.serving

    @contextlib.contextmanager
    def serve(self, listen: str) -> Iterator[str]:
        """Serves the pages for as long as the block lasts; yields the address.

        Raises:
            StartError: It cannot listen there, or not without being told that the network is
                private: metrics have no password.
        """
        import prometheus_client as prometheus

        host, port = private_address(listen, "metrics")
        pages = {
            "/metrics": prometheus.make_wsgi_app(self.registry),
            "/livez": probe(lambda: self.live),
            "/readyz": probe(lambda: self.ready),
        }
        try:
            listener = Listener(host, port, pages)
        except OSError as error:
            raise StartError(f"cannot serve metrics at {listen}: {error.strerror}") from error
        address = listener.address
        logger.info("metrics at http://%s/metrics", address, extra={"metrics": address})
        with listener.serving():
            yield address

    def watch_worker(self, running: Callable[[], float], connected: Callable[[], float]) -> None:
        """Tells how many jobs a worker runs, and whether the registry hands it any."""
        self.gauge("vistaflow_worker_running", "Attempts that the worker runs.", running)
        self.gauge("vistaflow_worker_connected", "1 while the registry hands it jobs.", connected)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a metric that is asked for its value."""
        import prometheus_client as prometheus

        prometheus.Gauge(name, text, registry=self.registry).set_function(value)

    async def watch_loop(self) -> None:
        """Measures how late the event loop is, until canceled."""
        lags = [0.0]
        while True:
            began = self._turned_at = time.monotonic()
            await asyncio.sleep(LAG_INTERVAL)
            lags = [*lags[-LAG_KEPT:], max(0.0, time.monotonic() - began - LAG_INTERVAL)]
            self._lag.set(max(lags))


class CallInterceptor(WrappingInterceptor):
    """Counts and times calls.

    Args:
        started: Counter with the method.
        duration: Histogram with the method and the status.
    """

    def __init__(self, started: Any, duration: Any) -> None:
        self._started = started
        self._duration = duration
        super().__init__()

    def _wrap(self, method: str, handler: Any) -> Any:
        name = method.lstrip("/")
        started = self._started.labels(name)
        durations: dict[str, Any] = {}
        inner = behaviour_of(handler)

        def tell(status: str, began: float) -> None:
            histogram = durations.get(status)
            if histogram is None:
                histogram = durations[status] = self._duration.labels(name, status)
            histogram.observe(time.perf_counter() - began)

        async def timed(request: Any, context: Any) -> Any:
            started.inc()
            began = time.perf_counter()
            status = "CANCELLED"
            try:
                # The error interceptor inside has made a coroutine of every kind of handler.
                answer = await inner(request, context)
                status = _status(context, "OK")
                return answer
            except asyncio.CancelledError:
                raise
            except BaseException:
                status = _status(context, "UNKNOWN")
                raise
            finally:
                tell(status, began)

        return behaving(handler, timed)


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _status(context: Any, otherwise: str) -> str:
    """How a call ended, as far as its handler set a status."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code, otherwise) if code else otherwise


@contextlib.asynccontextmanager
async def served(listen: str) -> AsyncIterator[Metrics | None]:
    """Metrics that are served for as long as the block lasts.

    Args:
        listen: Where; empty for no metrics.

    Raises:
        StartError: They cannot be served.
    """
    if not listen:
        yield None
        return
    metrics = Metrics()
    with metrics.serve(listen):
        watching = asyncio.create_task(metrics.watch_loop(), name="event loop lag")
        try:
            yield metrics
        finally:
            await ended([watching])

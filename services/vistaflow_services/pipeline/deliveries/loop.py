"""Leases deliveries from the registry, sends them, and reports.

Any number of pipeline services do this at once: a delivery is leased by one. A service that ends
between sending and reporting leaves a lease that ends, and the delivery is sent again under the
same id. A receiver that hangs holds a few of the threads for a few seconds, not the others'.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.tasks import ended
from vistaflow_services.pipeline.deliveries.sender import Outcome, Sender

logger = logging.getLogger(__name__)

AT_ONCE: Final = 32
"""Deliveries that are being sent at once."""

LOOK_SECONDS: Final = 2.0
"""How often deliveries that are due are looked for while none is sent."""


class Courier:
    """Sends what the registry has recorded.

    Args:
        registry: Leases the deliveries.
        sender: Sends one.
    """

    def __init__(self, registry: RegistryClient, sender: Sender) -> None:
        self._registry = registry
        self._sender = sender
        self._running = set[asyncio.Task[None]]()
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Sends again and again, without end."""
        was_away = False
        threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="delivery")
        try:
            while True:
                count = 0
                try:
                    count = await self._look(threads)
                    was_away = False
                except ServiceError as error:
                    # The registry starts again, or an older one serves while it is replaced.
                    if not was_away:
                        logger.warning("no deliveries are sent now: %s", error)
                    was_away = True
                if not count:
                    await self._pause()
        finally:
            # A receiver that hangs must not hold up the end of the service.
            threads.shutdown(wait=False, cancel_futures=True)
            await ended(self._running)

    async def _pause(self) -> None:
        """Waits for the next look; shorter if a delivery ends, whose successor may be sent."""
        self._progress.clear()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._progress.wait()
        except TimeoutError:
            pass

    async def _look(self, threads: ThreadPoolExecutor) -> int:
        """Begins to send what is due; returns how many deliveries that are."""
        room = AT_ONCE - len(self._running)
        if not room:
            return 0
        request = pb.LeaseDeliveriesRequest(limit=room)
        # Not in the name of a caller: deliveries are the services' own work.
        with callers.serving(callers.EVERYBODY):
            leased = await self._registry.call(self._registry.outbox.LeaseDeliveries, request)
        for delivery in leased.deliveries:
            task = asyncio.create_task(self._deliver(delivery, threads))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return len(leased.deliveries)

    async def _deliver(self, delivery: pb.LeasedDelivery, threads: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        try:
            outcome = await loop.run_in_executor(threads, self._sender.send, delivery)
        except Exception:
            logger.exception("delivery %s could not be sent", delivery.delivery_id)
            outcome = Outcome(error="could not be sent; see the log of the pipeline service")
        reached("delivery.before_report")
        report = pb.ReportDeliveryRequest(
            delivery_id=delivery.delivery_id,
            lease=delivery.lease,
            sent=outcome.sent,
            answer_status=outcome.status,
            error=outcome.error,
            permanent=outcome.permanent,
        )
        if outcome.retry_after:
            report.retry_after.FromSeconds(outcome.retry_after)
        try:
            with callers.serving(callers.EVERYBODY):
                await self._registry.call(self._registry.outbox.ReportDelivery, report)
        except ServiceError as error:
            logger.warning("delivery %s will be sent again: %s", delivery.delivery_id, error)
        self._progress.set()

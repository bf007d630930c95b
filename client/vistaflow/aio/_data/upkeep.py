"""Calls of the asynchronous client that look after the whole installation. For administrators."""

from __future__ import annotations

from vistaflow._rpc.messages import listed, message_of
from vistaflow.aio._calls import Calls
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.models import Job, job_of


class UpkeepCalls(Calls):
    """The methods of a client for backups, clean-ups and repairs."""

    async def back_up(self, *targets: str, keep: int = 3, request_id: str = "") -> Job:
        """Starts a backup of the log, the datasets and the artifacts; returns at once.

        Args:
            targets: Names or URLs of targets that the operator declares.
            keep: How many backups a target keeps.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Its result has `targets`: what was done at each, by name.
        """
        spec = message_of(ingestion_pb2.BackUpSpec, targets=listed(targets, "targets"), keep=keep)
        request = message_of(ingestion_pb2.BackUpRequest, request_id=request_id, spec=spec)
        return job_of((await self._call("ingestion", "BackUp", request)).job)

    async def clean_up(self, *, days: int = 7, request_id: str = "") -> Job:
        """Starts removing what is no longer needed; returns at once.

        Args:
            days: How old a thing is that is removed.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Its result has `removed`: `count` and `bytes` of each kind.
        """
        spec = message_of(ingestion_pb2.CleanUpSpec, days=days)
        request = message_of(ingestion_pb2.CleanUpRequest, request_id=request_id, spec=spec)
        return job_of((await self._call("ingestion", "CleanUp", request)).job)

    async def repair_stores(self, *, verify: bool = False, request_id: str = "") -> Job:
        """Starts restoring copies that are missing or damaged in a store; returns at once.

        Args:
            verify: Whether every copy is read.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Its result has `restored`, the number of copies.
        """
        spec = message_of(ingestion_pb2.RepairSpec, verify=verify)
        request = message_of(ingestion_pb2.RepairStoresRequest, request_id=request_id, spec=spec)
        return job_of((await self._call("ingestion", "RepairStores", request)).job)

"""The directory of services, and what this registry is: AnnounceService and GetServerInfo.

The directory is held in memory, at most `MAX_SERVICES` entries: every service announces itself
every few seconds, so that a registry knows all of them soon after its start.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import ExhaustedError, Violations
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.messages.translate import label_from_proto
from vistaflow_services.registry.upkeep.checks import Finding
from vistaflow_services.registry.watch.store import WatchStore

SILENCE_SECONDS = 15.0
# A service that was silent so long is not listed any more.
FORGET_SECONDS = 3600.0
MAX_SERVICES = 1000
SERVING = "SERVING"
NOT_SERVING = "NOT_SERVING"

_FOR_READERS = frozenset({"registry", "ingestion", "gateway"})
"""Services that a reader may call."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MAX_ADDRESS = 255
_MAX_VERSION = 100


class ServiceDirectory:
    """Serves AnnounceService and GetServerInfo.

    Args:
        hub: Knows the newest revision.
        store: Knows the oldest, and the database's clock.
        name_schema: Schema of the tables in the database.
        version: Version of vistaflow.
        address: Where this registry listens, once it does.
        limits: Limits and settings worth knowing, by name.
        findings: Results of the latest checks.
        clock: Seconds from any start; never goes back.
    """

    def __init__(
        self,
        *,
        hub: Hub,
        store: WatchStore,
        name_schema: str,
        version: str,
        address: Callable[[], str],
        limits: Mapping[str, str],
        findings: Callable[[], Sequence[Finding]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._store = store
        self._schema = name_schema
        self._version = version
        self._address = address
        self._limits = limits
        self._settings = frozenset(limits)
        """The initial limits; limits added later describe the watches of all projects."""
        self._findings = findings
        self._clock = clock
        self._announced: dict[tuple[str, str], tuple[float, pb.ServiceInfo]] = {}
        """When each service last announced itself, and how, by name and address."""

    def announce(self, request: pb.AnnounceServiceRequest) -> pb.AnnounceServiceResponse:
        """Notes where a service listens."""
        service = request.service
        violations = Violations()
        if not _NAME.fullmatch(service.name):
            violations.add("service.name", f"must match {_NAME.pattern}")
        if not service.address:
            violations.add("service.address", f"give 1 to {_MAX_ADDRESS} characters")
        label_from_proto(service.address, "service.address", _MAX_ADDRESS, violations)
        label_from_proto(service.version, "service.version", _MAX_VERSION, violations)
        if service.status not in (SERVING, NOT_SERVING):
            violations.add("service.status", f"give {SERVING} or {NOT_SERVING}")
        violations.check()
        now = self._clock()
        for key, (seen_at, _) in list(self._announced.items()):
            if now - seen_at > FORGET_SECONDS:
                del self._announced[key]
        key = (service.name, service.address)
        if key not in self._announced and len(self._announced) >= MAX_SERVICES:
            raise ExhaustedError(f"{MAX_SERVICES} services are known already")
        entry = pb.ServiceInfo()
        entry.CopyFrom(service)
        entry.seen_at.FromDatetime(datetime.now(UTC))
        self._announced[key] = (now, entry)
        return pb.AnnounceServiceResponse()

    def services(self) -> list[pb.ServiceInfo]:
        """The services known, the registry first, then by name and address.

        Of one name at several addresses, those that fell silent are left out as long as another
        serves: they are where the service was before it restarted.
        """
        registry = pb.ServiceInfo(
            name="registry", address=self._address(), version=self._version, status=SERVING
        )
        registry.seen_at.FromDatetime(datetime.now(UTC))
        now = self._clock()
        listed: list[pb.ServiceInfo] = []
        for _, (seen_at, entry) in sorted(self._announced.items()):
            service = pb.ServiceInfo()
            service.CopyFrom(entry)
            if now - seen_at > SILENCE_SECONDS:
                service.status = NOT_SERVING
            listed.append(service)
        alive = {service.name for service in listed if service.status == SERVING}
        return [registry] + [
            service for service in listed if service.status == SERVING or service.name not in alive
        ]

    async def info(self) -> pb.GetServerInfoResponse:
        """What this registry is."""
        if callers.current().role is callers.Role.READER:
            response = pb.GetServerInfoResponse(version=self._version)
            for service in self.services():
                if service.name in _FOR_READERS:
                    response.services.add(
                        name=service.name, address=service.address, status=service.status
                    )
            response.now.FromDatetime(await self._store.now())
            return response
        ends = await self._store.ends()
        project = callers.current().project
        response = pb.GetServerInfoResponse(
            version=self._version,
            epoch=ends.epoch,
            revision=max(ends.head, self._hub.head),
            oldest_revision=ends.oldest,
            services=self.services(),
            limits={
                name: text
                for name, text in self._limits.items()
                if not project or name in self._settings
            },
            findings=() if project else map(_finding_to_proto, self._findings()),
            database_schema=self._schema,
        )
        response.now.FromDatetime(await self._store.now())
        return response


def _finding_to_proto(finding: Finding) -> pb.CheckFinding:
    return pb.CheckFinding(
        name=finding.name,
        state=pb.CheckState.Value(f"CHECK_STATE_{finding.state.upper()}"),
        summary=finding.summary,
        fix=finding.fix,
        critical=finding.critical,
    )

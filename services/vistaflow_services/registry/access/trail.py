"""The audit trail: who asked for what, when, and what was answered."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.names import MAX_ACTOR
from vistaflow_services.core.rpc import pages
from vistaflow_services.registry.database.pool import Connections, Pool, Row
from vistaflow_services.registry.database.queries import QUERIES, fetch_planned
from vistaflow_services.registry.messages import translate

MAX_PAGE = 200
"""Requests of one page: an answer that is kept has 128 KiB at most."""

MAX_METHOD = 100

_TOKEN_METHODS: Final = {"CreateToken", "RevokeToken"}
"""Methods whose kept answer is the token's id."""

_SECRET: Final = re.compile("secret|password|passwd|credential|api_?key|access_?key", re.IGNORECASE)
"""Keys of values that are not shown."""

_HIDDEN: Final = "…"


class Trail:
    """Serves ListRequests.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: Pool) -> None:
        self._connections = Connections(pool)

    async def list(self, request: pb.ListRequestsRequest) -> pb.ListRequestsResponse:
        """Lists requests, newest first."""
        violations = Violations()
        limit = pages.size(request, 50, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        translate.label_from_proto(request.actor, "actor", MAX_ACTOR, violations)
        translate.label_from_proto(request.method, "method", MAX_METHOD, violations)
        if request.kit_id < 0:
            violations.add("kit_id", f"is {request.kit_id}; kits are numbered from 1")
        parameters = {
            "before": 2**62 if before is None else min(before, 2**62),
            "actor": request.actor or None,
            "method": request.method or None,
            "kit_id": request.kit_id or None,
            "after": translate.time_from_proto(request, "answered_after", violations),
            "until": translate.time_from_proto(request, "answered_before", violations),
            "limit": limit + 1,
        }
        violations.check()
        rows = await self._connections.use(
            lambda connection: fetch_planned(connection, QUERIES["list_requests"], parameters)
        )
        listed = await off_loop.reading.do(fitting, rows[:limit], _record)
        more = len(listed) < len(rows)
        return pb.ListRequestsResponse(
            requests=listed,
            next_page_token=pages.encode(listed[-1].number, request) if more else "",
        )


def _record(row: Row) -> pb.RequestRecord:
    number, answered_at, actor, method, kit_id, data, response = row
    record = pb.RequestRecord(number=number, actor=actor, method=method, kit_id=kit_id or 0)
    translate.put_time(record.answered_at, answered_at)
    translate.struct_to_proto(json.dumps(shown(json.loads(data))), record.request)
    translate.struct_to_proto(json.dumps(shown(_answer(method, bytes(response)))), record.answer)
    return record


def shown(value: Any) -> Any:
    """A value of JSON without secrets and without the content of packed specs."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    if not isinstance(value, dict):
        return value
    is_packed = "type_url" in value
    return {
        key: _HIDDEN if _SECRET.search(key) else shown(item)
        for key, item in value.items()
        if not (is_packed and key == "value")
    }


def _answer(method: str, response: bytes) -> dict[str, Any]:
    """What was answered, in short: lists as their length, a kit without its jobs and its spec."""
    if method in _TOKEN_METHODS:
        return {"token_id": response.decode()}
    descriptor = pb.DESCRIPTOR.message_types_by_name.get(f"{method}Response")
    if descriptor is None or not response:
        return {}
    try:
        message: Any = GetMessageClass(descriptor).FromString(response)
    except DecodeError:
        return {}
    counts = {}
    for field, value in message.ListFields():
        if field.is_repeated:
            counts[f"{field.name}_count"] = len(value)
            message.ClearField(field.name)
        elif field.message_type is not None and field.name in ("kit", "job"):
            for name in ("jobs", "spec", "tasks", "result"):
                if name in field.message_type.fields_by_name:
                    value.ClearField(name)
    answer: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return answer | counts

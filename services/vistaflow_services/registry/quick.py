"""Rows to append, read the quick way: what is plainly right is taken at once.

Anything else is left to `requests`, which says what is wrong with it and under which field.
"""

from __future__ import annotations

from functools import lru_cache

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow_services.core import callers
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import MAX_ACTOR, MAX_METADATA_BYTES, MAX_TASK_NAME
from vistaflow_services.registry.raw_requests import STRUCT_BYTES_A_JSON_BYTE
from vistaflow_services.registry.structs import struct_text
from vistaflow_services.registry.translate import (
    JOB_TYPE_WORDS,
    STATUS_WORDS,
    has_control,
    uuid_of,
)

_JOB_TYPE_OR_NONE = {0: "", **JOB_TYPE_WORDS}

# A text of so many characters is short enough whatever they are.
_SHORT_METADATA = MAX_METADATA_BYTES // 4


# The same few jobs send most of the rows.
_uuid = lru_cache(maxsize=10_000)(uuid_of)


def quick_item(state: common.State, numbers_checked: bool = False) -> c.Item | None:
    """The row, or None if it may not be in order."""
    job_id = _uuid(state.job_id)
    status = STATUS_WORDS.get(state.status)
    job_type = _JOB_TYPE_OR_NONE.get(state.job_type)
    caller = callers.current()
    task_name, actor, reason = state.task_name, state.actor or caller.name, state.reason
    kit_id, attempt, seq = state.kit_id, state.attempt, state.seq
    # A job's own row may carry a result, and needs more care.
    if not (job_id and status and task_name) or job_type is None or reason:
        return None
    if kit_id < 0 or attempt < 0 or seq < 0:
        return None
    if len(task_name) > MAX_TASK_NAME or has_control(task_name):
        return None
    if actor and (len(actor) > MAX_ACTOR or has_control(actor)):
        return None
    metadata = ""
    if state.HasField("metadata") and state.metadata.fields:
        if state.metadata.ByteSize() > MAX_METADATA_BYTES * STRUCT_BYTES_A_JSON_BYTE:
            return None
        try:
            metadata = struct_text(state.metadata, numbers_checked=numbers_checked)
        except ValueError:
            return None
        if "\\u0000" in metadata:
            return None
        if len(metadata) > _SHORT_METADATA and len(metadata.encode()) > MAX_METADATA_BYTES:
            return None
    return c.Item(
        job_id=job_id,
        status=status,
        task_name=task_name,
        attempt=attempt,
        seq=seq,
        metadata_json=metadata,
        actor=actor,
        kit_id=kit_id,
        job_type=job_type,
        within=caller.project,
    )

"""The fast path of requests that append rows.

It accepts the rows that are certainly valid. `requests` checks every other row, and says what is
wrong with it under its field.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.struct_pb2 import Struct

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow_services.core.door import callers
from vistaflow_services.core.names import MAX_ACTOR, MAX_TASK_NAME, has_control
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import MAX_METADATA_BYTES
from vistaflow_services.registry.messages.encoding import struct_text
from vistaflow_services.registry.messages.layouts import Layouts
from vistaflow_services.registry.messages.raw import STRUCT_BYTES_A_JSON_BYTE
from vistaflow_services.registry.messages.translate import (
    JOB_TYPE_WORDS,
    STATUS_WORDS,
    uuid_of,
)

_JOB_TYPE_OR_NONE = {0: "", **JOB_TYPE_WORDS}

# A text of so many characters is short enough: a character takes at most 4 bytes.
_SHORT_METADATA = MAX_METADATA_BYTES // 4


_layouts = Layouts()

# The same few jobs send most of the rows.
_uuid = lru_cache(maxsize=10_000)(uuid_of)


@lru_cache(maxsize=10_000)
def _is_task_name(name: str) -> bool:
    return 0 < len(name) <= MAX_TASK_NAME and not has_control(name)


def quick_item(state: common.State, numbers_checked: bool = False) -> c.Item | None:
    """The row of a task, or None: `requests` must check it.

    ============  =================================================================
    field         accepted here
    ============  =================================================================
    job_id        a UUID
    status        one this version knows
    job_type      unset, or one this version knows
    task_name     set, up to `MAX_TASK_NAME` characters, no control characters
    actor         up to `MAX_ACTOR` characters, no control characters
    reason        unset
    kit_id        0 or more, as are attempt and seq
    metadata      exact numbers, no NUL, up to `MAX_METADATA_BYTES` of JSON
    ============  =================================================================

    Rows of jobs have no task name. They may carry a result, which only `requests` reads.
    """
    # Attributes of messages are slow: each is read once.
    job_id = _uuid(state.job_id)
    status = STATUS_WORDS.get(state.status)
    job_type = _JOB_TYPE_OR_NONE.get(state.job_type)
    caller = callers.current()
    task_name, actor, reason = state.task_name, state.actor or caller.name, state.reason
    kit_id, attempt, seq = state.kit_id, state.attempt, state.seq
    # None is no refusal: the full checks repeat all of this and name the field.
    if not (job_id and status) or job_type is None or reason or not _is_task_name(task_name):
        return None
    if kit_id < 0 or attempt < 0 or seq < 0:
        return None
    if actor and (len(actor) > MAX_ACTOR or has_control(actor)):
        return None
    metadata = _quick_metadata(state.metadata, numbers_checked)
    if metadata is None:
        return None
    # By position: names cost as much again. No result, no reason.
    return c.Item(
        job_id, status, task_name, attempt, seq, metadata, "", actor, "", kit_id, job_type,
        caller.project,
    )  # fmt: skip


def _quick_metadata(struct: Struct, numbers_checked: bool) -> str | None:
    """The JSON text of metadata; None if it is too large, or not certain to be stored exactly."""
    data = struct.SerializeToString()
    if not data:
        return ""
    if len(data) > MAX_METADATA_BYTES * STRUCT_BYTES_A_JSON_BYTE:
        return None
    text = _layouts.text(struct, data)
    if text is None:
        try:
            text = struct_text(struct, numbers_checked=numbers_checked)
        except ValueError:
            return None
    # A NUL, or a backslash before `u0000`: only `requests` tells them apart.
    if "\\u0000" in text:
        return None
    # An empty Struct is stored like none at all, also one with fields that are not known here.
    if text == "{}":
        return ""
    # Encoded only where the number of characters does not decide.
    if len(text) > _SHORT_METADATA and len(text.encode()) > MAX_METADATA_BYTES:
        return None
    return text

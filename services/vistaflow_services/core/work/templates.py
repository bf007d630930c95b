"""Templates: specs of jobs of data kits, completed when an attempt starts.

The registry keeps the template for good. Each attempt is completed again from the results of the
finished jobs that it depends on, which never change: so a worker may be killed at any moment, and
every attempt of a job has the same values. Values stay values: they are put into fields of the
request, never into a text.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow_services.core.errors import ConflictError, cut

Complete = Callable[[Message, str], Awaitable[Message]]
"""Checks a request in the name of a project, and makes a spec of it; the service's own."""

TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "VARCHAR": (str,),
    "BIGINT": (int,),
    "DOUBLE": (int, float),
    "BOOLEAN": (bool,),
}
"""What a value of each type is in a result."""

_STEP = re.compile(r"([a-z0-9_]+)(?:\[([^\]]*)\])?(?:\.|$)")


def template_of(spec: any_pb2.Any) -> common_pb2.JobTemplate | None:
    """The template in the spec of a job; None if it is another spec."""
    template = common_pb2.JobTemplate()
    try:
        return template if spec.Unpack(template) else None
    except DecodeError:
        return None


def unpacked(spec: any_pb2.Any, kind: type[Message]) -> Any:
    """The message in a spec, or in the request of a template; None if it is another one."""
    template, message = template_of(spec), kind()
    try:
        return message if (template.request if template else spec).Unpack(message) else None
    except DecodeError:
        return None


def filled(template: common_pb2.JobTemplate, inputs: Mapping[str, Mapping[str, Any]]) -> Message:
    """The request of a template with its values.

    Args:
        template: The template.
        inputs: By the names of finished jobs, their `job_id` and `result`.

    Raises:
        ConflictError: A value is missing or of another type, or the request is unknown.
    """
    name = template.request.type_url.rpartition("/")[2]
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        request = message_factory.GetMessageClass(descriptor).FromString(template.request.value)
    except (KeyError, DecodeError):
        raise ConflictError(
            f"the request {cut(name, 80)} is unknown to this service; run the kit again",
            reason="WRONG_SPEC",
        ) from None
    for entry in template.values:
        value = _value(entry, inputs)
        try:
            _put(request, entry.field, value)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ConflictError(
                f"{entry.field} cannot hold the value of ${{{entry.job}.{entry.key}}}",
                reason="WRONG_VALUE",
            ) from None
    return request


def _value(entry: common_pb2.JobValue, inputs: Mapping[str, Mapping[str, Any]]) -> Any:
    source = inputs.get(entry.job)
    if source is None:
        raise ConflictError(f"job {entry.job} has no result for {entry.field}", reason="NO_VALUE")
    if not entry.key:
        return source["job_id"]
    value: Any = source["result"]
    for key in entry.key.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None:
        raise ConflictError(
            f"job {entry.job} has published no `{entry.key}`, which {entry.field} needs",
            reason="NO_VALUE",
        )
    if isinstance(value, float) and entry.type == "BIGINT" and value.is_integer():
        value = int(value)
    known = TYPES.get(entry.type, ())
    if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
        raise ConflictError(
            f"`{entry.key}` of job {entry.job} is {cut(repr(value), 60)}, not {entry.type} as "
            f"{entry.field} needs",
            reason="WRONG_VALUE",
        )
    return value


def _put(message: Any, path: str, value: Any) -> None:
    """Sets the field of a path such as `tables[0].source.query.job_id` or `tables[name]`."""
    *way, (name, key) = _STEP.findall(path)
    for step, index in way:
        message = getattr(message, step)
        message = message[int(index)] if index else message
    field = message.DESCRIPTOR.fields_by_name[name]
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    kind = field.message_type.fields_by_name["value"] if is_map else field
    if kind.cpp_type == FieldDescriptor.CPPTYPE_STRING and not isinstance(value, str):
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if is_map:
        getattr(message, name)[key] = value
    elif key:
        getattr(message, name)[int(key)] = value
    else:
        setattr(message, name, value)

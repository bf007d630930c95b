"""kit.yaml of both forms as a JSON Schema for editors.

The options of jobs come from the descriptors of their requests, their words from the comments of
the protos. What depends on other jobs or on the services is left to the checks.
"""

from __future__ import annotations

import copy
import gzip
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow_services.decks.files.schema import DIALECT, Schema
from vistaflow_services.pipeline.flows.designs import FIELDS
from vistaflow_services.pipeline.flows.published import KINDS
from vistaflow_services.pipeline.schema import kit_schema, or_null, scalar_schema

_TEXT: Final[Schema] = {"type": "string"}
_REFERENCE: Final[Schema] = {"type": "string", "pattern": r"^\$\{[^}]+\}$"}
_LIST: Final[Schema] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}]}
_ATTEMPTS: Final[Schema] = {
    "description": "Attempts that may be lost or crash, 1 to 100.",
    "type": "integer",
    "minimum": 1,
    "maximum": 100,
}
_VALUE: Final[Schema] = {"type": ["string", "number", "boolean", "null"]}


def kit_file_schema() -> Schema:
    """The JSON Schema of kit.yaml: a data kit if it has `jobs`, else a design kit."""
    design = kit_schema()
    head = {key: design.pop(key) for key in ("$schema", "title", "description")}
    assert head["$schema"] == DIALECT
    head["description"] = "A design kit, or with `jobs` a data kit."
    return {**head, "if": {"required": ["jobs"]}, "then": _flow(design), "else": design}


def _flow(design: Schema) -> Schema:
    kinds: Schema = {}
    for word, kind in KINDS.items():
        if word == "design":
            options = dict(design, required=["deck"])
            options["properties"] = {
                key: value for key, value in design["properties"].items() if key not in kind.hidden
            }
            options = _with_values(options)
        else:
            descriptor: Any = kind.request.DESCRIPTOR
            options = _message(descriptor, kind.hidden)
        if word == "import":
            table = _message(ingestion_pb2.ImportTable.DESCRIPTOR)["properties"]
            keys = ("source", "primary_key", "dedupe", "rules", "types")
            options["properties"] |= {key: table[key] for key in keys}
            options["properties"]["profile"] = {"type": "boolean"}
        file = {"type": "string", "description": "A file beside this one with these options."}
        kinds[word] = {"description": f"A {word} job.", "anyOf": [options, file]}
    job = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "depends_on": {"description": "Jobs that must be FINISHED first.", **_LIST},
            "max_attempts": _ATTEMPTS,
            **kinds,
        },
        "anyOf": [{"required": [word]} for word in kinds],
    }
    properties = {key: design["properties"][key] for key in ("name", "project", "labels", "notify")}
    properties["max_attempts"] = _ATTEMPTS
    properties["jobs"] = {
        "description": "Jobs by their names; `${NAME.VALUE}` is what an earlier one published.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": 100,
        "propertyNames": {"pattern": "^[a-z0-9][a-z0-9_-]{0,59}$"},
        "additionalProperties": job,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": ["name", "jobs"],
    }


def _with_values(options: Schema) -> Schema:
    """The options of a design, whose numbers may be values of earlier jobs."""
    options = copy.deepcopy(options)
    for path in FIELDS:
        *above, last = path.split(".")
        node = options
        for step in above:
            node = node["properties"][step]
        schema = node["properties"][last]
        about = {"description": schema.pop("description")} if "description" in schema else {}
        node["properties"][last] = {**about, "anyOf": [schema, _REFERENCE]}
    number: Schema = {"anyOf": [{"type": "number"}, _REFERENCE]}
    parameters = options["properties"]["design"]["properties"]["parameters"]
    _, pair, fields = parameters["additionalProperties"]["anyOf"]
    pair["items"] = number
    fields["properties"] |= {"low": number, "high": number}
    return options


def _message(message: Descriptor, hidden: frozenset[str] = frozenset()) -> Schema:
    fields: dict[str, FieldDescriptor] = dict(message.fields_by_name)
    properties = {}
    for name, field in fields.items():
        if name not in hidden:
            special = _SPECIAL.get(field.full_name)
            schema = special if special is not None else or_null(_field(field))
            about = comments().get(field.full_name, "")
            properties[name] = {"description": about, **schema} if about else schema
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _field(field: FieldDescriptor) -> Schema:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _VALUE}
    if kind is not None and kind.full_name == "google.protobuf.Duration":
        return {"type": "number", "minimum": 0}
    one = _message(kind) if kind is not None else scalar_schema(field, field.full_name)
    if field.is_repeated:
        several: Schema = {"type": "array", "items": one}
        return several if kind is not None else {"anyOf": [_TEXT, several]}
    return one if kind is not None else {"anyOf": [one, _REFERENCE]}


def _rows(message: Descriptor) -> Schema:
    """HtmlRows or JsonRows, with columns by their names."""
    schema = _message(message)
    column = _message(ingestion_pb2.PageColumn.DESCRIPTOR, frozenset({"name"}))
    schema["properties"]["columns"] = {
        "description": "Columns by their names.",
        "type": "object",
        "additionalProperties": {"anyOf": [{"type": ["string", "null"]}, column]},
    }
    return schema


@cache
def comments() -> dict[str, str]:
    """The comments of fields, by their full names."""
    packed = (resources.files("vistaflow.api") / "comments.binpb.gz").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(gzip.decompress(packed))
    names = {kind.request.DESCRIPTOR.file.name for kind in KINDS.values()}
    return dict(entry for file in files.file if file.name in names for entry in _commented(file))


def _commented(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    messages: Any = list(
        descriptor_pool.Default().FindFileByName(file.name).message_types_by_name.values()
    )
    for place in file.source_code_info.location:
        path = list(place.path)
        if len(path) == 4 and path[0] == 4 and path[2] == 2 and place.leading_comments:
            field = messages[path[1]].fields[path[3]]
            yield field.full_name, " ".join(place.leading_comments.split())


_SPECIAL: Final[dict[str, Schema]] = {}
"""What `reader` reads otherwise than by the type of its field."""


def _fill() -> None:
    package = "vistaflow.api.ingestion.v1"
    anything: Schema = {"type": ["string", "array", "object"]}
    _SPECIAL.update(
        {
            f"{package}.CollectSpec.html": _rows(ingestion_pb2.HtmlRows.DESCRIPTOR),
            f"{package}.CollectSpec.json": _rows(ingestion_pb2.JsonRows.DESCRIPTOR),
            f"{package}.CollectSpec.pages": {
                "anyOf": [_TEXT, _message(ingestion_pb2.PageNumbers.DESCRIPTOR)]
            },
            f"{package}.ConvertJsonRequest.collection": {
                "anyOf": [
                    _REFERENCE,
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {"job": _REFERENCE, "pages": {"type": "boolean"}},
                        "required": ["job"],
                    },
                ]
            },
            f"{package}.ImportTable.source": anything,
            f"{package}.ImportTable.rules": {"type": ["array", "object"]},
            f"{package}.ImportTable.references": {"type": "array"},
            f"{package}.ImportTable.dedupe": {"type": ["string", "object"]},
            "vistaflow.api.query.v1.SubmitQueryRequest.parameters": {"type": "object"},
        }
    )


_fill()

__all__ = ["comments", "kit_file_schema"]

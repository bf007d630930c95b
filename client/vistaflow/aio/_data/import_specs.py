"""What a caller says of an import, as messages; each mistake is named by its path."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import date, time
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from vistaflow._rpc.messages import message_of
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import FieldViolation, InvalidArgumentError, invalid

Rules = Sequence[str | Mapping[str, Any]] | Mapping[str, str | Mapping[str, Any]]
"""Expressions, or mappings with the fields of `QualityRule`, in a list or by their names."""

MessageT = TypeVar("MessageT", bound=Message)

_REFERENCE: Final = re.compile(r"\s*(.+?)\s*->\s*(\w+)\.(.+?)\s*")
_SIGNS: Final = {">=": "ge", "<=": "le", "!=": "ne", "<>": "ne", ">": "gt", "<": "lt", "=": "eq"}
_COMPARED: Final = ("minimum", "maximum")


def is_uuid(text: str) -> bool:
    """Whether a name is the id of a job."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def table_message(table: Mapping[str, Any], path: str) -> ingestion_pb2.ImportTable:
    """A table to import, without its source.

    Args:
        table: `name`, `primary_key`, `references`, `dedupe`, `rules`, `types`, as `import_dataset`
            takes them.
        path: Its place in the request, such as `tables[0].`; empty for the only one.
    """
    known = {"source", *ingestion_pb2.ImportTable.DESCRIPTOR.fields_by_name}
    for name in table:
        if name not in known:
            raise invalid(f"{path}{name}", f"is no key of a table; keys are {_all(sorted(known))}")
    message = built_message(
        ingestion_pb2.ImportTable,
        path,
        name=table.get("name") or "",
        primary_key=_texts(table.get("primary_key"), f"{path}primary_key"),
        types=table.get("types") or {},
    )
    message.references.extend(references_of(table.get("references") or (), f"{path}references"))
    message.rules.extend(rules_of(table.get("rules") or (), f"{path}rules"))
    if table.get("dedupe"):
        message.dedupe.CopyFrom(dedupe_of(table["dedupe"], f"{path}dedupe"))
    return message


def files_message(
    names: Sequence[str], options: Mapping[str, Any], path: str
) -> ingestion_pb2.RowFiles:
    """Files of a source, with the options of their format."""
    options = dict(options)
    word = options.pop("format", None)
    if word is not None:
        options["format"] = number_of_word(
            ingestion_pb2.RowFormat, "ROW_FORMAT_", word, f"{path}.format"
        )
    return built_message(ingestion_pb2.RowFiles, f"{path}.", file_names=names, **options)


def key_text(value: Any, field: str) -> str:
    """A value of a key as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    raise invalid(field, f"{value!r} is no value of a key")


def _texts(value: Any, field: str) -> list[str]:
    """A text, or a list of texts."""
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise invalid(field, f"{value!r} is neither a name nor a list of names")
    return list(texts)


def references_of(values: Any, field: str) -> list[datasets_pb2.DatasetReference]:
    """References: mappings, or texts such as `user_id -> user.id`."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise invalid(field, f"{values!r} is not a list")
    references = []
    for index, value in enumerate(values):
        path = f"{field}[{index}]"
        if isinstance(value, str) and (match := _REFERENCE.fullmatch(value)):
            columns, table, key = match.groups()
            value = {"columns": columns.split(","), "table": table, "key": key.split(",")}
        if not isinstance(value, Mapping):
            raise invalid(path, f"{value!r} is no reference, such as `user_id -> user.id`")
        lists = {name: _texts(value.get(name), f"{path}.{name}") for name in ("columns", "key")}
        references.append(
            built_message(datasets_pb2.DatasetReference, f"{path}.", **{**value, **lists})
        )
    return references


def rules_of(values: Any, field: str) -> list[ingestion_pb2.QualityRule]:
    """Rules, by their names or in a list, where those without a name get one."""
    if isinstance(values, Mapping):
        entries = [(f"{field}.{name}", name, rule) for name, rule in values.items()]
    elif isinstance(values, Sequence) and not isinstance(values, str):
        entries = [(f"{field}[{index}]", "", rule) for index, rule in enumerate(values)]
    else:
        raise invalid(field, f"{values!r} is not a list")
    rules = [_rule(rule, name, path) for path, name, rule in entries]
    names = {rule.name for rule in rules}
    for rule in rules:
        if not rule.name:
            name, number = _rule_name(rule), 1
            while name in names:
                number += 1
                name = f"{_rule_name(rule)}_{number}"
            names.add(name)
            rule.name = name
    return rules


def _rule(value: Any, name: str, path: str) -> ingestion_pb2.QualityRule:
    fields: dict[str, Any] = {"expression": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise invalid(path, f"{value!r} is neither an expression nor a mapping with conditions")
    compared: dict[str, Any] = {
        key: _rule_value(fields[key], f"{path}.{key}") for key in _COMPARED if key in fields
    }
    if "allowed" in fields:
        allowed = fields["allowed"]
        if isinstance(allowed, str) or not isinstance(allowed, Sequence):
            raise invalid(f"{path}.allowed", f"{allowed!r} is not a list")
        compared["allowed"] = [_rule_value(item, f"{path}.allowed") for item in allowed]
    return built_message(
        ingestion_pb2.QualityRule, f"{path}.", **{"name": name, **fields, **compared}
    )


def _rule_name(rule: ingestion_pb2.QualityRule) -> str:
    """A name for a rule without one: its column, or the words of its expression."""
    text = rule.column or rule.expression
    for sign, word in _SIGNS.items():
        text = text.replace(sign, f" {word} ")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_")[:50]
    return name if name[:1].isalpha() else f"rule_{name}".strip("_")


def _rule_value(value: Any, path: str) -> ingestion_pb2.RuleValue:
    if isinstance(value, bool):
        return ingestion_pb2.RuleValue(flag=value)
    if isinstance(value, int):
        return built_message(ingestion_pb2.RuleValue, f"{path}.", whole=value)
    if isinstance(value, float):
        return ingestion_pb2.RuleValue(number=value)
    return ingestion_pb2.RuleValue(text=key_text(value, path))


def dedupe_of(value: Any, path: str) -> ingestion_pb2.Dedupe:
    """Which row of a key stays: a mapping, or a text such as `newest:updated_at`."""
    if isinstance(value, str):
        keep, _, by = value.partition(":")
        value = {"keep": keep, "by": by}
    if not isinstance(value, Mapping):
        raise invalid(path, f"{value!r} is no rule, such as `newest:updated_at` or `first`")
    lists = {"key": _texts(value.get("key"), f"{path}.key")}
    number = number_of_word(
        ingestion_pb2.DedupeKeep, "DEDUPE_KEEP_", value.get("keep"), f"{path}.keep"
    )
    return built_message(ingestion_pb2.Dedupe, f"{path}.", **{**value, **lists, "keep": number})


def number_of_word(enum: Any, prefix: str, word: Any, path: str) -> int:
    """The value of an enum that a word stands for, such as `csv` for `ROW_FORMAT_CSV`."""
    words = [name.removeprefix(prefix).lower() for name, number in enum.items() if number]
    if not isinstance(word, str) or word.lower() not in words:
        raise invalid(path, f"{word!r} is none of {_all(words)}")
    return int(enum.Value(f"{prefix}{word.upper()}"))


def built_message(kind: type[MessageT], path: str, **fields: Any) -> MessageT:
    """A message; mistakes have their path."""
    known = list(kind.DESCRIPTOR.fields_by_name)
    for name in fields:
        if name not in known:
            raise invalid(f"{path}{name}", f"is no key here; keys are {_all(known)}")
    try:
        return message_of(kind, **fields)
    except InvalidArgumentError as error:
        violations = tuple(
            FieldViolation(field=f"{path}{part.field}", description=part.description)
            for part in error.violations
        )
        text = "; ".join(f"{part.field}: {part.description}" for part in violations)
        raise InvalidArgumentError(text or error.message, violations=violations) from None


def _all(names: Any) -> str:
    return ", ".join(names)

"""kit.yaml to a kit spec.

The spec's message says which fields there are and of what type; this adds what makes the file
pleasant to write: short enum names, a deck by name alone, ranges as pairs, goals as a list. All
mistakes are reported together, each with its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.core.errors import FieldViolation, InvalidError, Violations
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.files.document import Document, read_document

FILE: Final = "kit.yaml"

_BESIDE = re.compile(r"^\.{0,2}/|/|\.(zip|tar|tar\.gz|tgz)$")
"""A deck that lies beside the kit file rather than in the library."""

INTEGER_BITS: Final = {
    FieldDescriptor.CPPTYPE_INT32: 31,
    FieldDescriptor.CPPTYPE_INT64: 63,
}
"""How many bits a whole number may have, by the type of its field."""

REUSE_WORDS: Final = re.compile(r"^(?:(all)|kit ([0-9]{1,9})|dataset (\S+))$")
"""What an entry of `reuse` may be."""

OVERRIDE_KEYS: Final = ("low", "high", "choices", "fixed")
"""What an entry of `design.parameters` may hold."""


def deck_beside(text: str) -> str:
    """The path of the deck that a kit file names beside itself, or nothing.

    What is wrong with the file is left to `read_kit`.
    """
    try:
        root = read_document(text.encode(), FILE).root
    except InvalidError:
        return ""
    deck = root.get("deck") if isinstance(root, Mapping) else None
    if isinstance(deck, Mapping):
        deck = deck.get("path")
        return deck if isinstance(deck, str) else ""
    return deck if isinstance(deck, str) and _BESIDE.search(deck) else ""


def document_of(
    text: str,
    file: str = FILE,
    settings: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Document:
    """A kit file with values replaced.

    Args:
        text: The file.
        file: How mistakes name it.
        settings: Values by path, such as `design.size`, each as YAML.
        labels: Labels beside the file's.

    Raises:
        InvalidError: If the file or a value is no YAML, or a path leads through something else than
            mappings.
    """
    document = read_document(text.encode(), file)
    violations = Violations()
    for path, written in (settings or {}).items():
        value = read_document(written.encode(), f"settings.{path}").root
        *above, last = path.split(".")
        place = document.root
        for key in above:
            if isinstance(place, dict):
                if place.get(key) is None:
                    place[key] = {}
                place = place[key]
        if isinstance(place, dict) and all([*above, last]):
            place[last] = value
            for known in [line for line in document.lines if f"{line}.".startswith(f"{path}.")]:
                del document.lines[known]  # it is not what the line has
        else:
            violations.add(f"settings.{path}", "is no path of mappings, such as `design.size`")
    violations.check()
    if labels and isinstance(document.root, dict):
        own = document.root.get("labels")
        if own is None or isinstance(own, dict):
            document.root["labels"] = {**(own or {}), **labels}
    return document


def read_kit(
    text: str,
    deck_archive: bytes = b"",
    file: str = FILE,
    *,
    document: Document | None = None,
) -> tuple[pb.KitSpec, list[FieldViolation]]:
    """Parses a kit file as far as it can be: the spec, and every mistake.

    Args:
        text: The file.
        deck_archive: The deck, when the file names one beside itself.
        file: How mistakes name the file.
        document: The file as it was read, with values replaced.

    Returns:
        The spec without the fields that are wrong, and the mistakes, each with its field as
        `kit.yaml:12 design.size`.

    Raises:
        InvalidError: If the text is no YAML at all.
    """
    document = document or read_document(text.encode(), file)
    reader = Reader(document, deck_archive)
    spec = pb.KitSpec()
    if isinstance(document.root, Mapping):
        reader.message(document.root, spec, "")
    else:
        reader.wrong("", "is no mapping; begin with `name: …` and `deck: …`")
    if isinstance(document.root, Mapping) and "deck" not in document.root:
        reader.wrong("deck", "say which deck, such as `deck: mosfet` or `deck: ./mydeck`")
    return spec, list(reader.violations)


class Reader:
    """Fills messages from what YAML holds, noting every mistake."""

    def __init__(self, document: Document, deck_archive: bytes) -> None:
        self.document = document
        self._deck_archive = deck_archive
        self.violations = Violations()
        self.special: dict[str, Callable[[Any, Message, str], None]] = {
            "vistaflow.api.pipeline.v1.KitSpec.deck": self._deck,
            "vistaflow.api.pipeline.v1.KitSpec.goals": self._goals,
            "vistaflow.api.doe.v1.DesignSpec.parameters": self._parameters,
            "vistaflow.api.pipeline.v1.KitSpec.notify": self._notify,
            "vistaflow.api.pipeline.v1.KitSpec.reuse": self._reuse,
        }

    def wrong(self, path: str, problem: str) -> None:
        """Notes one mistake at the line of `path`."""
        self.violations.add(self.document.field(path), problem)

    def message(self, value: Mapping[Any, Any], into: Message, path: str) -> None:
        """Fills a message from a mapping of its fields' names."""
        fields: Mapping[str, Any] = into.DESCRIPTOR.fields_by_name
        for key, item in value.items():
            item_path = f"{path}.{key}" if path else str(key)
            if key not in fields:
                self.wrong(item_path, f"unknown key{suggest(str(key), list(fields))}")
            elif item is not None:
                self._field(item, into, fields[key], item_path)

    def _field(self, value: Any, into: Message, field: FieldDescriptor, path: str) -> None:
        if special := self.special.get(field.full_name):
            special(value, into, path)
        elif field.message_type and field.message_type.GetOptions().map_entry:
            self._map(value, into, field, path)
        elif field.is_repeated:
            if value == "none" and field.name == "log_responses":
                value = [value]
            if not isinstance(value, list):
                self.wrong(path, "give a list, such as [a, b]")
                return
            if field.message_type:
                for number, item in enumerate(value):
                    self._part(item, getattr(into, field.name).add(), f"{path}[{number}]")
                return
            for number, item in enumerate(value):
                read = self._scalar(item, field, f"{path}[{number}]")
                if read is not None:
                    getattr(into, field.name).append(read)
        elif field.message_type:
            getattr(into, field.name).SetInParent()
            self._part(value, getattr(into, field.name), path)
        else:
            read = self._scalar(value, field, path)
            if read is not None:
                setattr(into, field.name, read)

    def _part(self, value: Any, into: Message, path: str) -> None:
        """Fills a message within another."""
        if isinstance(value, Mapping):
            self.message(value, into, path)
        else:
            self.wrong(path, f"give a mapping of {', '.join(into.DESCRIPTOR.fields_by_name)}")

    def _map(self, value: Any, into: Message, field: FieldDescriptor, path: str) -> None:
        if not isinstance(value, Mapping):
            self.wrong(path, "give a mapping, such as {a: 1}")
            return
        entry: Any = field.message_type
        entry = entry.fields_by_name["value"]
        for key, item in value.items():
            read = self._scalar(item, entry, f"{path}.{key}")
            if read is not None:
                getattr(into, field.name)[str(key)] = read

    def _scalar(self, value: Any, field: FieldDescriptor, path: str) -> Any:
        """The value as the field takes it, or none after noting why not."""
        if field.enum_type:
            return self._enum(value, field.enum_type, path)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if isinstance(value, str):
                return value
            if isinstance(value, bool | int | float):
                return self.document.texts.get(path, str(value))
            self.wrong(path, "give text")
        elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if isinstance(value, bool):
                return value
            self.wrong(path, "give true or false")
        elif field.cpp_type in INTEGER_BITS:
            # A number with a point or an exponent is a double, which does not hold all beyond 2^53.
            bits = 53 if isinstance(value, float) else INTEGER_BITS[field.cpp_type]
            if _is_number(value) and value == value // 1 and abs(value) < 2**bits:
                return int(value)
            self.wrong(path, f"`{value}` is no whole number of the range")
        elif field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
            if _is_number(value):
                return self._double(value, path)
            self.wrong(path, f"`{value}` is no number")
        else:
            self.wrong(path, "cannot be given in a file")
        return None

    def _double(self, value: float, path: str) -> float:
        """The number as a double, after noting that it cannot be one exactly."""
        number = float(value)  # at most 40 digits: none is too large
        if number != value and isinstance(value, int):
            self.wrong(
                path, f"`{value}` has more digits than a number keeps; nearest: {number:.0f}"
            )
        return number

    def _enum(self, value: Any, enum: EnumDescriptor, path: str) -> int | None:
        words = enum_words(enum)
        word = str(value).lower().removeprefix(enum_prefix(enum).lower())
        if word in words:
            return words[word]
        self.wrong(path, f"`{value}` is unknown{suggest(word, list(words))}")
        return None

    def _deck(self, value: Any, into: Message, path: str) -> None:
        source: ingestion_pb2.DeckSource = getattr(into, "deck")  # noqa: B009
        if isinstance(value, Mapping):
            if set(value) == {"path"} and self._deck_archive:
                source.archive = self._deck_archive
            elif len(value) == 1 and set(value) <= {"name", "path"}:
                self.message(value, source, path)
            else:
                self.wrong(path, "give a name, or a mapping with either `name` or `path`")
        elif not isinstance(value, str):
            self.wrong(path, "give a name, or the path of a folder or archive")
        elif not _BESIDE.search(value):
            source.name = value
        elif self._deck_archive:
            source.archive = self._deck_archive
        else:
            self.wrong(path, f"`{value}` lies beside the file: send it as `deck_archive`")

    def _goals(self, value: Any, into: Message, path: str) -> None:
        lines = value if isinstance(value, list) else [value]
        if all(isinstance(line, str) for line in lines):
            setattr(into, "goals", "\n".join(lines))  # noqa: B010
        else:
            self.wrong(path, "give text or a list of texts, such as `maximize ion`")

    def _notify(self, value: Any, into: Message, path: str) -> None:
        entries = value if isinstance(value, list) else [value]
        for number, entry in enumerate(entries):
            message: outbox_pb2.Notify = getattr(into, "notify").add()  # noqa: B009
            if isinstance(entry, str):
                message.webhook = entry
            elif isinstance(entry, Mapping):
                # A mapping alone is written without the number of its place.
                place = f"{path}[{number}]" if isinstance(value, list) else path
                self.message(entry, message, place)
                message.events[:] = [event.upper() for event in message.events]
            else:
                self.wrong(path, "give the name of a webhook, or `webhook` and `events`")

    def _reuse(self, value: Any, into: Message, path: str) -> None:
        reuse: pb.KitReuse = getattr(into, "reuse")  # noqa: B009
        reuse.SetInParent()
        if isinstance(value, Mapping):
            self.message(value, reuse, path)
            return
        for number, entry in enumerate(value if isinstance(value, list) else [value]):
            match = REUSE_WORDS.match(entry) if isinstance(entry, str) else None
            if match is None:
                place = f"{path}[{number}]" if isinstance(value, list) else path
                self.wrong(place, f"`{entry}` is none of `all`, `kit 31` and `dataset NAME`")
            elif match[2]:
                reuse.kits.append(int(match[2]))
            elif match[3]:
                reuse.datasets.append(match[3])
            else:
                reuse.all = True

    def _parameters(self, value: Any, into: Message, path: str) -> None:
        if not isinstance(value, Mapping):
            self.wrong(path, "give a mapping of parameters, such as {gate_length: [30, 80]}")
            return
        for name, setting in value.items():
            parameter_path = f"{path}.{name}"
            override: common_pb2.ParameterOverride = getattr(into, "parameters").add(name=str(name))  # noqa: B009
            if isinstance(setting, Mapping):
                for key, part in setting.items():
                    if key in ("low", "high"):
                        field: Any = override.DESCRIPTOR.fields_by_name[key]
                        if (
                            number := self._scalar(part, field, f"{parameter_path}.{key}")
                        ) is not None:
                            setattr(override, key, number)
                    elif key == "choices" and isinstance(part, list):
                        override.choices.extend(self._value(one, parameter_path) for one in part)
                    elif key == "fixed":
                        override.fixed.CopyFrom(self._value(part, parameter_path))
                    else:
                        self.wrong(
                            f"{parameter_path}.{key}",
                            f"unknown key{suggest(str(key), OVERRIDE_KEYS)}",
                        )
            elif not isinstance(setting, list):
                override.fixed.CopyFrom(self._value(setting, parameter_path))
            elif len(setting) == 2 and all(_is_number(one) for one in setting):
                override.low, override.high = (self._double(one, parameter_path) for one in setting)
            else:
                self.wrong(parameter_path, "give [low, high], one value, or {choices: [a, b]}")

    def _value(self, value: Any, path: str) -> Value:
        if _is_number(value):
            return Value(number_value=self._double(value, path))
        if not isinstance(value, str):
            self.wrong(path, "give numbers or texts")
        return Value(string_value=str(value))


def enum_prefix(enum: EnumDescriptor) -> str:
    """What the names of an enum's values begin with, such as `GENERATOR_`."""
    return enum.values[0].name.removesuffix("UNSPECIFIED")


def enum_words(enum: EnumDescriptor) -> dict[str, int]:
    """The numbers of an enum's values by the words that a file has for them."""
    prefix = enum_prefix(enum)
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values[1:]}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _names(message: Descriptor) -> str:
    return ", ".join(message.fields_by_name)

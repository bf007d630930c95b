"""Fields of a YAML document, each checked as it is read, mistakes noted with their line."""

from __future__ import annotations

import math
import re
from typing import Any

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.files.document import Document
from vistaflow_services.decks.files.forms import (
    EntriesForm,
    Form,
    NumberForm,
    QuantityForm,
    RangeForm,
    TableForm,
    TextForm,
    WordForm,
)


class Fields:
    """Reads a document's fields; after a mistake it answers with something harmless.

    Each method takes the mapping that a value is in, the path of the mapping, the key, and the
    form that the value must have.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.violations = Violations()

    def mapping(
        self, value: Any, path: str, *, form: TableForm | None = None, required: bool = False
    ) -> dict[str, Any]:
        """A mapping with no key but those of `form`, or with any key if there is no form.

        Anything else is a mistake and is read as an empty mapping.
        """
        if not isinstance(value, dict):
            if value is not None or required:
                self.add(path, "is no mapping of keys to values")
            return {}
        for key in value:
            if form is not None and key not in form.keys:
                self.add(_joined(path, key), f"unknown key{suggest(key, form.keys)}")
        return value

    def text(self, mapping: dict[str, Any], path: str, key: str, form: Form) -> str:
        """A text as it was written, so that `version: 1.10` stays what it is."""
        assert isinstance(form, TextForm)
        inner = _joined(path, key)
        if mapping.get(key) is None:
            return ""
        text = self.document.texts.get(inner)
        if text is None:
            self.add(inner, "is no text")
            return ""
        printable = all(character.isprintable() or character == "\n" for character in text)
        if len(text) > form.longest or not printable:
            self.add(inner, f"is no printable text of at most {form.longest} characters")
            return ""
        return text.strip()

    def one_of(self, mapping: dict[str, Any], path: str, key: str, form: Form) -> str:
        """One of some words."""
        assert isinstance(form, WordForm)
        value = mapping.get(key)
        if value is None:
            if key in mapping and not form.fallback:
                self.add(_joined(path, key), f"is empty; give one of {', '.join(form.words)}")
            return form.fallback
        if value not in form.words:
            near = suggest(str(value)[:64], form.words)
            self.add(_joined(path, key), f"`{value}` is unknown{near}")
            return form.fallback
        return str(value)

    def range(
        self, mapping: dict[str, Any], path: str, form: Form
    ) -> tuple[float | None, float | None]:
        """Two numbers, the first smaller; null leaves an end of a response's gate open."""
        assert isinstance(form, RangeForm)
        if mapping.get("range") is None:
            if "range" in mapping:
                self.add(f"{path}.range", "is empty; give two numbers, [low, high]")
            return None, None
        pair = mapping["range"]
        ends = pair if isinstance(pair, list) else []
        right = [is_number(end) or (form.open_ended and end is None) for end in ends]
        if right != [True, True]:
            self.add(f"{path}.range", "is no pair of numbers, [low, high]")
            return None, None
        low, high = ends
        if form.open_ended:
            if any(end is not None and not math.isfinite(end) for end in ends):
                self.add(f"{path}.range", "must be finite; leave an end open with null")
                return None, None
            if low is not None and high is not None and low >= high:
                self.add(f"{path}.range", f"{low!r} is not below the upper end {high!r}")
        return low, high

    def number(
        self,
        mapping: dict[str, Any],
        path: str,
        key: str,
        form: Form,
        *,
        fallback: float | None = None,
    ) -> float:
        """A number within bounds, both inclusive; `fallback` takes the place of the form's."""
        assert isinstance(form, NumberForm)
        fallback = form.fallback if fallback is None else fallback
        value = mapping.get(key, fallback)
        right = is_number(value) and math.isfinite(value) and form.low <= value <= form.high
        if not right or (form.whole and value != int(value)):
            kind = "a whole number" if form.whole else "a number"
            bounds = f" from {form.low:g} to {form.high:g}" if math.isfinite(form.low) else ""
            self.add(_joined(path, key), f"`{value}` is not {kind}{bounds}")
            return fallback
        return float(value)

    def quantity(self, mapping: dict[str, Any], path: str, key: str, form: Form) -> float:
        """A number, or a number with a unit, in the unit of the form."""
        assert isinstance(form, QuantityForm)
        value = mapping.get(key, form.fallback)
        if isinstance(value, str) and (
            match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value)
        ):
            unit = match.group(2).upper() if form.any_case else match.group(2)
            value = float(match.group(1)) * form.units.get(unit, math.nan)
        if (
            not is_number(value)
            or not form.low <= value <= form.high
            or (form.above and value == form.low)
        ):
            self.add(_joined(path, key), form.advice)
            return form.fallback
        return float(value)

    def items(
        self, value: Any, path: str, form: Form, *, present: bool
    ) -> list[tuple[str, dict[str, Any]]]:
        """The mappings of a list, each with its path; what is no mapping is noted and left out."""
        assert isinstance(form, EntriesForm)
        if not isinstance(value, list) or not value:
            if present:
                self.add(path, "is no list with at least one entry")
            return []
        if len(value) > form.most:
            self.add(path, f"has {len(value)} entries, at most {form.most} are allowed")
            value = value[: form.most]
        items = []
        for index, item in enumerate(value):
            inner = f"{path}[{index}]"
            mapping = self.mapping(item, inner, form=form.entry, required=True)
            if isinstance(item, dict):
                items.append((inner, mapping))
        return items

    def add(self, path: str, problem: str) -> None:
        """Notes a mistake at a path of the document."""
        self.violations.add(self.document.field(path), problem)


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key

"""Fields of a YAML document, each checked as it is read, mistakes noted with their line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vistaflow_services.core.errors import Violations
from vistaflow_services.core.expressions import suggest
from vistaflow_services.decks.document import Document


class Fields:
    """Reads a document's fields; after a mistake it answers with something harmless."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found = Violations()

    def mapping(
        self,
        told: Any,
        path: str,
        *,
        keys: Sequence[str] | None = None,
        required: bool = False,
    ) -> dict[str, Any]:
        """A mapping with no key but `keys`, or any if none are told; empty if it is none."""
        if not isinstance(told, dict):
            if told is not None or required:
                self.add(path, "is no mapping of keys to values")
            return {}
        known = list(told) if keys is None else keys
        for key in told:
            if key not in known:
                self.add(f"{path}.{key}" if path else key, f"unknown key{suggest(key, known)}")
        return told

    def text(self, told: dict[str, Any], path: str, key: str, *, longest: int = 64) -> str:
        """A text as it was written, so that `version: 1.10` stays what it is."""
        inner = f"{path}.{key}" if path else key
        if told.get(key) is None:
            return ""
        text = self.document.texts.get(inner)
        if text is None:
            self.add(inner, "is no text")
            return ""
        if len(text) > longest or not all(each.isprintable() or each == "\n" for each in text):
            self.add(inner, f"is no printable text of at most {longest} characters")
            return ""
        return text.strip()

    def one_of(
        self, told: dict[str, Any], path: str, key: str, known: tuple[str, ...], fallback: str
    ) -> str:
        """One of some words."""
        if told.get(key) is None:
            return fallback
        value = told[key]
        if value not in known:
            near = suggest(str(value)[:64], known)
            self.add(f"{path}.{key}" if path else key, f"`{value}` is unknown{near}")
            return fallback
        return str(value)

    def range(
        self, told: dict[str, Any], path: str, *, open_ended: bool
    ) -> tuple[float | None, float | None]:
        """Two numbers, the first smaller; null leaves an end of a response's gate open."""
        if told.get("range") is None:
            if "range" in told:
                self.add(f"{path}.range", "is empty; give two numbers, [low, high]")
            return None, None
        pair = told["range"]
        ends = pair if isinstance(pair, list) else []
        right = [is_number(each) or (open_ended and each is None) for each in ends]
        if right != [True, True]:
            self.add(f"{path}.range", "is no pair of numbers, [low, high]")
            return None, None
        low, high = ends
        if open_ended:
            if any(each is not None and not math.isfinite(each) for each in ends):
                self.add(f"{path}.range", "must be finite; leave an end open with null")
                return None, None
            if low is not None and high is not None and low >= high:
                self.add(f"{path}.range", f"{low!r} is not below the upper end {high!r}")
        return low, high

    def number(
        self,
        told: dict[str, Any],
        path: str,
        key: str,
        fallback: float,
        low: float,
        high: float,
        *,
        whole: bool = False,
    ) -> float:
        """A number within bounds, both inclusive."""
        value = told.get(key, fallback)
        right = is_number(value) and math.isfinite(value) and low <= value <= high
        if not right or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            bounds = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            self.add(f"{path}.{key}", f"`{value}` is not {kind}{bounds}")
            return fallback
        return float(value)

    def items(
        self, told: Any, path: str, given: bool, most: int, keys: Sequence[str]
    ) -> list[tuple[str, Any]]:
        """The mappings of a list, each with its path."""
        if not isinstance(told, list) or not told:
            if given:
                self.add(path, "is no list with at least one entry")
            return []
        if len(told) > most:
            self.add(path, f"has {len(told)} entries, at most {most} are allowed")
            told = told[:most]
        items = []
        for at, each in enumerate(told):
            inner = f"{path}[{at}]"
            items.append((inner, self.mapping(each, inner, keys=keys, required=True)))
        return items

    def add(self, path: str, problem: str) -> None:
        """Notes a mistake at a path of the document."""
        self.found.add(self.document.field(path), problem)


def is_number(value: object) -> bool:
    """Whether a value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)

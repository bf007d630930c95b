"""Writes the JSON Schemas that the client ships: `python tests/contract/schemas.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vistaflow
from vistaflow_services.decks.files.schema import deck_schema
from vistaflow_services.pipeline.flows.schema import kit_file_schema

FOLDER = Path(vistaflow.__file__).parent / "_schemas"
SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"deck": deck_schema, "kit": kit_file_schema}


def text_of(name: str) -> str:
    """The file of a schema, as it must be."""
    return json.dumps(SCHEMAS[name](), indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SCHEMAS:
        (FOLDER / f"{name}.json").write_text(text_of(name), encoding="utf-8")

"""The texts of the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "client" / "web" / "source"
PLACE = re.compile(r"\{\w+\}")


def read(language: str) -> dict[str, str]:
    texts: dict[str, str] = json.loads(
        (FOLDER / "messages" / f"{language}.json").read_text("utf-8")
    )
    return texts


def test_both_languages_have_every_text_with_the_same_values_in_it() -> None:
    english, korean = read("en"), read("ko")

    assert list(english) == list(korean)
    assert [key for key, text in korean.items() if not text.strip()] == []
    assert {
        key
        for key, text in english.items()
        if sorted(PLACE.findall(text)) != sorted(PLACE.findall(korean[key]))
    } == set()


def test_every_text_is_used() -> None:
    code = "\n".join(file.read_text("utf-8") for file in FOLDER.rglob("*.ts*"))
    # Of these, the rest of the key is a value.
    composed = ("status.", "family.", "fact.", "action.", "kit.", "fire.", "check.", "services.")

    assert [
        key for key in read("en") if f'"{key}"' not in code and not key.startswith(composed)
    ] == []

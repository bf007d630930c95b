"""What `run` and `validate` take: a path, a text, a mapping, a message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vistaflow.aio._kits.sources import fill_kit
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.errors import InvalidArgumentError

TEXT = "name: x\ndeck: ./beam\n"


def request_of(kit: Any) -> pipeline_pb2.RunKitRequest:
    request = pipeline_pb2.RunKitRequest()
    fill_kit(request, kit)
    return request


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a kit and its deck, which is the current one."""
    (tmp_path / "beam").mkdir()
    (tmp_path / "beam" / "deck.yaml").write_text("name: beam\n")
    (tmp_path / "kit.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kit", ["kit.yaml", Path("kit.yaml")])
def test_a_path_is_read(kit: str | Path) -> None:
    request = request_of(kit)
    assert (request.kit_yaml, request.kit_file) == (TEXT, "kit.yaml")
    assert request.deck_archive


def test_a_text_is_sent_as_it_is_with_the_deck_beside() -> None:
    request = request_of(TEXT)
    assert (request.kit_yaml, request.kit_file) == (TEXT, "")
    assert request.deck_archive


@pytest.mark.parametrize("deck", ["./beam", {"path": "beam"}])
def test_a_mapping_is_sent_as_json_with_the_deck_beside(deck: Any) -> None:
    kit = {"name": "x", "deck": deck, "design": {"size": 8}}
    request = request_of(kit)
    assert json.loads(request.kit_yaml) == kit
    assert request.deck_archive


def test_the_name_of_a_deck_in_a_mapping_is_no_path() -> None:
    assert not request_of({"name": "x", "deck": "beam"}).deck_archive


def test_a_message_is_sent_as_it_is() -> None:
    spec = pipeline_pb2.KitSpec(name="x")
    assert request_of(spec).spec == spec


@pytest.mark.parametrize(
    "kit", [7, None, b"name: x\n", {"name": object()}, {"name": float("nan")}, "nowhere.yaml"]
)
def test_anything_else_is_an_error_of_ours(kit: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        request_of(kit)

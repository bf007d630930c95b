"""Packing the deck that lies beside a kit file."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from vistaflow._machine.archive import MAX_BYTES, deck_beside, pack_deck
from vistaflow.aio._kits.sources import fill_kit
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.errors import InvalidArgumentError
from vistaflow_services.decks.deck import read_archive
from vistaflow_services.pipeline import kitfile

DECK = """\
name: filter
version: "1"
description: A filter.
simulator: function
function: branin
parameters:
  - {name: x1, range: [-5, 10]}
"""

TEXTS = [
    "deck: mosfet",
    "deck: ./mine",
    "deck: ../mine",
    "deck: /srv/decks/mine",
    "deck: mine/deeper",
    "deck: mine.zip",
    "deck: mine.tar.gz",
    "deck: mine.tgz  # packed",
    "deck:    ./mine   # here",
    "deck: ./mine#1",
    "deck: 'my deck/here'",
    'deck: "./my deck"',
    '"deck": ./mine',
    "deck: {path: mine}",
    "deck: {path: ./mine}",
    "deck: { path: 'my mine' }",
    'deck: {"path": ./mine}',
    "deck: {name: mosfet}",
    "deck: {name: ./mine}",
    "deck:\n  path: mine",
    "deck:\n  # where\n  path: 'mine'  # here",
    "deck:\n  name: mosfet",
    "deck:\n  name: mosfet\nelse:\n  path: mine",
    "deck: {path:\n  mine}",
    "deck:",
    "deck: ",
    "deck: [./mine]",
    "deck: 3",
    "decks: ./mine",
    "# deck: ./mine",
    "other: {deck: ./mine}",
    "other:\n  deck: ./mine",
    "name: a kit\nseed: 3\ndeck: ./mine\ngoals: minimize a/b\n",
    "name: a kit, see deck: ./no\ndeck: mosfet\n",
    "",
    "just a text",
    "- deck: ./mine",
]


@pytest.mark.parametrize("text", TEXTS)
def test_client_and_service_find_the_same_deck(text: str) -> None:
    assert deck_beside(text) == kitfile.deck_beside(text)


@pytest.mark.parametrize("text", TEXTS)
def test_client_and_service_find_the_same_deck_with_windows_lines(text: str) -> None:
    text = f"before: x\n{text}\nafter: 1\n".replace("\n", "\r\n")

    assert deck_beside(text) == kitfile.deck_beside(text)


def test_a_folder_is_packed_whole_but_for_hidden_files(tmp_path: Path) -> None:
    deck = tmp_path / "deck"
    for name in ("deck.yaml", "lib/a.cir", ".git/config", "__pycache__/a.pyc", "lib/b.pyc"):
        (deck / name).parent.mkdir(parents=True, exist_ok=True)
        (deck / name).write_text(name)

    with zipfile.ZipFile(io.BytesIO(pack_deck(deck))) as archive:
        assert {each: archive.read(each) for each in archive.namelist()} == {
            "deck.yaml": b"deck.yaml",
            "lib/a.cir": b"lib/a.cir",
        }


def test_the_same_folder_packs_to_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for deck, names in ((first, "xyz"), (second, "zyx")):
        deck.mkdir()
        for name in names:
            (deck / name).write_text(name)

    assert pack_deck(first) == pack_deck(second)


def test_the_service_reads_what_the_client_packed(tmp_path: Path) -> None:
    deck = tmp_path / "deck"
    deck.mkdir()
    (deck / "deck.yaml").write_text(
        DECK + "  - {name: x2, range: [0, 15]}\nresponses:\n  - {name: value}\n"
    )

    assert read_archive(pack_deck(deck)).name == "filter"


def test_an_archive_is_sent_as_it_is(tmp_path: Path) -> None:
    archive = tmp_path / "deck.tar.gz"
    archive.write_bytes(b"as it is")

    assert pack_deck(archive) == b"as it is"


@pytest.mark.parametrize("name", ["nowhere", "notes.txt"])
def test_what_is_no_deck_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("no deck")

    with pytest.raises(InvalidArgumentError, match=r"give a folder with a deck\.yaml"):
        pack_deck(tmp_path / name)


def test_a_file_whose_name_is_no_utf8_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "deck.yaml").write_text(DECK, "utf-8")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xb0\xa1.txt")).write_text("x", "utf-8")

    with pytest.raises(InvalidArgumentError, match=r"xb0|udcb0.*is not UTF-8; rename the file"):
        pack_deck(tmp_path)


def test_results_left_in_a_deck_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.csv").write_bytes(b"0" * (9 * MAX_BYTES))
    with pytest.raises(InvalidArgumentError, match="more than 8388608 bytes"):
        pack_deck(tmp_path)

    archive = tmp_path / "deck.zip"
    archive.write_bytes(b"0" * (MAX_BYTES + 1))
    with pytest.raises(InvalidArgumentError, match="keep results out of it"):
        pack_deck(archive)


def test_a_kit_takes_the_deck_beside_it_along(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "deck.yaml").write_text(DECK)
    (tmp_path / "kit.yaml").write_text("name: x\ndeck: ./mine\n")
    request = pipeline_pb2.RunKitRequest()

    fill_kit(request, tmp_path / "kit.yaml")

    assert request.kit_yaml == "name: x\ndeck: ./mine\n"
    assert request.deck_archive == pack_deck(tmp_path / "mine")


def test_a_deck_that_is_not_beside_the_kit_is_missed_at_once(tmp_path: Path) -> None:
    (tmp_path / "kit.yaml").write_text("name: x\ndeck: ./mine\n")

    with pytest.raises(InvalidArgumentError, match="mine: no such deck"):
        fill_kit(pipeline_pb2.RunKitRequest(), tmp_path / "kit.yaml")


def test_a_path_that_the_service_may_know_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "kit.yaml").write_text("name: x\ndeck: {path: shelf/mine}\n")
    request = pipeline_pb2.RunKitRequest()

    fill_kit(request, tmp_path / "kit.yaml")

    assert request.deck_archive == b""

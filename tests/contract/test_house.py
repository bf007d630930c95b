"""Names and prose are plain: no banned name, phrase or speed, no class twice, no large folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.contract import house  # type: ignore[import-not-found]


def test_no_name_of_client_and_services_is_banned() -> None:
    assert [str(finding) for finding in house.banned_names()] == []


def test_no_phrase_of_docs_docstrings_comments_and_messages_is_banned() -> None:
    assert [str(finding) for finding in house.banned_phrases()] == []


def test_no_docstring_claims_a_speed() -> None:
    assert [str(finding) for finding in house.speeds_in_docstrings()] == []


def test_no_service_has_two_classes_of_one_name() -> None:
    assert house.shared_class_names() == {}


def test_no_folder_has_more_modules_than_a_newcomer_reads_through() -> None:
    assert house.large_folders() == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("for each in jobs: pass", ["each"]),
        ("def list_jobs(wanted): pass", ["wanted"]),
        ("import jobs as found", ["found"]),
        ("try: pass\nexcept OSError as told: pass", ["told"]),
        ("[job for at, job in enumerate(jobs)]", ["at"]),
        ("match job:\n    case [first, *given]: pass", ["given"]),
        ("self._kept = jobs", ["_kept"]),
        ("found(each.told)", []),
        ("known = asked = gone = 1", []),
    ],
)
def test_a_banned_name_is_seen_wherever_it_is_bound(
    source: str, names: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "module.py"
    file.write_text(source)

    assert [finding.text for finding in house.banned_names([file])] == [
        f"name `{name}`" for name in names
    ]


@pytest.mark.parametrize(
    ("name", "text", "phrases"),
    [
        ("page.md", "A caller is\ntold.", [(1, "is told")]),
        ("page.md", "First.\n\nIt is read\nanew.", [(4, "anew")]),
        ("page.md", "The row is\n\ntold apart.", []),
        ("module.py", '"""One.\n\nIt waits in\nvain."""', [(3, "in vain")]),
        ("module.py", "# It is\n# told.", [(1, "is told")]),
        ("module.py", 'print(f"{name} waits in vain for {job}")', [(1, "in vain")]),
        ("module.py", 'print("it waits in "\n      "vain")', [(1, "in vain")]),
        ("module.py", "whoever = anew = 1", []),
        ("module.py", '"""Henceforth and thereupon."""', []),
        ("api.proto", "// Whoever calls.\nstring anew = 1;", [(1, "Whoever")]),
    ],
)
def test_a_banned_phrase_is_seen_in_prose_and_nowhere_else(
    name: str, text: str, phrases: list[tuple[int, str]], tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_text(text)

    assert [
        (finding.line, re.sub(r"phrase `(.*)`", r"\1", finding.text))
        for finding in house.banned_phrases([file])
    ] == phrases


@pytest.mark.parametrize(
    ("docstring", "speeds"),
    [
        ("Looks it up in 4 µs.", ["4 µs"]),
        ("Copies 200 MB/s.", ["200 MB/s"]),
        ("A commit takes about 3 ms.", ["takes about 3 ms"]),
        ("It is 10 times faster.", ["10 times faster"]),
        ("Waits 500 ms at most.", []),
        ("A lease lasts 15 s.", []),
    ],
)
def test_a_speed_is_seen_in_a_docstring(docstring: str, speeds: list[str], tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(f'"""{docstring}"""')

    assert [finding.text for finding in house.speeds_in_docstrings([file])] == [
        f"speed `{speed}`" for speed in speeds
    ]


def test_the_texts_of_a_module_are_read_once() -> None:
    tree = ast.parse("text = 'one' 'two' + f'three {four:>{five}} six {\"seven\"}'")

    assert [text for _, text in house.texts_of(tree)] == ["onetwo", "three {} six {}", "seven"]

"""What the documents say is run, as a newcomer would: files as named, commands as written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Suite  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[tuple[str, str, str]]:
    """The language, attributes and text of each fenced block."""
    return FENCE.findall((ROOT / name).read_text())


def run(script: str, suite: Suite, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=suite.env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_decks_written_from_the_tutorial_alone_are_optimised(suite: Suite, tmp_path: Path) -> None:
    commands = []
    for language, attributes, text in blocks("docs/deck.md"):
        if file := re.search(r"file=(\S+)", attributes):
            path = tmp_path / file.group(1)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif language == "sh":
            needed = re.search(r"needs=(\S+)", attributes)
            if needed is None or shutil.which(needed.group(1)):
                commands.append(text)

    told = [run(each, suite, tmp_path) for each in commands]

    assert all("✔ met" in each and "best point" in each for each in told)
    assert len(told) == 1 + bool(shutil.which("ngspice"))


def test_the_walk_through_of_the_readme_works_as_written(own_home: Suite, tmp_path: Path) -> None:
    shell = [text for language, _, text in blocks("README.md") if language == "sh"]
    (python,) = [text for language, _, text in blocks("README.md") if language == "python"]
    try:
        told = run("\n".join(shell[:-1]), own_home, tmp_path)
        (tmp_path / "example.py").write_text(python)
        told += run("python example.py", own_home, tmp_path)
    finally:
        run(shell[-1], own_home, tmp_path)

    assert "minimize cost: " in told
    assert "FINISHED {'b': " in told


@pytest.mark.parametrize("name", ["README.md", "docs/kit.md", "docs/deck.md", "CONTRIBUTING.md"])
def test_a_link_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)

    assert [each for each in targets if not ((ROOT / name).parent / each).exists()] == []

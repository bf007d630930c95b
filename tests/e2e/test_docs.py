"""What the documents say is run, as a newcomer would: files as named, commands as written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
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
    (tmp_path / ".venv").symlink_to(sys.prefix)
    try:
        told = run("\n".join(shell[:-1]), own_home, tmp_path)
        (tmp_path / "example.py").write_text(python)
        told += run("python example.py", own_home, tmp_path)
    finally:
        run(shell[-1], own_home, tmp_path)

    assert "minimize cost: " in told
    assert "FINISHED {'b': " in told


def test_the_kits_in_the_documents_are_valid(suite: Suite, tmp_path: Path) -> None:
    kits = [text for language, _, text in blocks("docs/kit.md") if language == "yaml"]
    for number, text in enumerate(kits):
        file = tmp_path / f"kit {number}.yaml"
        file.write_text(text)
        assert "valid" in suite.cli("validate", str(file)).stdout
        # Off a terminal a mistake is one line, under the name that the file was given by.
        file.write_text(text.replace("name:", "nane:"))
        mistakes = sorted(suite.cli("validate", str(file), code=2).stdout.splitlines())
        assert len(mistakes) == 2
        assert mistakes[0].startswith(f"mistake: {file}: name: ")
        assert mistakes[1].startswith(f"mistake: {file}:1 nane: unknown key")
    assert kits


def written(name: str, folder: Path) -> tuple[list[str], list[str], str]:
    """The commands of a tour, those behind its door, and what runs in its second terminal."""
    commands, door, watches = [], [], []
    for language, attributes, text in blocks(name):
        if language == "python":
            (folder / f"{len(commands)}.py").write_text(text)
            commands.append(f"python {len(commands)}.py")
        elif attributes.strip() == "watch":
            watches.append(text.strip())
        elif attributes.strip() == "door":
            door.append(text)
        elif language == "sh":
            needed = re.search(r"needs=(\S+)", attributes)
            if needed is None or shutil.which(needed.group(1), path=suite_path()):
                commands.append(text)
    (watch,) = watches
    return commands, door, watch


def suite_path() -> str:
    """Where programs are looked for; this environment's first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_the_tour_of_the_registry_works_as_written(suite: Suite, tmp_path: Path) -> None:
    commands, _, watch = written("docs/registry.md", tmp_path)
    seen = tmp_path / "seen"
    with seen.open("w") as file:
        watching = subprocess.Popen(
            ["bash", "-c", f"exec {watch}"], env=suite.env, stdout=file, stderr=file
        )
    try:
        told = run("\n".join(commands), suite, tmp_path)
        end = time.monotonic() + 60
        while "not needed" not in seen.read_text():
            assert watching.poll() is None, seen.read_text()
            assert time.monotonic() < end, seen.read_text()
            time.sleep(0.1)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130
    finally:
        watching.kill()

    assert "go on from here with --from" in seen.read_text()
    assert seen.read_text().count("out of memory") == 1
    assert "would be canceled" in told
    assert "'out of memory'" in told
    assert '"name": "bench 4"' in told


def test_the_door_of_the_registry_works_as_written(own_home: Suite, tmp_path: Path) -> None:
    _, door, _ = written("docs/registry.md", tmp_path)
    try:
        told = run("\n".join(door), own_home, tmp_path)
    finally:
        run("vistaflow down", own_home, tmp_path)

    assert "Ana's notebook" in told
    assert "is revoked" in told


@pytest.mark.parametrize(
    "name", ["README.md", "docs/kit.md", "docs/deck.md", "docs/registry.md", "CONTRIBUTING.md"]
)
def test_a_link_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)

    assert [each for each in targets if not ((ROOT / name).parent / each).exists()] == []

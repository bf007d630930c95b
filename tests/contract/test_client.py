"""The blocking client is the asynchronous one, and both have what version 0.1.0 had."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vistaflow
from tests.contract.public_names import public_names  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]
FORMER: dict[str, list[str]] = json.loads(Path(__file__).with_name("names-0.1.0.json").read_text())
"""The public names of version 0.1.0 with their parameters; see `public_names`."""


def test_the_blocking_client_is_what_the_generator_writes() -> None:
    subprocess.run([sys.executable, "client/generate_blocking.py", "--check"], cwd=ROOT, check=True)


def test_the_generator_notices_a_change(tmp_path: Path) -> None:
    package = tmp_path / "vistaflow"
    shutil.copytree(ROOT / "client" / "vistaflow" / "aio", package / "aio")
    (package / "client.py").write_text((ROOT / "client" / "vistaflow" / "client.py").read_text())
    script = tmp_path / "generate_blocking.py"
    script.write_text((ROOT / "client" / "generate_blocking.py").read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())

    def check() -> int:
        return subprocess.run(
            [sys.executable, str(script), "--check"], capture_output=True, check=False
        ).returncode

    assert check() == 0
    source = package / "aio" / "client.py"
    source.write_text(source.read_text().replace("limit: Most kits; 0: all.", "limit: Most."))
    assert check() == 1


def test_every_name_of_the_first_version_is_still_there() -> None:
    assert set(FORMER) - set(public_names()) == set()


@pytest.mark.parametrize("name", [name for name, parameters in FORMER.items() if parameters])
def test_what_was_called_in_the_first_version_is_called_in_the_same_way(name: str) -> None:
    now, former = public_names()[name], FORMER[name]
    positional = [parameter for parameter in former if not parameter.startswith("*")]
    named = {parameter for parameter in former if parameter.startswith("*, ")}
    added = [parameter for parameter in now if parameter not in former]

    assert [parameter for parameter in now if not parameter.startswith("*")] == positional
    assert named <= set(now)
    assert all(parameter.endswith("=") or parameter.startswith("**") for parameter in added)


def test_a_blocking_method_documents_every_parameter() -> None:
    for name, method in vars(vistaflow.Client).items():
        text = method.__doc__ if callable(method) and not name.startswith("_") else None
        if text is None:
            continue
        parameters = method.__annotations__.keys() - {"return"}
        assert {part for part in parameters if f"\n            {part}: " not in text} == set(), name

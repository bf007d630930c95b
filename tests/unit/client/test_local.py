"""Where a client calls and which token it shows, when it is given neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import vistaflow
from vistaflow._machine.local import DEFAULT_ADDRESS, find_suite, reach, started_at, token_file

HERE = "127.0.0.1:61234"


def up(home: Path, *, pid: int = 0, started: int | None = None, token: str = "secret") -> Path:
    """A home as a suite leaves it that is up."""
    pid = pid or os.getpid()
    started = started_at(pid) if started is None else started
    (home / "run").mkdir(parents=True)
    (home / "run" / "endpoints.json").write_text(json.dumps({"registry": HERE, "doe": "x:1"}))
    (home / "run" / "suite.json").write_text(
        json.dumps({"pid": pid, "started": started, "port": 1})
    )
    if token:
        token_file(home).write_text(f"{token}\n")
    return home


def found(**arguments: Any) -> tuple[str, str]:
    """What a client takes, with the token as text."""
    address, token = reach(**arguments)
    return address, str(token)


def test_the_suite_of_the_home_is_found_with_its_token(tmp_path: Path) -> None:
    up(tmp_path)
    assert found(environment={"VISTAFLOW_HOME": str(tmp_path)}) == (HERE, "secret")


def test_the_home_is_below_the_users_own_unless_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    up(tmp_path / ".vistaflow")
    assert found(environment={}) == (HERE, "secret")


@pytest.mark.parametrize(
    ("address", "token", "environment", "taken"),
    [
        ("other:1", "", {}, ("other:1", "")),
        ("", "mine", {}, (HERE, "mine")),
        ("other:1", "mine", {}, ("other:1", "mine")),
        ("", "", {"VISTAFLOW_REGISTRY": "other:1"}, ("other:1", "")),
        ("", "", {"VISTAFLOW_TOKEN": "mine"}, (HERE, "mine")),
        (HERE, "", {}, (HERE, "secret")),
        ("localhost:61234", "", {}, ("localhost:61234", "secret")),
        ("", "", {"VISTAFLOW_REGISTRY": HERE}, (HERE, "secret")),
        ("127.0.0.1:6123", "", {}, ("127.0.0.1:6123", "")),
        (f"{HERE},other:1", "", {}, (f"{HERE},other:1", "")),
    ],
)
def test_what_is_given_wins_and_the_token_is_for_the_suite_of_the_home_alone(
    address: str,
    token: str,
    environment: dict[str, str],
    taken: tuple[str, str],
    tmp_path: Path,
) -> None:
    environment = {"VISTAFLOW_HOME": str(up(tmp_path)), **environment}
    assert found(address=address, token=token, environment=environment) == taken


def test_without_a_suite_the_address_is_the_default(tmp_path: Path) -> None:
    assert found(environment={"VISTAFLOW_HOME": str(tmp_path)}) == (DEFAULT_ADDRESS, "")


def test_a_token_is_not_shown_where_a_suite_was_that_is_gone(tmp_path: Path) -> None:
    # Another user may listen there by now.
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        home = up(tmp_path, pid=process.pid, started=1)
    assert find_suite(home) is None
    assert found(home=home, environment={}) == (DEFAULT_ADDRESS, "")


def test_a_client_shows_the_token_only_while_the_suite_is_up(tmp_path: Path) -> None:
    up(tmp_path)
    _, token = reach(home=tmp_path, environment={})
    assert not isinstance(token, str)
    endpoints = tmp_path / "run" / "endpoints.json"
    content = endpoints.read_bytes()
    assert token() == "secret"
    endpoints.unlink()  # it goes down
    assert token() == ""
    token_file(tmp_path).write_text("another\n")
    endpoints.write_bytes(content)  # it is up again
    assert token() == "another"
    endpoints.write_text(json.dumps({"registry": "127.0.0.1:61235"}))  # elsewhere
    assert token() == ""


def test_a_client_does_not_show_the_token_once_the_suite_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        up(tmp_path, pid=process.pid, started=started_at(process.pid))
        _, token = reach(home=tmp_path, environment={})
        assert str(token) == "secret"
        process.kill()
        process.wait()
    assert str(token) == ""


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"registry": 1}'])
def test_a_damaged_file_is_as_good_as_none(content: str, tmp_path: Path) -> None:
    home = up(tmp_path)
    (home / "run" / "endpoints.json").write_text(content)
    assert find_suite(home) is None


def test_a_home_of_a_release_without_tokens_has_none(tmp_path: Path) -> None:
    assert found(home=up(tmp_path, token=""), environment={}) == (HERE, "")


def test_the_client_takes_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTAFLOW_HOME", str(up(tmp_path)))
    monkeypatch.delenv("VISTAFLOW_REGISTRY", raising=False)
    with vistaflow.connect() as client:
        assert client.address == HERE

"""What the services of a suite are started with, by who is let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistaflow._machine.local import token_file
from vistaflow_services.suite.__main__ import SERVICES, main, services_of
from vistaflow_services.suite.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.create()
    return home


def environments(home: Home, auth: str) -> list[tuple[str, str]]:
    return [
        (each.environment["VISTAFLOW_AUTH"], each.environment.get("VISTAFLOW_TOKEN", ""))
        for each in services_of(home, 51311, auth)
    ]


def test_the_owners_services_show_the_token_of_the_home_and_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_TOKEN", "for another suite")
    found = environments(home, "owner")
    assert found == [("owner", token_file(home.path).read_text().strip())] * len(SERVICES)
    assert environments(home, "owner") == found


@pytest.mark.parametrize(("listen", "moves"), [("127.0.0.1:0", True), ("127.0.0.1:61236", False)])
def test_a_gateway_without_a_port_of_its_own_may_get_another_if_that_is_taken(
    home: Home, monkeypatch: pytest.MonkeyPatch, listen: str, moves: bool
) -> None:
    monkeypatch.setenv("VISTAFLOW_GATEWAY_LISTEN", listen)
    (gateway,) = [each for each in services_of(home, 51311, "off") if each.name == "gateway"]
    assert gateway.may_move is moves


@pytest.mark.parametrize("auth", ["off", "required"])
def test_a_token_that_would_not_count_is_removed(
    auth: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments(home, "owner")
    monkeypatch.setenv("VISTAFLOW_TOKEN", "a worker's")
    assert environments(home, auth) == [(auth, "a worker's")] * len(SERVICES)
    assert not token_file(home.path).exists()


def test_a_word_that_is_none_of_them_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISTAFLOW_AUTH", "on")
    with pytest.raises(SystemExit) as ended:
        main([f"--home={tmp_path / 'home'}"])
    assert ended.value.code == 2
    assert "VISTAFLOW_AUTH is one of off, owner, required, not on" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()

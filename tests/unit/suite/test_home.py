"""A home is held by one suite at a time, and told to nobody before all of it serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vistaflow._machine.local import started_at
from vistaflow_services.core.home import HomeError
from vistaflow_services.suite.__main__ import main
from vistaflow_services.suite.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    made.create()
    yield made
    made.release()


def test_a_home_that_cannot_be_made_is_one_line_with_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    for place in ("file", "file/below"):
        assert main(["--home", str(tmp_path / place)]) == 2
        message = capsys.readouterr().err
        assert f"cannot start: cannot store data in {tmp_path / place}" in message
        assert "--home" in message
        assert message.count("\n") == 1


def test_a_user_without_a_home_folder_is_asked_for_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("VISTAFLOW_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert main([]) == 2
    assert "set VISTAFLOW_HOME" in capsys.readouterr().err


def test_root_by_sudo_makes_no_home_in_the_folder_of_who_called_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owner = tmp_path.stat().st_uid or 4321
    os.chown(tmp_path, owner, -1)
    monkeypatch.setenv("SUDO_UID", str(owner))
    with pytest.raises(HomeError, match=r"belongs to user .* without sudo"):
        Home(tmp_path / "home").create()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("SUDO_UID")
    with pytest.raises(HomeError, match=r"belongs to user .* without sudo"):
        Home(tmp_path).create()
    assert list(tmp_path.iterdir()) == []


def test_the_folders_are_readable_by_their_owner_only(home: Home) -> None:
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in home.path.iterdir()} == {
        name: "0o700" for name in ("artifacts", "logs", "run")
    }


def test_nobody_holds_a_new_home(home: Home) -> None:
    assert home.holder() is None


def test_who_holds_a_home_is_told_by_pid_start_and_port(home: Home) -> None:
    assert home.hold(50_051)

    holder = home.holder()

    assert holder is not None
    assert (holder.pid, holder.port) == (os.getpid(), 50_051)
    assert holder.started == started_at(os.getpid())


def test_a_second_suite_is_refused_while_the_first_holds(home: Home) -> None:
    assert home.hold(1)

    assert not Home(home.path).hold(2)

    holder = home.holder()
    assert holder is not None
    assert holder.port == 1


def test_a_released_home_is_free_again(home: Home) -> None:
    home.hold(1)
    home.release()

    assert home.holder() is None
    assert home.hold(2)


def test_a_pid_that_was_given_to_somebody_else_holds_nothing(home: Home) -> None:
    home.hold(1)
    state = home.run / "suite.json"
    told = json.loads(state.read_text())
    state.write_text(json.dumps(told | {"started": told["started"] - 1}))

    assert home.holder() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": 1, "x": 2}'])
def test_a_damaged_record_holds_nothing(home: Home, text: str) -> None:
    (home.run / "suite.json").write_text(text)

    assert home.holder() is None


def test_endpoints_that_a_killed_suite_left_are_taken_away_by_the_next(home: Home) -> None:
    home.publish({"registry": "127.0.0.1:1"})

    home.hold(1)

    assert not home.endpoints_file.exists()


def test_endpoints_are_told_whole_and_taken_back(home: Home) -> None:
    home.hold(1)
    home.publish({"registry": "127.0.0.1:1", "doe": "127.0.0.1:2"})

    assert json.loads(home.endpoints_file.read_text())["doe"] == "127.0.0.1:2"
    assert {each.name for each in home.run.iterdir()} == {
        "endpoints.json",
        "suite.json",
        "suite.lock",
    }

    home.release()
    assert not home.endpoints_file.exists()


def test_a_zombie_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert started_at(process.pid) is None
    process.wait()
    assert started_at(process.pid) is None

"""The token of a home: made once, for its owner's eyes only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vistaflow._machine.local import token_file
from vistaflow_services.core.door.interceptor import DoorSettings, door_settings
from vistaflow_services.core.door.owner import make_token, read_token
from vistaflow_services.core.door.tokens import id_of


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_may_read_it_whatever_the_umask_is(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        text = make_token(token_file(tmp_path))
    finally:
        os.umask(previous)
    assert id_of(text) is not None
    assert mode_of(token_file(tmp_path)) == 0o600
    assert mode_of(tmp_path / "run") == 0o700
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["token"]


def test_a_folder_that_is_there_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    make_token(token_file(tmp_path))
    assert mode_of(tmp_path / "run") == 0o700


def test_it_stays_the_same_from_one_start_to_the_next(tmp_path: Path) -> None:
    text = make_token(token_file(tmp_path))
    assert make_token(token_file(tmp_path)) == text
    token_file(tmp_path).unlink()
    assert make_token(token_file(tmp_path)) != text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_could_have_read_or_written_is_replaced(mode: int, tmp_path: Path) -> None:
    text = make_token(token_file(tmp_path))
    token_file(tmp_path).chmod(mode)
    assert read_token(token_file(tmp_path)) == ""
    assert make_token(token_file(tmp_path)) != text
    assert mode_of(token_file(tmp_path)) == 0o600


@pytest.mark.parametrize("content", [b"", b"secret", b"\xff", b"vf1." + b"0" * 500])
def test_what_is_no_token_is_replaced(content: bytes, tmp_path: Path) -> None:
    file = token_file(tmp_path)
    make_token(file)
    file.write_bytes(content)
    assert read_token(file) == ""
    assert id_of(make_token(file)) is not None


def test_a_link_to_another_file_is_replaced_and_the_file_left_alone(tmp_path: Path) -> None:
    file = token_file(tmp_path)
    text = make_token(tmp_path / "elsewhere" / "token")
    file.parent.mkdir()
    file.symlink_to(tmp_path / "elsewhere" / "token")
    assert make_token(file) != text
    assert not file.is_symlink()
    assert read_token(tmp_path / "elsewhere" / "token") == text


def test_a_service_knows_the_token_of_its_home_where_its_owner_enters(tmp_path: Path) -> None:
    text = make_token(token_file(tmp_path))
    environment = {"VISTAFLOW_HOME": str(tmp_path)}
    assert door_settings(environment) == DoorSettings()
    assert door_settings(environment | {"VISTAFLOW_AUTH": "required"}) == DoorSettings(
        required=True
    )
    settings = door_settings(environment | {"VISTAFLOW_AUTH": "owner"})
    assert settings == DoorSettings(required=True, owner=True, owner_token=text)
    assert text not in repr(settings)
    assert [each.auth for each in (DoorSettings(), DoorSettings(required=True), settings)] == [
        "off", "required", "owner",
    ]  # fmt: skip

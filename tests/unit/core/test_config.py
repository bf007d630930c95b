from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from vistaflow_services.core.config import home, read_config, registry_address
from vistaflow_services.core.errors import InvalidError


@dataclass(frozen=True, kw_only=True)
class Settings:
    listen: str = "127.0.0.1:0"
    capacity: int = 1
    lease_seconds: float = 15.0
    warm: bool = True
    folder: Path | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError("capacity is at least 1")


@dataclass(frozen=True, kw_only=True)
class Required:
    database: str


def read(**environment: str) -> Settings:
    return read_config(Settings, "VISTAFLOW_DOE_", environment)


def test_what_is_not_set_keeps_its_default() -> None:
    assert read(VISTAFLOW_ML_CAPACITY="x", VISTAFLOW_HOME="/data", PATH="/bin") == Settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("VISTAFLOW_HOM", "VISTAFLOW_HOME"),
        ("VISTAFLOW_AUHT", "VISTAFLOW_AUTH"),
        ("VISTAFLOW_DO_CAPACITY", "no such setting"),
        ("VISTAFLOW_TLS_CRT", "VISTAFLOW_TLS_CERT"),
    ],
)
def test_a_misspelt_setting_of_several_services_is_refused_by_each(name: str, meant: str) -> None:
    with pytest.raises(InvalidError, match=meant) as caught:
        read(**{name: "1"})
    assert [each.field for each in caught.value.violations] == [name]


def test_what_kubernetes_sets_for_services_of_such_names_is_no_setting() -> None:
    assert (
        read(
            VISTAFLOW_PORT="tcp://10.0.0.7:50051",
            VISTAFLOW_SERVICE_HOST="10.0.0.7",
            VISTAFLOW_DOE_SERVICE_PORT_GRPC="50053",
            VISTAFLOW_DOE_PORT="tcp://10.0.0.7:50053",
            VISTAFLOW_DOE_PORT_50053_TCP_ADDR="10.0.0.7",
        )
        == Settings()
    )


def test_a_user_without_a_home_folder_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", _unknown)
    with pytest.raises(InvalidError, match=r"no home folder .* set VISTAFLOW_HOME"):
        home({})
    assert home({"VISTAFLOW_HOME": "/data"}) == Path("/data")


def _unknown(uid: int) -> None:
    raise KeyError(uid)


def test_each_kind_of_value_is_read() -> None:
    assert read(
        VISTAFLOW_DOE_LISTEN="0.0.0.0:1",
        VISTAFLOW_DOE_CAPACITY="3",
        VISTAFLOW_DOE_LEASE_SECONDS="2.5",
        VISTAFLOW_DOE_WARM="off",
        VISTAFLOW_DOE_FOLDER="/data",
        VISTAFLOW_DOE_NAMES="a, b",
    ) == Settings(
        listen="0.0.0.0:1",
        capacity=3,
        lease_seconds=2.5,
        warm=False,
        folder=Path("/data"),
        names=("a", "b"),
    )


def test_every_mistake_is_told_at_once_with_the_variable_and_the_fix() -> None:
    with pytest.raises(InvalidError) as caught:
        read(
            VISTAFLOW_DOE_CAPACTIY="3",
            VISTAFLOW_DOE_CAPACITY="three",
            VISTAFLOW_DOE_LEASE_SECONDS="1s",
            VISTAFLOW_DOE_WARM="maybe",
        )
    assert {each.field: each.description for each in caught.value.violations} == {
        "VISTAFLOW_DOE_CAPACTIY": "no such setting; did you mean VISTAFLOW_DOE_CAPACITY?",
        "VISTAFLOW_DOE_CAPACITY": "`three` is not a whole number",
        "VISTAFLOW_DOE_LEASE_SECONDS": "`1s` is not a number",
        "VISTAFLOW_DOE_WARM": "`maybe` is neither true nor false; write 1 or 0",
    }


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_no_number(text: str) -> None:
    with pytest.raises(InvalidError, match=f"`{text}` is not a number"):
        read(VISTAFLOW_DOE_LEASE_SECONDS=text)


def test_a_whole_number_beyond_every_float_is_no_number() -> None:
    with pytest.raises(InvalidError, match="9…` is not a whole number"):
        read(VISTAFLOW_DOE_CAPACITY="9" * 400)


def test_a_value_that_the_settings_refuse_is_told() -> None:
    with pytest.raises(InvalidError, match=r"VISTAFLOW_DOE_\*: capacity is at least 1"):
        read(VISTAFLOW_DOE_CAPACITY="0")


def test_a_setting_without_a_default_must_be_set() -> None:
    with pytest.raises(InvalidError, match="X_DATABASE: must be set"):
        read_config(Required, "X_", {})
    assert read_config(Required, "X_", {"X_DATABASE": "db"}) == Required(database="db")


def test_home_and_registry_have_defaults_for_a_laptop() -> None:
    assert home({}) == Path.home() / ".vistaflow"
    assert home({"VISTAFLOW_HOME": "/data/vista"}) == Path("/data/vista")
    assert registry_address({}) == "127.0.0.1:50051"
    assert registry_address({"VISTAFLOW_REGISTRY": "db:1"}) == "db:1"

"""Tokens made on the machine of the database, where no token is needed."""

from __future__ import annotations

import pytest

from vistaflow_services.core.door.tokens import id_of
from vistaflow_services.registry.access.command import main


@pytest.fixture(autouse=True)
def where(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISTAFLOW_REGISTRY_DATABASE", database)


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    return "".join(capsys.readouterr()[1 if code else 0]).strip()


def test_a_token_is_made_told_once_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "create", "--role=viewer", "--project=mine", "--name=a", "--days=1")
    token_id = str(id_of(text))

    listed = told(capsys, "list")
    revoked = told(capsys, "revoke", token_id)

    assert listed.startswith(f"{token_id}  VIEWER  mine  until ")
    assert text not in listed
    assert " revoked " in revoked
    assert told(capsys, "list") == revoked


def test_a_token_replaces_those_of_its_name_and_role_and_no_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for role in ("worker", "admin", "worker"):
        told(capsys, "create", f"--role={role}", "--name=the suite", "--replace")

    listed = [line.split() for line in told(capsys, "list").splitlines()]

    assert [(words[1], words[4]) for words in listed] == [
        ("WORKER", "valid"),
        ("ADMIN", "valid"),
        ("WORKER", "revoked"),
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("create", "--role=viewer", "--name=a"), "project: is required"),
        (("create", "--role=admin", "--name=a", "--project=b"), "project: must be unset"),
        (("create", "--role=admin", "--name= "), "name: is required"),
        (("create", "--role=admin", "--name=a", "--days=0"), "days: is 0 s; give 1 minute"),
        (("create", "--role=admin", "--name=a", "--days=nan"), "days: is nan s; give 1 minute"),
        (("create", "--role=admin", "--name=a", "--days=1e300"), "to 10 years"),
        (("revoke", "00000000-0000-4000-8000-000000000000"), "there is no token"),
    ],
)
def test_a_mistake_is_told_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], problem: str
) -> None:
    assert problem in told(capsys, *arguments, code=2)

"""A whole suite behind its door: TLS of both sides, tokens, and no secret left lying about."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import vistaflow
from tests.e2e.conftest import Suite, start_suite  # type: ignore[import-not-found]
from tests.integration.door.certificates import Authority  # type: ignore[import-not-found]
from tests.processes import files_below  # type: ignore[import-not-found]
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.errors import NotFoundError, PermissionDeniedError, UnauthenticatedError
from vistaflow_services.registry.database.embedded import EmbeddedPostgres


@pytest.fixture
def behind_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """A suite that asks for certificates and tokens."""
    authority = Authority(tmp_path, "authority")
    cert, key = authority.sign("suite")
    for name, value in {
        "VISTAFLOW_AUTH": "required",
        "VISTAFLOW_TLS_CERT": cert,
        "VISTAFLOW_TLS_KEY": key,
        "VISTAFLOW_TLS_CLIENT_CA": authority.ca,
        "VISTAFLOW_TLS_CA": authority.ca,
    }.items():
        monkeypatch.setenv(name, str(value))
    user_cert, user_key = authority.sign("user")
    monkeypatch.setenv("VISTAFLOW_TLS_CLIENT_CERT", str(user_cert))
    monkeypatch.setenv("VISTAFLOW_TLS_CLIENT_KEY", str(user_key))
    yield from start_suite(tmp_path / "home")


def on_the_machine(suite: Suite, *arguments: str) -> str:
    """What the command that needs no token prints."""
    command = [sys.executable, "-m", "vistaflow_services.registry.tokens", *arguments]
    done = subprocess.run(command, env=suite.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_work_goes_on_behind_the_door_and_leaves_no_secret_anywhere(
    behind_the_door: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = behind_the_door
    admin = on_the_machine(suite, "create", "--role=admin", "--name=the first")
    monkeypatch.setenv("VISTAFLOW_TOKEN", admin)
    made = suite.cli("token", "create", "mine", "--role=editor", "--project=mine")
    editor = made.stdout.strip()
    (viewer,) = suite.json("token", "create", "theirs", "--role=viewer", "--project=theirs")
    told: list[str] = [suite.cli("token", "list").stdout]
    workers = [line for line in on_the_machine(suite, "list").splitlines() if "WORKER" in line]
    assert len(workers) == 1

    spec = doe_pb2.DesignSpec(size=8)
    with vistaflow.connect(suite.address, token=editor) as client:
        job = client.generate_design("branin", spec)
        assert client.wait(job.kit_id, timeout=120).project == "mine"
        run = client.evaluate_design(job.job_id)
        assert client.wait(run.kit_id, timeout=120).status == "FINISHED"
        assert len(client.design_rows(run.job_id)) == 8
        with pytest.raises(PermissionDeniedError) as refused:
            client.tokens()
        told.append(str(refused.value))
    with vistaflow.connect(suite.address, token=viewer["secret"]) as client:
        with pytest.raises(NotFoundError) as absent:
            client.design_rows(run.job_id)
        told.append(str(absent.value))
        assert list(client.kits()) == []
    suite.cli("token", "revoke", viewer["token_id"])
    for text in (viewer["secret"], editor + "x", "vf1.canary"):
        with (
            vistaflow.connect(suite.address, token=text) as client,
            pytest.raises(UnauthenticatedError) as unknown,
        ):
            client.server_info()
        told.append(str(unknown.value))

    secrets = [text.rpartition(".")[2] for text in (admin, editor, viewer["secret"])]
    # The services' own token is nowhere to be read but in their environment.
    environments = [
        (Path("/proc") / str(suite.pid(name)) / "environ").read_bytes().decode()
        for name in ("doe", "registry")
    ]
    own = [each for each in environments[0].split("\0") if each.startswith("VISTAFLOW_TOKEN=")]
    assert len(own) == 1
    assert "VISTAFLOW_TOKEN=" + admin not in own
    secrets.append(own[0].rpartition(".")[2])
    found = {
        str(place)
        for place, text in {**files(suite.home), **tables(suite.home), **commands()}.items()
        if any(secret in text for secret in secrets)
    }
    assert found == set()
    assert not any(secret in text for secret in secrets for text in told)


def files(home: Path) -> dict[Path, str]:
    """What lies below a home, but for the database's own files."""
    return {
        path: content.decode(errors="replace")
        for path, content in files_below(home)
        if "pg" not in path.relative_to(home).parts[:1]
    }


def tables(home: Path) -> dict[str, str]:
    """Every row of every table."""
    found = {}
    with psycopg.connect(EmbeddedPostgres(home).conninfo) as connection:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'vistadb_test'"
        for (name,) in connection.execute(query).fetchall():
            every = sql.SQL("COPY (SELECT * FROM vistadb_test.{}) TO STDOUT")
            with connection.cursor().copy(every.format(sql.Identifier(name))) as copy:
                found[f"table {name}"] = b"".join(map(bytes, copy)).decode()
    assert "table tokens" in found
    return found


def commands() -> dict[Path, str]:
    """The command lines of all processes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[path] = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
    return found

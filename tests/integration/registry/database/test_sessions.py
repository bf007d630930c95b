"""Sessions with PostgreSQL mean the same whatever the environment, the role and the server say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.integration.conftest import Serving  # type: ignore[import-not-found]
from vistaflow.aio import connect
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.registry.database.connect import connected
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.sessions import libpq_variables, session_conninfo
from vistaflow_services.registry.upkeep.backup import backup

HOSTILE = {
    "PGSERVICE": "work",
    "PGSERVICEFILE": "/nonexistent",
    "PGHOST": "db.example.com",
    "PGHOSTADDR": "192.0.2.1",
    "PGPORT": "6543",
    "PGUSER": "other",
    "PGDATABASE": "other",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require",
    "PGREQUIREPEER": "postgres",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "nonsense",
    "PGSSLMODE": "verify-full",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nonexistent",
    "PGGSSENCMODE": "require",
    "PGMINPROTOCOLVERSION": "3.2",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGOPTIONS": "-c statement_timeout=1ms -c nonsense=on",
    "PGCLIENTENCODING": "LATIN1",
    "PGDATESTYLE": "SQL, DMY",
    "PGTZ": "Asia/Kolkata",
    "PGGEQO": "nonsense",
}
"""Values of variables with which nothing of ours would work, or not as it should."""

NAME = "Übung 試験"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """An embedded server that was started with all of them."""
    variables = dict.fromkeys(libpq_variables(), "nonsense") | HOSTILE
    with pytest.MonkeyPatch.context() as patch:
        for name, text in variables.items():
            patch.setenv(name, text)
        postgres = EmbeddedPostgres(tmp_path_factory.mktemp("home"))
        postgres.start()
    yield postgres
    postgres.stop()


@pytest.mark.parametrize("name", sorted({*libpq_variables(), *HOSTILE}))
def test_no_variable_of_libpq_has_a_say_in_the_embedded_database(
    embedded: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, HOSTILE.get(name, "nonsense"))
    postgres = EmbeddedPostgres(embedded.home)
    assert postgres.answers()
    assert name not in os.environ
    with psycopg.connect(session_conninfo(postgres.conninfo, name="test")) as connection:
        row = connection.execute("SELECT %s::text, current_user, current_database()", [NAME])
        assert row.fetchone() == (NAME, "vistaflow", "vistaflow")


SETTINGS = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata",
    "client_encoding": "LATIN1",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "search_path": "elsewhere",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
}
"""What somebody may have set for the role or the database."""


@pytest.fixture
def strange(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database whose settings are strange, in a strange environment."""
    name = str(conninfo_to_dict(database)["dbname"])
    with psycopg.connect(database, autocommit=True) as connection:
        for key, text in SETTINGS.items():
            command = sql.SQL("ALTER DATABASE {} SET {} TO {}")
            connection.execute(command.format(sql.Identifier(name), sql.Identifier(key), text))
    for variable in ("PGDATESTYLE", "PGTZ", "PGCLIENTENCODING", "PGOPTIONS", "PGGEQO"):
        monkeypatch.setenv(variable, HOSTILE[variable])
    yield database
    with psycopg.connect(session_conninfo(database, name="test"), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(name)))


async def test_a_registry_on_a_strange_database_answers_as_on_any(
    strange: str, serve: Serving, tmp_path: Path
) -> None:
    async with serve(strange) as registry, connect(registry.address) as client:
        kit = await client.create_kit(NAME, ["DOE"])
        job = kit.jobs[0].job_id
        await client.append(job, "RUNNING", reason=NAME, metadata={"note": NAME, "x": 0.1})
        (state,) = [each async for each in client.states(job_ids=[job], statuses=["RUNNING"])]
        assert (state.reason, state.metadata) == (NAME, {"note": NAME, "x": 0.1})
        assert abs((state.created_at - kit.created_at).total_seconds()) < 600
        assert (await client.kit(kit.kit_id)).name == NAME
        async for event in client.watch(kit_ids=[kit.kit_id]):
            assert event.revision
            break

    with connected(strange, "vistadb_test", name="test") as connection:
        shown = {
            name: connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
            for name in SETTINGS
        }
    assert {name: row[0] for name, row in shown.items() if row} == {
        "datestyle": "ISO, YMD",
        "intervalstyle": "postgres",
        "timezone": "UTC",
        "client_encoding": "UTF8",
        "bytea_output": "hex",
        "extra_float_digits": "1",
        "standard_conforming_strings": "on",
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off",
        "search_path": '"vistadb_test"',
        "statement_timeout": "0",
        "lock_timeout": "0",
    }
    assert backup(strange, "vistadb_test", tmp_path / "file").revision == 2


def test_options_of_the_connection_string_are_kept_and_ours_come_last() -> None:
    stated = conninfo_to_dict(
        session_conninfo(
            "host=h options='-c geqo=off -c timezone=EST' application_name=x",
            name="a name",
            schema='My "Schema',
            settings={"lock_timeout": "2s"},
        )
    )
    assert str(stated["options"]).startswith("-c geqo=off -c timezone=EST -c ")
    assert "-c timezone=UTC" in str(stated["options"])
    assert "-c lock_timeout=2s -c " in str(stated["options"]) + " -c "
    assert '-c search_path="My\\ ""Schema"' in str(stated["options"])
    assert (stated["application_name"], stated["client_encoding"]) == ("a name", "UTF8")


def test_a_malformed_connection_string_is_one_line() -> None:
    with pytest.raises(InvalidError, match=r"connection string: .*nonsense"):
        session_conninfo("nonsense", name="test")

"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import inspect
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
from google.rpc import error_details_pb2
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    ScriptedRegistry,
    bookmark,
    delta,
    info,
    refuse,
    row,
)
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli import local
from vistaflow.cli.app import COMMANDS, app
from vistaflow.cli.live import clock, tree
from vistaflow.cli.output import number, plain
from vistaflow.models import kit_of
from vistaflow_services.query.engines.confinement import description, note_confinement

JOB = "00000000-0000-0000-0000-000000000001"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [each for each in os.environ if each.startswith("VISTAFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environment)


@pytest.mark.parametrize("command", ["kits", "up", "backup x"])
def test_a_misspelt_setting_is_refused_by_every_command(command: str) -> None:
    told = call(*command.split(), VISTAFLOW_HOM="/data")
    assert told.exit_code == 2
    assert told.stderr == "VISTAFLOW_HOM: no such setting; did you mean VISTAFLOW_HOME?\n"


@pytest.mark.parametrize("command", ["up --detach", "down", "doctor", "logs", "backup x"])
def test_a_user_without_a_home_folder_is_told_to_name_one(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("VISTAFLOW_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    told = call(*command.split())
    assert told.exit_code == 2
    assert "set VISTAFLOW_HOME" in told.stderr
    assert told.stderr.count("\n") == 1


def test_a_home_that_cannot_be_made_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    told = call("up", "--detach", f"--home={tmp_path / 'file' / 'home'}")
    assert told.exit_code == 1
    assert told.stderr.startswith(f"cannot store data in {tmp_path / 'file' / 'home'}: ")


def kit(status: str = "FINISHED", **fields: Any) -> pb.Kit:
    value = common_pb2.Status.Value(f"STATUS_{status}")
    message = pb.Kit(
        kit_id=3,
        name="a [bold]kit[/]",
        project="default",
        status=value,
        revision=9,
        jobs=[
            common_pb2.Job(
                kit_id=3,
                job_id=JOB,
                name="design",
                job_type=common_pb2.JOB_TYPE_DOE,
                status=value,
                reason=fields.pop("reason", ""),
            )
        ],
        **fields,
    )
    setattr(message.job_counts, f"{status.lower()}_count", 1)
    return message


def test_help_names_every_command() -> None:
    told = call("--help")

    assert told.exit_code == 0
    names = """
        up down status doctor run validate watch kits show states pause resume diff cancel retry
        logs decks design backup restore retention
        predict
    """
    for name in names.split():
        assert f" {name} " in told.output


def test_the_help_says_of_a_command_what_its_own_help_begins_with() -> None:
    group = typer.main.get_command(app)
    lines = {
        name: inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ")
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        if not command.hidden
    }
    assert lines == {name: line for name, (_, line) in COMMANDS.items()}


@pytest.mark.parametrize(
    "variables",
    [
        {"ARGUMENTS": "--help"},
        {"ARGUMENTS": "--version"},
        {"_VISTAFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "vistaflow ", "COMP_CWORD": "1"},
    ],
    ids=["help", "version", "completion"],
)
def test_what_needs_no_client_does_not_import_it(variables: dict[str, str]) -> None:
    program = (
        "import atexit, os, sys\n"
        "sys.argv = ['vistaflow', *os.environ.get('ARGUMENTS', '').split()]\n"
        "heavy = {'grpc', 'google.protobuf', 'yaml', 'vistaflow.errors'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from vistaflow.cli.app import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stderr == "[]\n"
    assert ran.stdout


def test_a_command_is_completed_with_its_own_options() -> None:
    variables = {
        "_VISTAFLOW_COMPLETE": "complete_bash",
        "COMP_WORDS": "vistaflow dataset read --tab",
        "COMP_CWORD": "3",
    }
    program = "import sys; sys.argv = ['vistaflow']; from vistaflow.cli.app import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["--table"]


def test_the_version_is_told() -> None:
    assert call("--version").stdout.strip().count(".") == 2


def test_kits_are_listed_as_a_table_or_as_json(background: ScriptedRegistry) -> None:
    background.answers = [pb.ListKitsResponse(kits=[kit("RUNNING")])]

    table = call("kits", "--address", background.address)
    lines = call("kits", "--json", VISTAFLOW_REGISTRY=background.address)

    assert table.exit_code == lines.exit_code == 0
    assert "RUNNING" in table.stdout
    (told,) = [json.loads(line) for line in lines.stdout.splitlines()]
    assert (told["kit_id"], told["status"], told["job_counts"]["running"]) == (3, "RUNNING", 1)
    assert "pb" not in told


def test_a_status_that_is_none_is_a_mistake_of_usage(background: ScriptedRegistry) -> None:
    told = call("kits", "--address", background.address, "--status", "done")

    assert told.exit_code == 2
    assert "FINISHED" in told.stderr
    assert told.stdout == ""


def test_nobody_there_is_exit_code_3_with_what_to_do() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"

    told = call("status", "--address", address)

    assert told.exit_code == 3
    assert "vistaflow up" in told.stderr
    assert told.stdout == ""


def test_something_else_that_is_missing_is_exit_code_1(background: ScriptedRegistry) -> None:
    missing = refuse(
        grpc.StatusCode.UNAVAILABLE, "get ngspice", details=[info("SIMULATOR_MISSING")]
    )
    background.answers = [missing]

    told = call("show", "3", "--address", background.address)

    assert told.exit_code == 1
    assert "get ngspice" in told.stderr
    assert "vistaflow up" not in told.stderr


def test_mistakes_are_exit_code_2_one_a_line(background: ScriptedRegistry) -> None:
    wrong = error_details_pb2.BadRequest(
        field_violations=[
            {"field": "reason", "description": "is too [long]"},
            {"field": "actor", "description": "has a blank"},
        ]
    )
    background.answers = [refuse(grpc.StatusCode.INVALID_ARGUMENT, "x", details=[wrong])]

    told = call("cancel", "3", "--address", background.address)

    assert told.exit_code == 2
    assert told.stderr.splitlines() == [
        "2 mistakes:",
        "  reason: is too [long]",
        "  actor: has a blank",
    ]


def test_a_fault_of_the_service_names_its_entry_in_the_log(background: ScriptedRegistry) -> None:
    request = error_details_pb2.RequestInfo(request_id="e-17")
    background.answers = [refuse(grpc.StatusCode.INTERNAL, "oh", details=[request])]

    told = call("show", "3", "--address", background.address)

    assert told.exit_code == 1
    assert "oh (error e-17; see `vistaflow logs`)" in told.stderr


def test_what_a_kit_failed_of_is_told_with_what_to_do(background: ScriptedRegistry) -> None:
    background.answers = [pb.GetKitResponse(kit=kit("FAILED", reason="no [red]ink[/]"))]

    told = call("show", "3", "--address", background.address)

    assert told.exit_code == 0
    assert "a [bold]kit[/]" in told.stdout
    assert "no [red]ink[/]" in told.stdout
    assert "vistaflow retry 3" in told.stdout


@pytest.mark.parametrize(("status", "code"), [("FINISHED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_a_watch_ends_with_the_kit(background: ScriptedRegistry, status: str, code: int) -> None:
    background.answers = [pb.GetKitResponse(kit=kit(status))]
    background.streams = [[delta(7, 8), delta(9), bookmark(9)]]

    told = call("watch", "3", "--json", "--address", background.address)

    assert told.exit_code == code
    assert [json.loads(line)["revision"] for line in told.stdout.splitlines()] == [7, 8, 9]


def test_states_are_told_a_line_each(background: ScriptedRegistry) -> None:
    progress = row(5, kit_id=3, task="progress")
    progress.metadata.update({"progress": {"phase": "simulate", "completed": 3, "total": 9}})
    background.answers = [
        pb.GetKitResponse(kit=kit()),
        pb.ListStatesResponse(states=[row(4, kit_id=3), progress]),
    ]

    told = call("states", "3", "--address", background.address)

    first, second = told.stdout.splitlines()
    assert first.endswith("4 kit 3 design RUNNING")
    assert second.endswith("5 kit 3 design/progress RUNNING simulate 3/9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.yaml"], "no such file"),
        (["predict", "3", "h"], "name=value"),
        (["predict", "3"], "name=value"),
        (["predict", "3", "--csv", "nowhere.csv"], "no such file"),
        (["design", "branin", "--generator", "sobel"], "known are"),
        (["show", "0"], "KIT"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_wrong_command_is_exit_code_2(arguments: list[str], said: str) -> None:
    told = call(*arguments)

    assert told.exit_code == 2
    assert said in told.stderr


def test_nothing_is_up_in_a_new_home(tmp_path: Path) -> None:
    assert call("down", "--home", str(tmp_path)).stdout == "nothing is up\n"
    told = call("logs", "--home", str(tmp_path))
    assert (told.exit_code, "no logs in" in told.stderr) == (1, True)
    assert call("logs", "doe", "--home", str(tmp_path)).exit_code == 1


def test_a_pid_of_somebody_else_is_not_taken_for_the_suite(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    told = {"pid": os.getpid(), "started": 1, "port": 1}
    (tmp_path / "run" / "suite.json").write_text(json.dumps(told))

    assert call("down", "--home", str(tmp_path)).stdout == "nothing is up\n"
    assert local.started_at(os.getpid()) is not None


def test_the_doctor_says_what_is_wrong_and_how_to_mend_it(tmp_path: Path) -> None:
    told = call("doctor", "--json", "--home", str(tmp_path / "not" / "made"), "--address", "x:1")

    checks = {each["what"]: each for each in map(json.loads, told.stdout.splitlines())}
    assert checks["Python"]["state"] == "ok"
    assert checks["suite"]["fix"] == "start it with `vistaflow up`"
    assert "does not answer" in checks["registry"]["found"]
    assert {"devsim", "ngspice", "function"} <= set(checks)
    assert all(each["fix"] for each in checks.values() if each["state"] == "wrong")
    assert told.exit_code == any(each["state"] == "wrong" for each in checks.values())


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (
            {"stores": ["store a: reads and writes"], "errors": [], "lost": 0},
            ("ok", "a: reads and writes"),
        ),
        (
            {"stores": [], "errors": ["store b cannot be used"], "lost": 2},
            ("wrong", "store b cannot be used; 2 files have no undamaged copy"),
        ),
        ({"stores": 1}, None),
    ],
    ids=["good", "lost", "not-readable"],
)
def test_the_doctor_says_what_ingestion_found_of_the_stores(
    tmp_path: Path, state: dict[str, object], found: tuple[str, str] | None
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stores.json").write_text(json.dumps(state))
    told = call("doctor", "--json", "--home", str(tmp_path), "--address", "x:1")

    checks = {each["what"]: each for each in map(json.loads, told.stdout.splitlines())}
    check = checks.get("stores")
    assert (check and (check["state"], check["found"])) == found


def test_the_doctor_says_what_confines_queries(tmp_path: Path) -> None:
    note_confinement(tmp_path)

    told = call("doctor", "--json", "--home", str(tmp_path), "--address", "x:1")

    checks = {each["what"]: each for each in map(json.loads, told.stdout.splitlines())}
    assert checks["queries"]["state"] in ("ok", "note")
    assert checks["queries"]["found"] == f"confined by {description()}"


def test_the_tree_shows_jobs_tasks_and_progress() -> None:
    message = kit("RUNNING")
    job = message.jobs[0]
    job.attempt = 1
    job.progress.CopyFrom(
        common_pb2.Progress(phase="simulate", completed=3, total=9, unit="points")
    )
    for name in ("t1", "t2", "t3", "t4", "t5"):
        job.tasks.append(row(1, task=name))

    terminal = Console(width=100, force_terminal=False)
    with terminal.capture() as captured:
        terminal.print(tree(kit_of(message)))
    text = captured.get()

    assert "kit 3 a [bold]kit[/]  RUNNING" in text
    assert "▶ design" in text
    assert "simulate  3/9 points" in text
    assert [each for each in text.split() if each.startswith("t")] == ["t2", "t3", "t4", "t5"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.234567, "", "1.2346"),
        (3, "um", "3 um"),
        (4961364404620000, "", "4.9614e+15"),
        ("gold", "", "gold"),
        (1e-12, "A", "1e-12 A"),
    ],
)
def test_numbers_are_written_as_people_do(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_times_are_written_as_people_do() -> None:
    from datetime import timedelta

    spans = [None, *(timedelta(seconds=each) for each in (-1, 4.24, 61, 3723))]
    assert [clock(each) for each in spans] == ["", "0.0 s", "4.2 s", "1:01", "1:02:03"]


def test_what_is_printed_as_json_is_plain() -> None:
    assert plain({1: (kit_of(kit()),)})["1"][0]["jobs"][0]["name"] == "design"
    assert plain(pb.Bookmark(head_revision=3)) == {"head_revision": "3"}


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ('{"a": [1, {"id": 9007199254740993}]}', "metadata.a[1].id"),
        ('{"a": 9007199254740993.0}', "metadata.a"),
        (f'{{"a": {"9" * 400}}}', "metadata.a"),
    ],
)
def test_a_whole_number_that_would_be_changed_is_a_mistake_of_usage(
    background: ScriptedRegistry, metadata: str, field: str
) -> None:
    told = call("append", JOB, "RUNNING", "--address", background.address, "--metadata", metadata)

    assert told.exit_code == 2
    assert f"{field}: " in told.stderr
    assert background.requests == []


@pytest.mark.parametrize("verdict", ["REJECTED", "STALE_ATTEMPT"])
def test_a_row_that_is_refused_fails_the_command_and_says_why(
    background: ScriptedRegistry, verdict: str
) -> None:
    result = pb.AppendResult(verdict=pb.Verdict.Value(f"VERDICT_{verdict}"), detail="it may not")
    background.answers = [pb.AppendStatesResponse(results=[result])]

    told = call("append", JOB, "RUNNING", "--address", background.address)

    assert (told.exit_code, told.stdout) == (1, "")
    assert "it may not" in told.stderr

"""Commands whose output cannot say everything, and files that are not UTF-8."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
from google.protobuf import struct_pb2

from tests.unit.client.scripted import (  # type: ignore[import-not-found]
    ScriptedRegistry,
    delta,
    row,
)
from vistaflow.aio import _calls
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli.app import app, main

JOB = "00000000-0000-0000-0000-000000000001"
NAME = "Übung № 7 ± 試験 ✔ 😀"
ENCODINGS = ["latin-1", "ascii", "euc-kr", "cp949", "cp1252", "utf-8"]


def commands() -> Iterator[list[str]]:
    """The words of every command there is."""

    def below(command: Any, words: list[str]) -> Iterator[list[str]]:
        if hasattr(command, "commands"):
            for name, sub in command.commands.items():
                if not sub.hidden:
                    yield from below(sub, [*words, name])
        else:
            yield words

    yield from below(typer.main.get_command(app), [])


COMMANDS = [" ".join(words) for words in commands()]
assert {"show", "dataset read", "token create"} <= set(COMMANDS)

ARGUMENTS = {
    "run": ["kit.yaml"],
    "validate": ["kit.yaml"],
    "watch": ["3", "--from", "0"],
    "show": ["3"],
    "states": ["3"],
    "pause": ["3"],
    "resume": ["3"],
    "diff": ["3"],
    "cancel": ["3", "--reason", NAME],
    "retry": ["3"],
    "create": [NAME, "--job", "DOE"],
    "append": [JOB, "RUNNING", "--reason", NAME],
    "backup": [f"{NAME}/x"],
    "restore": [f"{NAME}/x"],
    "design": [NAME],
    "predict": [NAME, "x=1"],
    "token create": ["--role", "viewer", NAME],
    "token revoke": [JOB],
}
"""What a command needs to get as far as it can."""

JSON = ["kits", "jobs", "states", "show", "status", "create", "watch", "doctor", "logs"]
"""Commands that print JSON of what the scripted registry answers."""


@pytest.fixture
def registry(background: ScriptedRegistry) -> ScriptedRegistry:
    """A registry in which everything has a name that few encodings know."""
    metadata = struct_pb2.Struct()
    metadata.update({"note": NAME})
    state = row(9)
    state.reason = state.task_name = NAME
    state.metadata.CopyFrom(metadata)
    job = common.Job(
        kit_id=3,
        job_id=JOB,
        name=NAME,
        job_type=common.JOB_TYPE_DOE,
        status=common.STATUS_RUNNING,
        reason=NAME,
    )
    kit = pb.Kit(kit_id=3, name=NAME, project=NAME, status=common.STATUS_RUNNING, jobs=[job])

    async def answer(context: Any) -> Any:
        method = type(background.requests[-1]).__name__.removesuffix("Request")
        response = getattr(pb, f"{method}Response")()
        fields = response.DESCRIPTOR.fields_by_name
        for field, message in (("kit", kit), ("job", job), ("state", state)):
            if field in fields:
                getattr(response, field).CopyFrom(message)
            if f"{field}s" in fields:
                getattr(response, f"{field}s").append(message)
        if "results" in fields:
            response.results.add(verdict=pb.VERDICT_ACCEPTED, revision=9)
        return response

    background.answers = [answer]
    event = delta(9)
    event.delta.states[0].CopyFrom(state)
    background.streams = [[event, grpc.StatusCode.NOT_FOUND]]
    return background


@dataclass(frozen=True)
class Done:
    """What a command wrote, and its exit code."""

    code: int
    output: str
    errors: str


class Command:
    """Runs `vistaflow` in a folder, with output to pipes of any encoding."""

    def __init__(self, registry: ScriptedRegistry, patch: pytest.MonkeyPatch, folder: Path) -> None:
        for name in [name for name in os.environ if name.startswith("VISTAFLOW_")]:
            patch.delenv(name)
        patch.setenv("VISTAFLOW_HOME", str(folder / "home"))
        patch.setenv("VISTAFLOW_REGISTRY", registry.address)
        patch.setenv("VISTAFLOW_REGISTRY_DATABASE", "host=127.0.0.1 port=1")
        patch.setenv("COLUMNS", "200")
        patch.chdir(folder)
        (folder / "home" / "logs").mkdir(parents=True)
        line = {"time": "2026-01-01T00:00:00+00:00", "level": "INFO", "message": NAME}
        log = folder / "home" / "logs" / "doe.jsonl"
        log.write_text(json.dumps(line, ensure_ascii=False) + "\n", "utf-8")
        (folder / "kit.yaml").write_text(f"name: {NAME}\ndeck: branin\n", "utf-8")
        self.folder = folder
        self._patch = patch

    def __call__(self, encoding: str, *arguments: str) -> Done:
        pipes = {"stdout": io.BytesIO(), "stderr": io.BytesIO()}
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["vistaflow", *arguments])
            for name, pipe in pipes.items():
                patch.setattr(sys, name, io.TextIOWrapper(pipe, encoding, write_through=True))
            with pytest.raises(SystemExit) as end:
                main()
            texts = [pipe.getvalue().decode(encoding) for pipe in pipes.values()]
        return Done(int(end.value.code or 0), *texts)


@pytest.fixture
def vistaflow(
    registry: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """Runs `vistaflow` on that registry."""
    return Command(registry, monkeypatch, tmp_path)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("up", "down")])
def test_every_command_says_all_it_has_where_only_ascii_can_be_said(
    vistaflow: Command,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The registry here knows no other service.
    monkeypatch.setattr(_calls, "ANNOUNCED_SECONDS", 0.0)
    done = vistaflow("ascii", *command.split(), *ARGUMENTS.get(command, []))
    # Some commands run another program, which writes for itself.
    text = done.output + done.errors + "".join(capfd.readouterr())
    assert text
    assert "codec" not in text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_says_what_it_can_and_something_like_the_rest(
    vistaflow: Command, encoding: str
) -> None:
    likenesses = ["U", *"bung ", "No", *" 7 ", "+/-", " ", "?", "?", " ", "v", " ", "?"]
    pairs = zip(NAME, likenesses, strict=True)
    done = vistaflow(encoding, "kits")
    assert done.code == 0
    assert "".join(one if _has(encoding, one) else other for one, other in pairs) in done.output


@pytest.mark.parametrize("command", JSON)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_loses_nothing(vistaflow: Command, command: str, encoding: str) -> None:
    done = vistaflow(encoding, command, *ARGUMENTS.get(command, []), "--json")
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert lines
    if command not in ("status", "doctor"):
        assert NAME in json.dumps(lines, ensure_ascii=False)


def _has(encoding: str, character: str) -> bool:
    try:
        return bool(character.encode(encoding))
    except UnicodeEncodeError:
        return False


@pytest.mark.parametrize("command", ["run", "validate"])
def test_a_kit_saved_as_cp949_is_refused_with_its_line(vistaflow: Command, command: str) -> None:
    (vistaflow.folder / "mine.yaml").write_bytes("deck: branin\nname: 시험\n".encode("cp949"))
    assert vistaflow("utf-8", command, "mine.yaml") == Done(
        2, "", "1 mistake:\n  mine.yaml:2: is not UTF-8; save the file as UTF-8\n"
    )


def test_points_saved_as_cp949_are_refused_with_their_line(vistaflow: Command) -> None:
    (vistaflow.folder / "points.csv").write_bytes("x,y\n1,시험\n".encode("cp949"))
    assert vistaflow("utf-8", "predict", "3", "--csv", "points.csv") == Done(
        2, "", "1 mistake:\n  points.csv:2: is not UTF-8; save the file as UTF-8\n"
    )


def test_an_argument_that_is_no_text_is_refused(vistaflow: Command) -> None:
    done = vistaflow("utf-8", "create", os.fsdecode(b"\xfc"))
    assert (done.code, done.output) == (2, "")
    assert "is not text" in done.errors

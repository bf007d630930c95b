"""Commands whose output nobody reads to its end, as with `| head -1`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.unit.client.scripted import ScriptedRegistry, delta, row  # type: ignore[import-not-found]
from vistaflow.api.registry.v1 import registry_pb2 as pb


def complaints(*command: str, **environment: str) -> str:
    """What a command says on stderr whose reader is gone before it says anything."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from vistaflow.cli.app import main; main()", *command],
            env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    return done.stderr


@pytest.mark.parametrize("how", ["table", "json", "csv"])
@pytest.mark.parametrize("count", [1, 2000], ids=["a row", "many rows"])
def test_a_list_ends_quietly_when_its_reader_has_gone(
    background: ScriptedRegistry, how: str, count: int
) -> None:
    background.answers = [pb.ListStatesResponse(states=[row(1 + n) for n in range(count)])]

    assert complaints("states", "-o", how, "--address", background.address) == ""


@pytest.mark.parametrize("how", [(), ("--json",)], ids=["text", "json"])
def test_a_watch_only_tells_where_to_go_on_when_its_reader_has_gone(
    background: ScriptedRegistry, how: tuple[str, ...]
) -> None:
    background.streams = [[delta(1), delta(2)]]
    told = complaints("watch", "--from", "0", *how, "--address", background.address)

    assert told == "go on from here with --from 1\n"


def test_the_help_ends_quietly_when_its_reader_has_gone() -> None:
    assert complaints("--help") == ""


def test_a_job_of_keeping_goes_on_when_its_reader_has_gone() -> None:
    told = complaints("retention", VISTAFLOW_REGISTRY_DATABASE="host=127.0.0.1 port=1")

    # The policy, printed before this, has no reader either.
    assert told.startswith("retention failed: ")
    assert "Broken pipe" not in told

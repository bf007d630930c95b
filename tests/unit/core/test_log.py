from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import log


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = list(root.handlers), root.level, logging.raiseExceptions
    yield
    for each in root.handlers:
        if each not in handlers:
            each.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


def line(message: Any, *args: Any, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("test").makeRecord(
        "test", logging.INFO, __file__, 1, message, args, None, extra=extra
    )
    text = log.JsonFormatter("doe").format(record)
    assert "\n" not in text
    made: dict[str, Any] = json.loads(text)
    return made


def secret_message() -> Any:
    """A message with a field marked `debug_redact`, made here because no proto has one yet."""
    file = descriptor_pb2.FileDescriptorProto(name="test/secret.proto", package="test.log")
    kind = file.message_type.add(name="Conversion")
    for number, name in enumerate(("file_name", "aes256cbckey", "inline"), 1):
        field = kind.field.add(name=name, number=number, type=9, label=1)
        field.options.debug_redact = name == "inline"
    inner = kind.field.add(name="parts", number=4, type=11, label=3)
    inner.type_name = ".test.log.Conversion"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("test.log.Conversion"))
    part = made(file_name="b.json", inline="hush")
    return made(file_name="a.json", aes256cbckey="deadbeef", inline="hush", parts=[part])


def test_a_line_is_one_json_object_with_what_is_bound() -> None:
    with log.bound(kit_id=7, job_id="j"), log.bound(attempt=2):
        made = line("ran %d points", 3, revision=12)
    assert made.pop("time").endswith("+00:00")
    assert made == {
        "level": "INFO",
        "service": "doe",
        "logger": "test",
        "message": "ran 3 points",
        "kit_id": 7,
        "job_id": "j",
        "attempt": 2,
        "revision": 12,
    }
    assert "kit_id" not in line("later")


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("password=hunter2 given", "hunter2"),
        ('{"aes256cbckey": "deadbeef"}', "deadbeef"),
        ("api_key: abc123, next", "abc123"),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("postgresql://user:hunter2@db/x", "hunter2"),
        ("VISTAFLOW_TOKEN='to ken'", "to ken"),
    ],
)
def test_what_looks_like_a_secret_in_text_is_left_out(text: str, secret: str) -> None:
    told = line("%s", text)["message"]
    assert secret not in told
    assert "[redacted]" in told


def test_plain_text_is_told_as_it_is() -> None:
    text = "kit 7: key point at tox=2 nm, 14:03:22, http://127.0.0.1:5000/x@y"
    assert line(text)["message"] == text


@pytest.mark.parametrize("name", ["password", "db_password", "token", "aes_key", "key", "iv"])
def test_a_field_with_the_name_of_a_secret_is_left_out(name: str) -> None:
    assert line("x", **{name: "hunter2"})[name] == "[redacted]"
    assert line("x", nested={name: {"a": "hunter2"}})["nested"] == {name: "[redacted]"}


def test_a_proto_message_is_told_without_its_marked_fields() -> None:
    expected = {
        "file_name": "a.json",
        "aes256cbckey": "[redacted]",
        "inline": "[redacted]",
        "parts": [{"file_name": "b.json", "inline": "[redacted]"}],
    }
    assert line("x", request=secret_message())["request"] == expected
    assert json.loads(line("%s", secret_message())["message"]) == expected
    assert json.loads(line(secret_message())["message"]) == expected
    told = line("got %s from %s", [secret_message()], "b")["message"]
    assert "hush" not in told
    assert "deadbeef" not in told
    assert "hush" not in line("%s", secret_message().parts)["message"]
    assert "hush" not in str(line("x", parts=secret_message().parts))


def test_labels_of_a_message_are_told_with_secrets_left_out() -> None:
    request = registry_pb2.CreateKitRequest(name="n", labels={"team": "a", "token": "hush"})
    assert line("x", request=request)["request"] == {
        "name": "n",
        "labels": {"team": "a", "token": "[redacted]"},
    }


def test_an_exception_is_told_with_its_traceback_and_without_secrets() -> None:
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        record = logging.getLogger("test").makeRecord(
            "test", logging.ERROR, __file__, 1, "it failed", (), sys.exc_info()
        )
    made = json.loads(log.JsonFormatter("doe").format(record))
    assert "Traceback" in made["error"]
    assert "hunter2" not in made["error"]


def test_bytes_are_told_by_their_number_only() -> None:
    assert line("%s", b"hush")["message"] == "<4 bytes>"
    assert line("x", data=b"hush")["data"] == "<4 bytes>"


def test_a_message_of_a_megabyte_is_cut() -> None:
    assert len(line("%s", "x" * 1_000_000)["message"]) < 8_100


def test_lines_go_to_stderr_and_to_a_file_that_stays_bounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_FILE_BYTES", 5_000)
    log.configure("doe", home=tmp_path)
    for number in range(300):
        logging.getLogger("x").info("line %d", number)
    files = sorted(each.name for each in (tmp_path / "logs").iterdir())
    assert files == ["doe.jsonl", "doe.jsonl.1", "doe.jsonl.2", "doe.jsonl.3"]
    assert all(each.stat().st_size <= 5_000 for each in (tmp_path / "logs").iterdir())
    last = (tmp_path / "logs" / "doe.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["message"] == "line 299"
    assert len(capsys.readouterr().err.splitlines()) == 300

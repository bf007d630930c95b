"""Which names and labels are allowed, which texts are ids of jobs, and which a spec names."""

from __future__ import annotations

import random
import re
import uuid

import pytest

from vistaflow.api.ml.v1 import ml_pb2
from vistaflow_services.core import names
from vistaflow_services.core.names import (
    DatasetReference,
    dataset_reference,
    is_dataset_alias,
    is_dataset_name,
    is_job_id,
    job_ids_in,
    kit_name_problems,
    label_problems,
    name_problems,
    slices,
)

FOREIGN = "0c9f1c1e-7d0b-4a58-9d4c-3d1f0a6b2e91"


@pytest.mark.parametrize(
    "reference",
    [
        FOREIGN,
        FOREIGN.upper(),
        f"0C9F1C1E-7D0B-4A58-9D4C-{FOREIGN}",
        f"0c9f1c1e-7d0b-4a58-9d4c-3d1f{FOREIGN}",
        f"é{FOREIGN}é",
        FOREIGN * 2,
    ],
    ids=["as it is", "in capitals", "behind capitals", "behind another", "in words", "twice"],
)
def test_an_id_is_found_wherever_it_stands_and_whatever_it_overlaps(reference: str) -> None:
    assert FOREIGN in job_ids_in(ml_pb2.PreprocessSpec(design=reference).SerializeToString())


def test_whatever_a_worker_could_look_up_in_random_bytes_is_found() -> None:
    chance = random.Random(5)
    plain = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    for _ in range(300):
        text = b"".join(
            chance.choice((b"-", b"0c9f1c1e", b"7D0B", b"4a58", b"9d4c", b"3d1f0a6b2e91"))
            for _ in range(60)
        )
        anywhere = {
            match.group().decode()
            for start in range(len(text))
            if (match := plain.match(text, start))
        }
        assert anywhere <= job_ids_in(text)


def test_slices_cut_no_id_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SLICE_BYTES", 40)
    ids = {str(uuid.UUID(int=number)) for number in range(50)}
    spec = b" ".join(job_id.encode() for job_id in sorted(ids))
    assert set().union(*map(job_ids_in, slices(spec))) == ids


@pytest.mark.parametrize("text", ["", "work", FOREIGN.upper(), FOREIGN + "\n", FOREIGN[:-1]])
def test_what_the_registry_does_not_write_is_no_id(text: str) -> None:
    assert is_job_id(FOREIGN)
    assert not is_job_id(text)


@pytest.mark.parametrize(
    ("name", "problems"),
    [
        ("Low noise amplifier, 2nd try", []),
        ("n" * 200, []),
        (" ", ["is required: 1 to 200 characters"]),
        ("n" * 201, ["is 201 characters long; at most 200 are allowed"]),
        ("a\nb", ["must not hold control characters"]),
    ],
)
def test_a_kit_has_a_name_for_people(name: str, problems: list[str]) -> None:
    assert list(kit_name_problems(name)) == problems


@pytest.mark.parametrize("name", ["train", "0", "a.b_c-d", "p" * 63])
def test_a_name_of_paths_and_commands_is_accepted(name: str) -> None:
    assert list(name_problems(name, 63)) == []


@pytest.mark.parametrize("name", ["", "Train", "-a", "a b", "a\n", "é", "p" * 64, "train@2"])
def test_any_other_is_refused_with_what_is_allowed(name: str) -> None:
    assert list(name_problems(name, 63)) == [
        "give 1 to 63 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
    ]


@pytest.mark.parametrize(
    ("labels", "problems"),
    [
        ({}, []),
        ({"k" * 63: "v" * 255, "empty": ""}, []),
        ({"": "v"}, [("", "has an empty key")]),
        ({"k" * 64: "v"}, [("k" * 63, "is 64 characters long; at most 63 are allowed")]),
        ({"k": "v" * 256}, [("k", "is 256 characters long; at most 255 are allowed")]),
        ({"a\tb": "\0"}, [("a\tb", "must not hold control characters")] * 2),
        (
            {str(number): "\0" for number in range(65)},
            [("", "has 65 pairs; at most 64 are allowed")],
        ),
    ],
    ids=["none", "at the limits", "no key", "long key", "long value", "control", "many"],
)
def test_problems_of_labels_come_with_their_keys(
    labels: dict[str, str], problems: list[tuple[str, str]]
) -> None:
    assert list(label_problems(labels)) == problems


@pytest.mark.parametrize(
    ("text", "project", "name", "version", "alias"),
    [
        ("whisky", None, "whisky", 0, ""),
        ("whisky@3", None, "whisky", 3, ""),
        ("whisky@best-1", None, "whisky", 0, "best-1"),
        ("whisky@latest", None, "whisky", 0, ""),
        ("tasting.whisky", "tasting", "whisky", 0, ""),
        ("a.b-1.whisky@12", "a.b-1", "whisky", 12, ""),
        (f"{'p' * 63}.{'n' * 63}@{'a' * 63}", "p" * 63, "n" * 63, 0, "a" * 63),
    ],
)
def test_a_dataset_is_named_in_its_project_and_with_a_version(
    text: str, project: str | None, name: str, version: int, alias: str
) -> None:
    reference = DatasetReference(project=project, name=name, version=version, alias=alias)

    assert dataset_reference(text) == reference
    assert reference.project_for("mine") == (project or "mine")
    assert reference.project_for("") == (project or "default")


@pytest.mark.parametrize(
    "text",
    [
        "", "Whisky", "1a", "a b", "a@", "a@0", "a@01", "a@-1", "a@Best", ".a", "a.", "a..b.c.",
        "../a", "a@b@c", "a" * 64, f"{'p' * 64}.a", "a\n", "a@1\n", "위스키",
    ],
)  # fmt: skip
def test_what_names_no_dataset_is_seen(text: str) -> None:
    assert dataset_reference(text) is None


def test_latest_is_no_alias() -> None:
    assert is_dataset_name("whisky_2")
    assert is_dataset_alias("best-1")
    assert not any(map(is_dataset_alias, ("latest", "", "1", "A")))
    assert not any(map(is_dataset_name, ("p.whisky", "a@1", "")))

"""Which texts are ids of jobs, and which a packed spec names."""

from __future__ import annotations

import random
import re
import uuid

import pytest

from vistaflow.api.ml.v1 import ml_pb2
from vistaflow_services.core import job_ids
from vistaflow_services.core.job_ids import is_job_id, job_ids_in, slices

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
    monkeypatch.setattr(job_ids, "SLICE_BYTES", 40)
    ids = {str(uuid.UUID(int=number)) for number in range(50)}
    spec = b" ".join(each.encode() for each in sorted(ids))
    assert set().union(*map(job_ids_in, slices(spec))) == ids


@pytest.mark.parametrize("text", ["", "work", FOREIGN.upper(), FOREIGN + "\n", FOREIGN[:-1]])
def test_what_the_registry_does_not_write_is_no_id(text: str) -> None:
    assert is_job_id(FOREIGN)
    assert not is_job_id(text)

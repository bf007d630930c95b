"""Finds what an ML job refers to: a design, a dataset, a scaler, a model.

A reference is one string: the name of a job in the same kit, or the id of a finished job. The
worker hands over the results of both as the attempt's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.results import PublishedFile, find_result
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.surrogates.dataset import Dataset
from vistaflow_services.surrogates.manifest import ModelManifest, TrainingTable
from vistaflow_services.surrogates.model import Model


def find_manifest(
    attempt: Attempt, reference: str, *, job_type: str, holds: str
) -> Mapping[str, Any]:
    """The result of the job that `reference` names.

    Args:
        attempt: The attempt that refers.
        reference: A job's name in the kit, or a job id; empty for the only job of the type.
        job_type: What kind of job it should be, for the message.
        holds: The key that its result must have, such as `dataset`.

    Raises:
        JobError: There is none, or it is of another kind.
    """
    if not reference:
        return attempt.input(job_type).result
    source = find_result(reference, attempt.inputs)
    if source is not None and source.job_type != job_type:
        raise JobError(
            f"the job `{reference}` is {source.job_type}: it has no {holds} for this one",
            reason="WRONG_INPUT",
            hint=f"name a {job_type} job",
        )
    if source is None or holds not in source.result:
        raise JobError(
            f"no {holds} `{reference[:100]}`: it is neither a job this one depends on nor a "
            f"finished {job_type} job",
            reason="NO_" + holds.upper(),
            hint=f"give a job's name in the kit, or the id of a finished {job_type} job",
        )
    return source.result


def open_file(file: PublishedFile, artifacts: ArtifactStore) -> Path:
    """A file with the content that was published.

    Raises:
        NotFoundError: It is gone.
        InvalidError: Its content is another.
    """
    return artifacts.verified(file.uri, file.sha256)


def open_dataset(table: TrainingTable, artifacts: ArtifactStore) -> Dataset:
    """The dataset of a training table, checked as `open_file` does.

    Raises:
        LookupError: The job published none.
    """
    if table.dataset is None:
        raise LookupError("dataset")
    return Dataset.read(open_file(table.dataset, artifacts))


def open_model(manifest: ModelManifest, artifacts: ArtifactStore) -> Model:
    """A model.

    Raises:
        NotFoundError: Its files are gone.
        ConflictError: They are not those that were published.
    """
    folder = artifacts.path(manifest.model.uri)
    if not folder.is_dir():
        raise NotFoundError("the model's files are gone", reason="MODEL_GONE")
    return Model.load(folder, manifest.model.sha256)

"""The generated code is what the protos say, and every service says what it promises."""

from __future__ import annotations

import filecmp
import gzip
import subprocess
from pathlib import Path

import pytest

from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2

ROOT = Path(__file__).parents[2]

RPCS = {
    registry_pb2: "CreateKit GetKit ListKits CancelKit PauseKit ResumeKit DiffKit GetLineage "
    "RetryKit CreateJob GetJob ListJobs CancelJob RetryJob CancelJobs RetryJobs AppendStates "
    "StreamStates ListStates WatchStates WatchMany LeaseJobs AnnounceService CreateToken "
    "ListTokens RevokeToken ListRequests DumpLog GetServerInfo",
    pipeline_pb2: "RetryKit RunKit ValidateKit ExtendKit ImportPoints CreateSchedule GetSchedule "
    "ListSchedules UpdateSchedule PauseSchedule ResumeSchedule RunSchedule DeleteSchedule",
    ingestion_pb2: "CollectDecks ListDecks GetDeck ConvertJson GetConversion SummarizeShopping "
    "UploadFile GetUpload DeleteUpload ImportDataset ReadDataset ForgetRecords CollectPages "
    "DeliverDataset BackUp CleanUp RepairStores",
    doe_pb2: "ListGenerators GenerateDesign EvaluateDesign GetDesign ReadDesign ListSimulators "
    "FindPoints TryPoint GetRun",
    ml_pb2: "Preprocess Scale Train Test Predict GetModel ListModels",
    optimize_pb2: "TuneModel OptimizeDesign GetStudy ListTrials DrawPicture",
    query_pb2: "SubmitQuery ValidateQuery GetQuery ListQueries CancelQuery FetchResult",
    artifacts_pb2: "ListArtifacts ReadArtifact ReadLogs",
    schedules_pb2: "AddSchedule FindSchedules ChangeSchedule RemoveSchedule AddFire "
    "ListDueSchedules PlanFires StartFire",
    outbox_pb2: "SetWebhook ListWebhooks DeleteWebhook TestWebhook ListDeliveries RetryDelivery "
    "LeaseDeliveries ReportDelivery",
    datasets_pb2: "ListDatasets GetDataset ListDatasetVersions UpdateDataset SetDatasetAlias "
    "PinDatasetVersion DeleteDataset RecordDatasetVersion FindReferences PurgeBlobs",
}

COMMENTS = "comments.binpb.gz"


def differences(left: Path, right: Path) -> list[str]:
    found = []
    # How well the comments are compressed depends on the machine; what they say does not.
    pending = [filecmp.dircmp(left, right, ignore=["__pycache__", COMMENTS])]
    while pending:
        each = pending.pop()
        found += [f"{each.left}: {name}" for name in each.left_only + each.right_only]
        _, differ, errors = filecmp.cmpfiles(
            each.left, each.right, each.common_files, shallow=False
        )
        found += [f"{each.left}/{name}" for name in differ + errors]
        pending += each.subdirs.values()
    return found


def test_the_committed_code_is_what_the_generator_makes_of_the_protos(tmp_path: Path) -> None:
    subprocess.run(["sh", "protos/generate.sh", "--to", str(tmp_path)], cwd=ROOT, check=True)

    made, committed = tmp_path / "vistaflow" / "api", ROOT / "client" / "vistaflow" / "api"
    assert differences(made, committed) == []
    told = [gzip.decompress((folder / COMMENTS).read_bytes()) for folder in (made, committed)]
    assert told[0] == told[1]
    assert (committed / COMMENTS).stat().st_size < 64 * 1024


@pytest.mark.parametrize("module", RPCS, ids=lambda each: each.DESCRIPTOR.package)
def test_a_service_has_the_calls_it_promises_and_no_others(module: object) -> None:
    (service,) = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]

    assert sorted(service.methods_by_name) == sorted(RPCS[module].split())

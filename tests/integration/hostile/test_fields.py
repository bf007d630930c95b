"""Values that fit a field's type and not its meaning, in every field of every call."""

from __future__ import annotations

import random
import uuid
from typing import Any

from attacking import Code, Outcome, Suite, methods
from google.protobuf.descriptor import MethodDescriptor
from nasty import Attack, anything, attacks

from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow_services.core.rpc import pages

SEED = 1
MESSAGES = 20
"""How many messages of anything each call gets."""

IGNORED = {
    "states[0].revision",
    "states[0].current_order",
    "states[0].created_at",
    "service.seen_at",
    "heartbeat.attempts[0].progress.updated_at",
}
"""What the registry itself assigns: whatever a caller writes there is not read."""

TAMED = (
    "heartbeat.attempts[0].attempt",
    "heartbeat.attempts[0].progress",
    "hello.running[0].attempt",
    "release.attempt",
    "release.reason",
)
"""What a worker says of its attempts; made fit instead of costing it its stream."""

HARMLESS = {"close.name", "name_contains"}
"""What names or finds nothing if it cannot be."""

REPORTED = {"ValidateKit"}
"""What tells mistakes in its answer, as that is what it is asked for."""

OF_THE_REGISTRY = {"RegistryService", "DatasetService", "ScheduleService", "OutboxService"}
"""Services that refuse a value under the name of its field."""

ELSEWISE = {Code.NOT_FOUND, Code.FAILED_PRECONDITION}
"""How an id that cannot be, or another log's epoch, is refused too."""


def good(suite: Suite) -> dict[str, Any]:
    """Requests of the registry with nothing wrong in them."""
    job = pb.NewJob(name="work", job_type=2)
    hello = pb.WorkerHello(worker="w", job_types=[3], capacity=1)
    row = {"job_id": suite.job_id, "status": 3, "task_name": "t"}
    deck = ingestion_pb2.DeckSource(name="welded_beam")
    kit = pipeline_pb2.KitSpec(
        name="k",
        deck=deck,
        design={"size": 40, "parameters": [{"name": "h", "low": 0.2, "high": 1.0}]},
        evaluation={},
        ml={"families": [2]},
        goals="minimize cost; tau <= 13600",
        optimize={"budget": 20},
    )
    made = suite.job_id
    return {
        "ValidateKit": pipeline_pb2.ValidateKitRequest(spec=kit),
        "RunKit": pipeline_pb2.RunKitRequest(spec=kit),
        "CollectDecks": ingestion_pb2.CollectDecksRequest(
            spec=ingestion_pb2.CollectDecksSpec(sources=[deck])
        ),
        "GetDeck": ingestion_pb2.GetDeckRequest(deck="branin"),
        "GenerateDesign": doe_pb2.GenerateDesignRequest(deck="welded_beam", design=kit.design),
        "EvaluateDesign": doe_pb2.EvaluateDesignRequest(design_id=made, evaluation={}),
        "Preprocess": ml_pb2.PreprocessRequest(spec={"design": made}),
        "Train": ml_pb2.TrainRequest(spec={"scaler": made}),
        "Predict": ml_pb2.PredictRequest(model_id=made, points=[{}]),
        "TuneModel": optimize_pb2.TuneModelRequest(spec={"scaler": made}),
        "OptimizeDesign": optimize_pb2.OptimizeDesignRequest(
            spec={"design": made, "goals": "minimize cost"}
        ),
        "SubmitQuery": query_pb2.SubmitQueryRequest(
            # A line break: SQL of the server itself is on one line when it leaks.
            user_query="select\n1",
            parameters=[{"name": "a", "value": "b"}],
        ),
        "CreateKit": pb.CreateKitRequest(name="a", jobs=[job]),
        "CreateJob": pb.CreateJobRequest(job=job),
        "CancelJobs": pb.CancelJobsRequest(dry_run=True, filter=pb.JobFilter(kit_ids=[1])),
        "RetryJobs": pb.RetryJobsRequest(dry_run=True, filter=pb.JobFilter(kit_ids=[1])),
        "AppendStates": pb.AppendStatesRequest(states=[row]),
        "StreamStates": pb.StreamStatesRequest(number=1, states=[row]),
        "WatchMany": pb.WatchManyRequest(open=pb.OpenWatch(name="a")),
        "LeaseJobs": pb.LeaseJobsRequest(hello=hello),
        "AnnounceService": pb.AnnounceServiceRequest(
            service={"name": "a", "address": "127.0.0.1:1", "status": "SERVING"}
        ),
        "CreateToken": pb.CreateTokenRequest(name="a", role=1, project="a"),
        "RevokeToken": pb.RevokeTokenRequest(token_id=suite.job_id),
        "CreateSchedule": pipeline_pb2.CreateScheduleRequest(
            name="a", timing={"cron": "@daily"}, kit_yaml="name: k"
        ),
        "UpdateSchedule": pipeline_pb2.UpdateScheduleRequest(name="a", timing={"cron": "@daily"}),
        "GetSchedule": pipeline_pb2.GetScheduleRequest(name="a"),
        "AddSchedule": schedules_pb2.AddScheduleRequest(
            name="a", timing={"cron": "@daily"}, kit={"name": "a", "jobs": [job]}
        ),
        "ChangeSchedule": schedules_pb2.ChangeScheduleRequest(
            name="a", timing={"cron": "@daily"}, change_notify=True
        ),
        "FindSchedules": schedules_pb2.FindSchedulesRequest(name="a"),
        "RemoveSchedule": schedules_pb2.RemoveScheduleRequest(name="a"),
        "AddFire": schedules_pb2.AddFireRequest(name="a"),
        "PlanFires": schedules_pb2.PlanFiresRequest(
            schedule_id=made, handled_until={}, next_time={}, fires=[{"fire_time": {}, "state": 2}]
        ),
        "StartFire": schedules_pb2.StartFireRequest(schedule_id=made, fire_time={}),
        "SetWebhook": outbox_pb2.SetWebhookRequest(
            name="a", url="https://a.example", secrets=["whsec_" + "A" * 32]
        ),
        "TestWebhook": outbox_pb2.TestWebhookRequest(name="a"),
        "DeleteWebhook": outbox_pb2.DeleteWebhookRequest(name="a"),
        "RetryDelivery": outbox_pb2.RetryDeliveryRequest(delivery_id=1),
        "LeaseDeliveries": outbox_pb2.LeaseDeliveriesRequest(limit=1),
        "ReportDelivery": outbox_pb2.ReportDeliveryRequest(delivery_id=1, lease=made),
        "GetDataset": datasets_pb2.GetDatasetRequest(dataset="a"),
        "ListDatasetVersions": datasets_pb2.ListDatasetVersionsRequest(dataset="a"),
        "UpdateDataset": datasets_pb2.UpdateDatasetRequest(dataset="a"),
        "SetDatasetAlias": datasets_pb2.SetDatasetAliasRequest(dataset="a", alias="b", version=1),
        "PinDatasetVersion": datasets_pb2.PinDatasetVersionRequest(dataset="a", version=1),
        "DeleteDataset": datasets_pb2.DeleteDatasetRequest(dataset="a", version=1),
        "RecordDatasetVersion": datasets_pb2.RecordDatasetVersionRequest(
            job_id=made, dataset="a", manifest=b'{"format": 1, "tables": []}'
        ),
    }


def base_of(method: MethodDescriptor, known: dict[str, Any], suite: Suite) -> Any:
    made = known.get(method.name)
    if made is None:
        made = method.input_type._concrete_class()
        for field in method.input_type.fields:
            if field.name in ("kit_id", "job_id"):
                setattr(made, field.name, 1 if field.name == "kit_id" else suite.job_id)
    return made


def waits(attack: Attack) -> bool:
    """Whether it asks for a revision, or for lines of a log, that never come."""
    return attack.path in ("min_revision", "follow") and not attack.refused


def messages(attack: Attack) -> list[bytes]:
    """What is sent: before whatever else a worker says it introduces itself."""
    message = attack.message
    if attack.path.startswith(TAMED):
        said = getattr(message, message.WhichOneof("message"))
        for each in (*getattr(said, "running", ()), *getattr(said, "attempts", ())) or (said,):
            each.job_id = str(uuid.UUID(int=1))
    name = f"w{id(attack)}"
    if attack.path.startswith("hello") and attack.path != "hello.worker":
        message.hello.worker = name
    sent = [message.SerializeToString()]
    if attack.path.startswith(("heartbeat", "release")):
        hello = pb.WorkerHello(worker=name, job_types=[3], capacity=1)
        sent.insert(0, pb.LeaseJobsRequest(hello=hello).SerializeToString())
    return sent


def refused(method: MethodDescriptor, attack: Attack, outcome: Outcome) -> bool:
    """Whether a value that cannot be was refused under the name of its field."""
    if method.name in REPORTED or attack.path in HARMLESS:
        return True
    if method.containing_service.name not in OF_THE_REGISTRY:
        return outcome.code in {Code.INVALID_ARGUMENT, *ELSEWISE}
    whole = attack.path.removesuffix("[0]")
    # A request that is too large as a whole is refused by its length, under the full name.
    if (
        attack.what.startswith("long")
        and outcome.code is Code.INVALID_ARGUMENT
        and any(name.startswith(whole) for name in outcome.fields)
    ):
        return True
    if attack.path.startswith(TAMED):
        return outcome.code is Code.OK
    if attack.path.endswith("epoch"):
        return outcome.code in ELSEWISE
    path = attack.path.removeprefix("open.watch.").removesuffix("[0]")
    named = any(name.startswith(path) for name in outcome.fields)
    return outcome.code is Code.INVALID_ARGUMENT and named


async def test_a_bad_value_is_refused_under_the_name_of_its_field(suite: Suite) -> None:
    wrong, count = [], 0
    known = good(suite)
    for method in methods():
        base = base_of(method, known, suite)
        made = [each for each in attacks(base) if each.path not in IGNORED and not waits(each)]
        outcomes = await suite.call_all([(method, messages(each)) for each in made])
        for attack, outcome in zip(made, outcomes, strict=True):
            place = f"{method.name} {attack.path} {attack.what}"
            if outcome.bad:
                wrong.append(f"{place}: {outcome.bad}")
            elif attack.refused and not refused(method, attack, outcome):
                wrong.append(f"{place}: {outcome.code.name} {outcome.told[:150]!r}")
        count += len(made)
    assert not wrong, "\n".join(wrong)
    assert count > 2_000
    await suite.smoke()


async def test_messages_of_anything_are_answered_and_tell_nothing_of_the_insides(
    suite: Suite,
) -> None:
    chance = random.Random(SEED)
    wrong = []
    for method in methods():
        bodies = [anything(method.input_type, chance).SerializeToString() for _ in range(MESSAGES)]
        outcomes = await suite.call_all([(method, (body,)) for body in bodies], seconds=3)
        wrong += [f"{method.name}: {each.bad}" for each in outcomes if each.bad]
    assert not wrong, "\n".join(wrong)
    await suite.smoke()


async def test_a_token_that_was_made_up_finds_a_page_or_nothing(suite: Suite) -> None:
    wrong = []
    for method in methods():
        if "page_token" not in method.input_type.fields_by_name:
            continue
        if method.containing_service.name not in OF_THE_REGISTRY:
            continue
        request = method.input_type._concrete_class()
        for key in (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1):
            request.page_token = ""
            request.page_token = pages.encode(key, request)
            outcome = await suite.call(method, request.SerializeToString())
            if outcome.bad or outcome.code not in {Code.OK, Code.INVALID_ARGUMENT}:
                wrong.append(f"{method.name} {key}: {outcome}")
    assert not wrong, "\n".join(wrong)

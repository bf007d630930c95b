"""Events on their way to webhooks: a real registry, a real worker, a real receiver."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import shutil
import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from tests.integration.pipeline.receiver import Message, Receiver, receiving
from tests.integration.registry.datasets import recording
from tests.integration.stages import refused
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2 as pb_schedules
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.tasks import ended
from vistaflow_services.pipeline.deliveries import loop
from vistaflow_services.pipeline.deliveries.loop import Courier
from vistaflow_services.pipeline.deliveries.sender import Sender
from vistaflow_services.pipeline.schedules.loop import Scheduler
from vistaflow_services.registry.__main__ import PACKAGE, Registry
from vistaflow_services.registry.config import Config as RegistryConfig
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import migrate
from vistaflow_services.registry.outbox.events import Event, add_events

CANARY = b"a canary that must not be seen 1"
SECRET = "whsec_" + base64.b64encode(CANARY).decode()
OTHER = "whsec_" + base64.b64encode(b"another secret of a good length!").decode()
FAILED, FINISHED, CANCELED = (
    common_pb2.STATUS_FAILED,
    common_pb2.STATUS_FINISHED,
    common_pb2.STATUS_CANCELED,
)


@dataclass
class Post:
    """A registry with its outbox, whose clock can be moved ahead."""

    registry: Registry
    client: RegistryClient
    ahead: timedelta = timedelta()

    def __post_init__(self) -> None:
        # Longer than a machine under load takes to send one.
        self.registry.outbox.lease = timedelta(seconds=30)
        self.registry.outbox.clock = lambda: datetime.now(UTC) + self.ahead

    async def call(self, method: str, request: Any) -> Any:
        return await self.client.call(getattr(self.client.outbox, method), request, patience=0)

    async def hook(self, name: str, url: str, *events: str, **fields: Any) -> pb.Webhook:
        request = pb.SetWebhookRequest(
            name=name, url=url, events=events, **{"secrets": [SECRET], **fields}
        )
        return (await self.call("SetWebhook", request)).webhook

    async def put(self, key: str = "k", count: int = 1, project: str = "default") -> None:
        """Records backup alarms of one key, numbered from 0."""
        for number in range(count):
            event = Event(
                event_id=uuid.uuid4(),
                event_type="backup.alarm",
                project=project,
                order_key=key,
                data={"key": key, "number": number},
            )
            await self.record(event)

    async def record(self, event: Event) -> int:
        """Records an event as the registry does; returns for how many webhooks."""

        async def work(connection: Any) -> int:
            async with connection.transaction():
                return await add_events(connection, [event], self.registry.outbox.clock())

        return await self.registry.outbox._connections.use(work)

    async def deliveries(self, **fields: Any) -> list[pb.Delivery]:
        return list(
            (await self.call("ListDeliveries", pb.ListDeliveriesRequest(**fields))).deliveries
        )

    async def until(self, state: str, count: int = 1) -> list[pb.Delivery]:
        async with asyncio.timeout(120):
            while True:
                found = await self.deliveries(state=f"DELIVERY_STATE_{state}")
                if len(found) >= count:
                    return found
                await asyncio.sleep(0.02)

    async def until_tried(self, count: int = 1) -> pb.Delivery:
        """Waits until the newest delivery was tried so often, and waits again."""
        async with asyncio.timeout(120):
            while True:
                (newest, *_) = await self.deliveries(page_size=1)
                if newest.attempt_count >= count and newest.error:
                    return newest
                await asyncio.sleep(0.02)

    async def waiting_or_dead(self) -> pb.Delivery:
        """The oldest delivery once it was tried and waits, or is dead."""
        async with asyncio.timeout(120):
            while True:
                oldest = (await self.deliveries())[-1]
                due = oldest.next_time.ToDatetime(UTC) - self.ahead
                is_waiting = oldest.error and due > datetime.now(UTC)
                if is_waiting or oldest.state == pb.DELIVERY_STATE_DEAD:
                    return oldest
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def courier(self) -> AsyncIterator[None]:
        """A worker in this process."""
        task = asyncio.create_task(Courier(self.client, Sender("0")).run())
        try:
            yield
        finally:
            await ended([task])


@pytest.fixture
async def post(running: Registry, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Post]:
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.05)
    client = RegistryClient(running.address)
    yield Post(running, client)
    await client.close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", receiver.place)
        yield receiver


def verified(message: Message, secret: str) -> bool:
    """Whether a message is signed by a secret: what docs/notifications.md shows receivers."""
    headers = message.headers
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + message.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in headers["webhook-signature"].split()


async def kit(post: Post, status: int, **fields: Any) -> int:
    """A kit with one job done outside, which ends in a status."""
    job = registry_pb2.NewJob(name="fit", job_type=common_pb2.JOB_TYPE_ML_TRAIN)
    request = registry_pb2.CreateKitRequest(name="beam", jobs=[job], **fields)
    made = (await post.client.create_kit(request)).kit
    if status == CANCELED:
        cancel = registry_pb2.CancelKitRequest(kit_id=made.kit_id)
        await post.client.call(post.client.stub.CancelKit, cancel)
        return int(made.kit_id)
    for seq, entered in enumerate((common_pb2.STATUS_RUNNING, status), start=1):
        state = common_pb2.State(
            job_id=made.jobs[0].job_id, status=entered, attempt=1, seq=seq, reason="no convergence"
        )
        answer = await post.client.append([state])
        assert answer.results[0].verdict == registry_pb2.VERDICT_ACCEPTED, answer
    return int(made.kit_id)


async def test_a_message_is_signed_by_each_secret_and_says_what_happened(
    post: Post, receiver: Receiver
) -> None:
    hook = await post.hook("ops", receiver.url, "kit.failed", secrets=[SECRET, OTHER])
    assert (hook.secret_count, list(hook.events)) == (2, ["kit.failed"])
    async with post.courier():
        for status in (FINISHED, FAILED, CANCELED):
            kit_id = await kit(post, status, labels={"lot": "7"})
        (message,) = await receiver.until(1)
        (delivery,) = await post.until("SENT")

    assert verified(message, SECRET)
    assert verified(message, OTHER)
    assert not verified(message, SECRET[:-4] + "AAA=")
    body = message.json
    assert message.headers["webhook-id"] == body.pop("id") == delivery.event_id
    assert datetime.fromisoformat(body.pop("time")) <= datetime.now(UTC)
    job = body.pop("job")
    assert (job["name"], job["job_type"], job["reason"]) == ("fit", "ML_TRAIN", "no convergence")
    assert body == {
        "type": "kit.failed",
        "project": "default",
        "kit": {"kit_id": kit_id - 1, "name": "beam", "status": "FAILED", "labels": {"lot": "7"}},
        "link": f"/v1/kits/{kit_id - 1}",
    }


async def test_a_kit_that_is_retried_ends_again_and_a_kit_names_its_own_webhooks(
    post: Post, receiver: Receiver
) -> None:
    await post.hook("ops", receiver.url)
    fields: dict[str, Any] = {"spec": {"notify": [{"webhook": "ops", "events": ["FAILED"]}, 7, {}]}}
    async with post.courier():
        for status in (FINISHED, CANCELED, FAILED):
            kit_id = await kit(post, status, **fields)
        await receiver.until(1)
        made = await post.client.retry_kit(registry_pb2.RetryKitRequest(kit_id=kit_id))
        for seq, status in enumerate((common_pb2.STATUS_RUNNING, FAILED), start=1):
            state = common_pb2.State(
                job_id=made.kit.jobs[0].job_id, status=status, attempt=2, seq=seq, reason="again"
            )
            await post.client.append([state])
        messages = await receiver.until(2)
    assert [(m.json["kit"]["kit_id"], m.json["job"]["reason"]) for m in messages] == [
        (kit_id, "no convergence"), (kit_id, "again"),
    ]  # fmt: skip
    assert messages[0].headers["webhook-id"] != messages[1].headers["webhook-id"]


async def test_a_receiver_that_hangs_or_fails_delays_no_other_and_order_is_kept(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as slow, receiving() as broken:
        places = ",".join(each.place for each in (receiver, slow, broken))
        monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", places)
        slow.answer = lambda message: 0
        broken.answer = lambda message: 500
        for name, each in (("good", receiver), ("slow", slow), ("broken", broken)):
            await post.hook(name, each.url, "backup.alarm")
        async with post.courier():
            for key in "abcdef":
                await post.put(key, 10)
            messages = await receiver.until(60)
            # Both get the first of each key, again and again.
            assert {m.json["number"] for m in [*slow.messages, *broken.messages]} == {0}
            slow.over.set()
    order: dict[str, list[int]] = {}
    for message in messages:
        order.setdefault(message.json["key"], []).append(message.json["number"])
    assert order == {key: list(range(10)) for key in "abcdef"}


async def test_a_target_that_is_down_for_a_day_is_given_up_and_sent_to_again_by_hand(
    post: Post, receiver: Receiver
) -> None:
    receiver.answer = lambda message: 503
    await post.hook("ops", receiver.url, "backup.alarm")
    await post.put("k", 2)
    async with post.courier():
        waits: list[float] = []
        while True:
            newest = await post.waiting_or_dead()
            if newest.state == pb.DELIVERY_STATE_DEAD:
                break
            wait = newest.next_time.ToDatetime(UTC) - newest.updated_at.ToDatetime(UTC)
            waits.append(wait.total_seconds())
            post.ahead += wait
        dead = newest
        assert dead.error == "answered 503: not today second line"
        assert dead.answer_status == 503
        # It grows from seconds to hours, and what follows it goes on.
        assert waits[0] < 10 < 1800 < max(waits) <= 86_400
        assert sum(waits) >= 86_300
        follower = (await post.deliveries())[0]
        assert follower.state == pb.DELIVERY_STATE_PENDING

        receiver.answer = lambda message: 201
        retry = pb.RetryDeliveryRequest(delivery_id=dead.delivery_id, request_id=str(uuid.uuid4()))
        await post.call("RetryDelivery", retry)
        post.ahead += timedelta(days=1)
        messages = await receiver.until(2)
        await post.until("SENT", 2)
        # A repeat of the request is answered, although there is nothing to retry any more.
        assert (await post.call("RetryDelivery", retry)).delivery.state == pb.DELIVERY_STATE_SENT
    assert {m.headers["webhook-id"] for m in messages} >= {dead.event_id}
    retry.request_id = ""
    with pytest.raises(Exception, match="it is SENT; only one that is DEAD"):
        await post.call("RetryDelivery", retry)


@pytest.mark.parametrize(
    ("status", "error", "state"),
    [
        (302, "answered 302; redirects are not followed", "PENDING"),
        (404, "answered 404: not today second line", "PENDING"),
        (410, "answered 410: not today second line", "DEAD"),
        (-1, "cannot be reached (RemoteProtocolError)", "PENDING"),
    ],
)
async def test_what_a_receiver_answers_is_on_record(
    post: Post, receiver: Receiver, status: int, error: str, state: str
) -> None:
    receiver.answer = lambda message: status
    await post.hook("ops", receiver.url, "backup.alarm")
    await post.put()
    async with post.courier():
        tried = await post.until_tried()
    assert (tried.error, tried.answer_status) == (error, max(0, status))
    assert tried.state == pb.DeliveryState.Value(f"DELIVERY_STATE_{state}")


async def test_a_receiver_says_when_to_come_back(post: Post, receiver: Receiver) -> None:
    receiver.answer, receiver.retry_after = lambda message: 429, "3600"
    await post.hook("ops", receiver.url, "backup.alarm")
    await post.put()
    async with post.courier():
        tried = await post.until_tried()
    assert tried.next_time.ToNanoseconds() - tried.updated_at.ToNanoseconds() >= 3600 * 10**9


async def test_a_worker_that_dies_after_sending_sends_again_under_the_same_id_in_order(
    post: Post, receiver: Receiver, tmp_path: Path
) -> None:
    await post.hook("ops", receiver.url, "backup.alarm")
    await post.put("k", 3)

    async def worker(failpoint: str = "") -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vistaflow_services.pipeline",
            env={
                **os.environ,
                "VISTAFLOW_HOME": str(tmp_path),
                "VISTAFLOW_REGISTRY": post.registry.address,
                "VISTAFLOW_PIPELINE_LISTEN": "127.0.0.1:0",
                "VISTAFLOW_FAILPOINT": failpoint,
            },
            stderr=asyncio.subprocess.DEVNULL,
        )

    first = await worker("delivery.before_report=kill@2")
    assert await first.wait() == -signal.SIGKILL
    assert [message.json["number"] for message in receiver.taken] == [0, 1]
    post.ahead += 2 * post.registry.outbox.lease
    second = await worker()
    try:
        messages = await receiver.until(4)
        await post.until("SENT", 3)
    finally:
        second.terminate()
        await second.wait()
    assert [message.json["number"] for message in messages] == [0, 1, 1, 2]
    ids = [message.headers["webhook-id"] for message in messages]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3


async def test_many_workers_send_each_delivery_once_in_order(
    post: Post, receiver: Receiver
) -> None:
    await post.hook("ops", receiver.url, "backup.alarm")
    for key in "ab":
        await post.put(key, 20)
    async with post.courier(), post.courier(), post.courier():
        messages = await receiver.until(40)
        await post.until("SENT", 40)
    assert Counter((m.json["key"], m.json["number"]) for m in messages).most_common(1)[0][1] == 1
    for key in "ab":
        assert [m.json["number"] for m in messages if m.json["key"] == key] == list(range(20))


async def test_a_webhook_names_hosts_of_the_operator_only(
    post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = post.client.outbox
    for fields, place, problem in (
        (
            {"url": "http://169.254.169.254/latest"},
            "url",
            "is no host that the operator lets be called",
        ),
        ({"url": "http://127.0.0.1:1/"}, "url", "VISTAFLOW_WEBHOOK_HOSTS"),
        ({"url": "file:///etc/passwd"}, "url", "http(s)://"),
        ({"url": receiver.url.replace("//", "//me:secret@")}, "url", "user or password"),
        ({"secrets": ["hunter2"]}, "secrets[0]", "whsec_"),
        ({"secrets": []}, "secrets", "is required"),
        ({"secrets": [SECRET] * 3}, "secrets", "at most 2"),
        ({"events": ["kit.exploded"]}, "events[0]", "kit.failed"),
        ({"name": "Not a name"}, "name", "a-z"),
    ):
        request = {"name": "ops", "url": receiver.url, "secrets": [SECRET]} | fields
        code, mistakes = await refused(stub.SetWebhook(pb.SetWebhookRequest(**request)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, fields
        assert problem in str(mistakes), (mistakes, problem)
        assert place in str(mistakes)
        assert "hunter2" not in str(mistakes)
    # The connection checks the host again: the operator may have removed it since.
    await post.hook("ops", receiver.url, "backup.alarm")
    monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", "")
    await post.put()
    async with post.courier():
        tried = await post.until_tried()
    assert tried.error.startswith(f"{receiver.place} is no host that the operator lets be called")
    assert receiver.messages == []


async def test_a_secret_is_nowhere_to_be_read(
    post: Post, receiver: Receiver, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hook = await post.hook("ops", receiver.url, "backup.alarm", request_id=str(uuid.uuid4()))
    answer = await post.call("ListWebhooks", pb.ListWebhooksRequest())
    trail = await post.client.call(
        post.client.stub.ListRequests, registry_pb2.ListRequestsRequest()
    )
    await post.put()
    async with post.courier():
        (message,) = await receiver.until(1)
    with psycopg.connect(database) as connection:
        rows = [
            str(connection.execute(f"SELECT * FROM vistadb_test.{table}").fetchall())
            for table in ("webhooks", "deliveries", "request_info")
        ]
    seen = [str(hook), str(answer), str(trail), str(message.headers), caplog.text, *rows]
    for text in seen:
        for secret in (SECRET, SECRET.removeprefix("whsec_"), CANARY.decode(), CANARY.hex()):
            assert secret not in text
    assert trail.requests[0].method == "SetWebhook"


async def test_a_webhook_is_changed_in_part_and_dies_with_what_waits_for_it(
    post: Post, receiver: Receiver
) -> None:
    await post.hook("ops", receiver.url, "backup.alarm")
    changed = await post.call(
        "SetWebhook", pb.SetWebhookRequest(name="ops", secrets=[OTHER, SECRET])
    )
    assert (changed.webhook.url, list(changed.webhook.events), changed.webhook.secret_count) == (
        receiver.url, ["backup.alarm"], 2,
    )  # fmt: skip
    changed = await post.call("SetWebhook", pb.SetWebhookRequest(name="ops", change_events=True))
    assert list(changed.webhook.events) == []
    test = (await post.call("TestWebhook", pb.TestWebhookRequest(name="ops"))).delivery
    assert (test.event_type, test.state) == ("webhook.test", pb.DELIVERY_STATE_PENDING)
    await post.call("DeleteWebhook", pb.DeleteWebhookRequest(name="ops"))
    (dead,) = await post.until("DEAD")
    assert dead.error == "the webhook was deleted"
    code, _ = await refused(
        post.client.outbox.RetryDelivery(pb.RetryDeliveryRequest(delivery_id=dead.delivery_id))
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    code, _ = await refused(post.client.outbox.TestWebhook(pb.TestWebhookRequest(name="ops")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_an_alias_of_a_dataset_is_announced_once_it_moves(
    post: Post, receiver: Receiver
) -> None:
    await post.hook("ops", receiver.url, "dataset.version", "dataset.alias")
    async with grpc.aio.insecure_channel(post.registry.address) as channel:
        await recording.Client(channel).record("reviews", {"a": 1}, alias="final")
    stub = post.client.datasets
    for version in (1, 0):
        alias = datasets_pb2.SetDatasetAliasRequest(
            dataset="reviews", alias="final", version=version
        )
        await post.client.call(stub.SetDatasetAlias, alias)
    async with post.courier():
        messages = await receiver.until(3)
    assert [(m.json["type"], m.json["dataset"]["version"]) for m in messages] == [
        ("dataset.version", 1), ("dataset.alias", 1), ("dataset.alias", 0),
    ]  # fmt: skip
    version = messages[0].json
    assert version["dataset"]["aliases"] == ["final"]
    assert version["link"] == "/v1/datasets/default.reviews@1"


async def fire(post: Post, name: str, state: int, hours: int) -> pb_schedules.PlanFiresResponse:
    """Plans a fire of a schedule."""
    stub, call = post.client.schedules, post.client.call
    found = pb_schedules.FindSchedulesRequest(name=name)
    (schedule,) = (await call(stub.FindSchedules, found)).schedules
    plan = pb_schedules.PlanFiresRequest(
        schedule_id=schedule.schedule_id, revision=schedule.revision
    )
    time = datetime(2026, 11, 21, hours, tzinfo=UTC)
    plan.handled_until.FromDatetime(time)
    plan.next_time.FromDatetime(time + timedelta(hours=1))
    plan.fires.add(state=state, reason="late").fire_time.FromDatetime(time)
    return await call(stub.PlanFires, plan)


async def test_a_schedule_notifies_of_fires_without_a_kit_and_of_the_ends_of_its_kits(
    post: Post, receiver: Receiver
) -> None:
    await post.hook("ops", receiver.url)
    await post.hook("all", receiver.url, "schedule.overdue", secrets=[OTHER])
    kit_request = registry_pb2.CreateKitRequest(
        name="beam", jobs=[registry_pb2.NewJob(name="q", job_type=common_pb2.JOB_TYPE_QUERY)]
    )
    for name, notify in (("nightly", [pb.Notify(webhook="ops")]), ("quiet", [])):
        request = pb_schedules.AddScheduleRequest(
            name=name,
            timing=pb_schedules.Timing(cron="0 0 29 2 *"),
            kit=kit_request,
            notify=notify,
        )
        added = await post.client.call(post.client.schedules.AddSchedule, request)
        assert list(added.schedule.notify) == notify
    states = (
        pb_schedules.FIRE_STATE_MISSED, pb_schedules.FIRE_STATE_PENDING,
        pb_schedules.FIRE_STATE_SKIPPED,
    )  # fmt: skip
    for hours, state in enumerate(states):
        for name in ("nightly", "quiet"):
            assert (await fire(post, name, state, hours)).planned
    await Scheduler(post.client).look()
    kits = await post.client.call(post.client.stub.ListKits, registry_pb2.ListKitsRequest())
    for each in kits.kits:
        cancel = registry_pb2.CancelKitRequest(kit_id=each.kit_id)
        await post.client.call(post.client.stub.CancelKit, cancel)
    async with post.courier():
        messages = await receiver.until(7)
        await post.until("SENT", 7)
    got = Counter(
        (
            "ops" if verified(message, SECRET) else "all",
            message.json["schedule"]["name"],
            message.json["type"],
            message.json["schedule"].get("state", ""),
        )
        for message in messages
    )
    assert got == {
        ("ops", "nightly", "schedule.overdue", "MISSED"): 1,
        ("ops", "nightly", "schedule.overdue", "SKIPPED"): 1,
        ("ops", "nightly", "kit.canceled", ""): 1,
        **{
            ("all", name, "schedule.overdue", state): 1
            for name in ("nightly", "quiet")
            for state in ("MISSED", "SKIPPED")
        },
    }
    change = pb_schedules.ChangeScheduleRequest(name="nightly", change_notify=True)
    changed = await post.client.call(post.client.schedules.ChangeSchedule, change)
    assert list(changed.schedule.notify) == []


async def test_an_event_is_recorded_once(post: Post, receiver: Receiver) -> None:
    await post.hook("ops", receiver.url, "backup.alarm")
    await post.hook("named", receiver.url)
    await post.hook("other", receiver.url, "kit.failed")
    event = Event(
        event_id=uuid.uuid4(),
        event_type="backup.alarm",
        project="default",
        order_key="backup:nightly",
        data={"backup": {"name": "nightly", "age_hours": 50}},
        names=["named"],
    )
    assert [await post.record(event) for _ in range(2)] == [2, 0]
    async with post.courier():
        messages = await receiver.until(2)
        await post.until("SENT", 2)
    assert [message.json["backup"]["age_hours"] for message in messages] == [50, 50]
    assert {message.json["id"] for message in messages} == {str(event.event_id)}


async def test_a_database_that_restarts_loses_and_repeats_no_event(
    serve: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "LOOK_SECONDS", 0.05)
    home = Path(tempfile.mkdtemp(prefix="vistaflow-test-"))
    postgres = EmbeddedPostgres(home)
    try:
        conninfo = await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(migrate, conninfo, RegistryConfig.schema, PACKAGE)
        async with serve(conninfo) as registry:
            client = RegistryClient(registry.address)
            post = Post(registry, client)
            await post.hook("ops", receiver.url, "backup.alarm", "kit.finished")
            async with post.courier():
                await post.put("k", 3)
                await receiver.until(1)
                await asyncio.to_thread(postgres.stop)
                await asyncio.to_thread(postgres.start)
                kit_id = await kit(post, FINISHED)
                await post.until("SENT", 4)
                messages = receiver.taken
            await client.close()
    finally:
        await asyncio.to_thread(postgres.stop)
        shutil.rmtree(home, ignore_errors=True)
    # One that was sent while the database stopped may be sent again.
    seen = dict.fromkeys(m.headers["webhook-id"] for m in messages)
    assert len(seen) == 4
    assert [m.json["number"] for m in messages if "number" in m.json][:1] == [0]
    assert [m.json["kit"]["kit_id"] for m in messages if "kit" in m.json] == [kit_id]

"""AnnounceService and GetServerInfo through gRPC."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import grpc
import pytest

from vistaflow.api.registry.v1 import registry_pb2 as pb

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig
from traffic import external_job


async def test_a_client_learns_of_every_service_from_the_registry_alone(rig: Rig) -> None:
    begun = int(time.time())
    service = pb.ServiceInfo(name="doe", address="127.0.0.1:4001", version="1.0", status="SERVING")
    await rig.stub.AnnounceService(pb.AnnounceServiceRequest(service=service))
    await external_job(rig.stub)
    info = await rig.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert [(s.name, s.address, s.status) for s in info.services] == [
        ("registry", rig.address, "SERVING"),
        ("doe", "127.0.0.1:4001", "SERVING"),
    ]
    assert all(begun <= s.seen_at.ToSeconds() <= time.time() for s in info.services)
    assert (info.revision, info.oldest_revision) == (2, 1)
    assert info.epoch == rig.ledger.epoch
    assert info.database_schema == "vistadb_test"
    assert begun <= info.now.ToSeconds() <= time.time()


async def test_a_malformed_announcement_is_refused(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await rig.stub.AnnounceService(pb.AnnounceServiceRequest())
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT

"""What `vistaflow doctor` finds out about the registry: every replica of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from vistaflow._rpc.replicas import addresses_of
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli.connection import CommandClient
from vistaflow.errors import VistaError

CLOCK_SECONDS: Final = 5.0
OF_THE_DATABASE: Final = (
    "disk", "long transactions", "oldest xmin", "max_connections", "append-only",
)  # fmt: skip
"""What every replica finds alike."""

CALLERS: Final = {
    "off": "no caller needs a token",
    "owner": "the user who started it needs no token, all others do",
    "required": "every caller needs a token",
}
"""The callers that are accepted, by the value of `auth` that the registry reports."""

STATES: Final = {
    pb.CHECK_STATE_OK: "ok",
    pb.CHECK_STATE_NOTE: "note",
    pb.CHECK_STATE_WRONG: "wrong",
}

Note = Callable[..., None]
"""Takes down what was looked at, its state, what was found, and the fix."""


def check_registries(note: Note, address: str, token: str, *, up_here: bool) -> None:
    """Looks at each replica of an address list.

    Args:
        note: Gets the findings.
        address: Of one or several.
        token: Shown to each.
        up_here: Whether a suite is up on this machine, so that none is wrong.
    """
    addresses = addresses_of(address)
    answers = asyncio.run(_ask_all(addresses, token))
    several = len(addresses) > 1
    shared: set[str] = set()
    for one, info in zip(addresses, answers, strict=True):
        where = f" {one}" if several else ""
        if isinstance(info, VistaError):
            wrong = up_here or several
            fix = "start it, or take it off the list of addresses" if several else ""
            summary = f"{one} does not answer: {info.message[:120]}"
            note(f"registry{where}", "wrong" if wrong else "note", summary, fix)
            continue
        note(f"registry{where}", "ok", f"answers, log at revision {info.revision}")
        _check_clock(note, where, info)
        if (auth := info.limits.get("auth")) in CALLERS:
            note(f"callers{where}", "note" if auth == "off" else "ok", CALLERS[auth])
        if info.caller.project:
            summary = "the checks of the database need a token for every project"
            note(f"database{where}", "note", summary)
        for finding in findings_of(info):
            if finding.name in shared:
                continue
            if finding.name in OF_THE_DATABASE:
                shared.add(finding.name)
                name = finding.name
            else:
                name = f"{finding.name}{where}"
            note(name, STATES.get(finding.state, "note"), finding.summary, finding.fix)
    _check_services(note, [answer for answer in answers if not isinstance(answer, VistaError)])


def findings_of(info: pb.GetServerInfoResponse) -> list[pb.CheckFinding]:
    """The results of a registry's checks, by name; of version 0.1 they are in `limits`."""
    findings = list(info.findings)
    if not findings:
        for key, text in info.limits.items():
            if key.startswith("check."):
                check = json.loads(text)
                findings.append(
                    pb.CheckFinding(
                        name=key.removeprefix("check."),
                        state=pb.CheckState.Value(f"CHECK_STATE_{check['state'].upper()}"),
                        summary=check["found"],
                        fix=check["fix"],
                    )
                )
    return sorted(findings, key=lambda finding: finding.name)


async def _ask_all(addresses: list[str], token: str) -> list[Any]:
    """What each registry says of itself, or the error."""

    async def ask(address: str) -> Any:
        try:
            async with CommandClient(address, timeout=3, token=token) as client:
                return await client.server_info()
        except VistaError as error:
            return error

    return await asyncio.gather(*map(ask, addresses))


def _check_clock(note: Note, where: str, info: Any) -> None:
    skew = abs(info.now.ToNanoseconds() / 1e9 - time.time())
    bad = skew >= CLOCK_SECONDS
    fix = "set this machine's clock, such as with NTP" if bad else ""
    note(f"clock{where}", "wrong" if bad else "ok", f"{skew:.1f} s from the database's", fix)


def _check_services(note: Note, infos: list[Any]) -> None:
    """What the replicas know of services, and whether they are replicas of one log."""
    if len({info.epoch for info in infos}) > 1:
        note(
            "replicas", "wrong", "the addresses serve different logs",
            "give all of them one VISTAFLOW_REGISTRY_DATABASE and schema",
        )  # fmt: skip
    statuses: dict[str, str] = {}
    for info in infos:
        for service in info.services:
            if service.name != "registry" and statuses.get(service.name) != "SERVING":
                statuses[service.name] = service.status
    for name, status in statuses.items():
        serving = status == "SERVING"
        fix = "" if serving else f"see `vistaflow logs {name}`"
        note(name, "ok" if serving else "wrong", status, fix)

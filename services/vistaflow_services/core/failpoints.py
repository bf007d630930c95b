"""Named points at which a test can make a process die, stall or fail.

`reached("append.after_commit")` does nothing unless the process was started with
`VISTAFLOW_FAILPOINT`, which says what is to happen where: `name=action`, several parted by `;`.

Actions are `kill` (SIGKILL), `stop` (SIGSTOP), `sleep(seconds)`, which blocks the whole process,
`error`, a lost connection as the caller sees it, and `count`, which does nothing. `@n` waits for
the n-th time the point is reached; `%p` acts with this chance each time. `*=count` counts all.

    VISTAFLOW_FAILPOINT="append.after_commit=kill@20;watch.before_send=sleep(0.05)%0.1"

Every point reached is counted in `hits`, and written, one name a line, to the file that
`VISTAFLOW_FAILPOINT_HITS` names, before anything happens: it survives what follows.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

POINTS = (
    "append.before_commit",
    "append.before_transaction_end",
    "append.after_commit",
    "append.before_publish",
    "append.before_answer",
    "append.after_answer",
    "artifact.before_rename",
    "artifact.after_rename",
    "delivery.before_report",
    "backup.after_dump",
    "backup.after_file",
    "backup.before_manifest",
    "backup.before_remove",
    "lease.before_grant",
    "lease.after_grant",
    "lease.before_renew",
    "lease.after_renew",
    "lease.before_lose",
    "result.part_stored",
    "schedule.before_plan",
    "schedule.before_start",
    "schedule.after_start",
    "watch.before_send",
    "watch.after_send",
)
"""Every point there is."""

_RULE = re.compile(
    r"(?P<name>[a-z_.]+|\*)=(?P<action>kill|stop|sleep|error|count)(\((?P<seconds>[0-9.]+)\))?"
    r"(@(?P<nth>[0-9]+))?(%(?P<chance>[0-9.]+))?"
)

hits: Counter[str] = Counter()
"""How often each point was reached, when failpoints are on."""


class FailpointError(ConnectionError):
    """What the action `error` raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens at a point."""

    name: str
    action: str
    seconds: float = 0.0
    nth: int = 0
    chance: float = 1.0


def parse(text: str) -> dict[str, Rule]:
    """Reads the value of `VISTAFLOW_FAILPOINT`.

    Raises:
        ValueError: It is malformed, or names a point that is not there.
    """
    rules: dict[str, Rule] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _RULE.fullmatch(part)
        if match is None:
            raise ValueError(f"VISTAFLOW_FAILPOINT: {part!r} is not <point>=<action>")
        name = match["name"]
        if name != "*" and name not in POINTS:
            raise ValueError(
                f"VISTAFLOW_FAILPOINT: there is no point {name!r}; there are {', '.join(POINTS)}"
            )
        rules[name] = Rule(
            name=name,
            action=match["action"],
            seconds=float(match["seconds"] or 0),
            nth=int(match["nth"] or 0),
            chance=float(match["chance"] or 1),
        )
    return rules


def _off(name: str, /) -> None:
    """Nothing happens here."""


def armed(text: str, hits_file: str = "") -> Callable[[str], None]:
    """What `reached` is in a process started with this setting."""
    rules = parse(text)
    if not rules:
        return _off
    file = os.open(hits_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if hits_file else -1

    def reached(name: str, /) -> None:
        hits[name] += 1
        if file >= 0:
            os.write(file, f"{name}\n".encode())
        rule = rules.get(name)
        if rule is None or (rule.nth and hits[name] != rule.nth):
            return
        if rule.chance < 1 and random.random() >= rule.chance:
            return
        match rule.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sleep":
                time.sleep(rule.seconds)
            case "error":
                raise FailpointError(f"failpoint {name}")

    return reached


reached = armed(
    os.environ.get("VISTAFLOW_FAILPOINT", ""), os.environ.get("VISTAFLOW_FAILPOINT_HITS", "")
)
"""Says that the process is at a point. Does nothing unless failpoints are on."""

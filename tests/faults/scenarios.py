"""What can be run: each scenario is a load, its faults, and what makes a run worth believing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults import faults as f
from tests.faults import jobs
from tests.faults.cluster import Cluster

Work = Callable[[Cluster, float, str], Awaitable[dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of run."""

    says: str
    faults: tuple[f.Fault, ...] = ()
    pause: tuple[float, float] = (0.3, 1.5)
    """Seconds between two faults."""
    peace: float = 1.0
    """Seconds of writing after the last fault."""
    replicas: int = 1
    seconds: float = 60.0
    """How long `make faults` runs it."""
    least_rate: float = 8.0
    """Acked appends a second below which the run says nothing."""
    least_faults: float = 0.04
    """Faults a second below which the run says nothing."""
    points: tuple[str, ...] = ()
    """Failpoints that must have been reached."""
    failpoints: str = ""
    """Failpoints that the registries have all the time."""
    recovery_seconds: float | None = 5.0
    """Longest time after a fault until writers and readers are served again."""
    disk_megabytes: int = 0
    """Size of the disk PostgreSQL lies on; 0: no disk of its own."""
    work: Work | None = None
    """What is done in place of appending, reading and watching."""


COMMIT_POINTS = (
    "append.before_commit",
    "append.after_commit",
    "append.before_publish",
    "append.before_answer",
    "append.after_answer",
)

SCENARIOS: dict[str, Scenario] = {
    "calm": Scenario(says="no fault at all: the measure of the others", least_faults=0),
    "kill-registry": Scenario(says="SIGKILL of the registry", faults=(f.kill_registry,)),
    "freeze-registry": Scenario(
        says="SIGSTOP of the registry", faults=(f.freeze_registry,), least_rate=4
    ),
    "kill-postgres": Scenario(
        says="SIGKILL of PostgreSQL", faults=(f.kill_postgres,), pause=(1.0, 3.0), least_rate=4
    ),
    "restart-postgres": Scenario(
        says="fast and immediate shutdowns of PostgreSQL",
        faults=(f.restart_postgres,),
        pause=(1.0, 3.0),
        least_rate=4,
    ),
    "freeze-postgres": Scenario(
        says="SIGSTOP of PostgreSQL", faults=(f.freeze_postgres,), least_rate=4
    ),
    "end-backends": Scenario(
        says="every database connection ended",
        faults=(f.end_backends,),
        pause=(2.7, 3.2),
        least_faults=0.15,
        recovery_seconds=2.5,
    ),
    "die-in-commit": Scenario(
        says="the registry dies before, in and after commits",
        faults=(f.die_at(*COMMIT_POINTS),),
        points=COMMIT_POINTS,
    ),
    "die-in-locked-commit": Scenario(
        says="one of two registries dies between a locked write and its commit",
        faults=(f.die_at("append.before_transaction_end", most=3),),
        replicas=2,
        points=("append.before_transaction_end",),
    ),
    "die-in-send": Scenario(
        says="the registry dies before and after it sends to a watcher",
        faults=(f.die_at("watch.before_send", "watch.after_send"),),
        points=("watch.before_send", "watch.after_send"),
    ),
    "slow-points": Scenario(
        says="the registry stalls at random in commits and sends, and is killed",
        faults=(f.kill_registry,),
        failpoints=";".join(
            f"{point}=sleep(0.02)%0.05"
            for point in (*COMMIT_POINTS, "watch.before_send", "watch.after_send")
        ),
        points=COMMIT_POINTS,
        least_rate=4,
    ),
    "proxy-clients": Scenario(
        says="delay, loss, cuts and half-open connections between clients and the registry",
        faults=(f.delay_door, f.cut_door, f.swallow_door, f.half_open_door),
        least_rate=4,
    ),
    "proxy-postgres": Scenario(
        says="the same between the registry and PostgreSQL",
        faults=(f.delay_line, f.cut_line, f.swallow_line, f.half_open_line),
        least_rate=2,
        # What is swallowed is noticed only by time: TCP's, then the statement's.
        recovery_seconds=12.0,
    ),
    "replicas": Scenario(
        says="two registries, of which one is killed, frozen or cut off at a time",
        faults=(f.kill_registry, f.freeze_registry, f.cut_line, f.delay_line, f.end_backends),
        replicas=2,
        least_rate=4,
    ),
    "calm-replicas": Scenario(says="two registries that write at once", replicas=2, least_faults=0),
    "missed-notices": Scenario(
        says="notifications between two registries get lost, above all the last",
        faults=(f.deafen,),
        pause=(0.1, 0.3),
        peace=0.03,
        replicas=2,
        least_faults=0.5,
    ),
    "everything": Scenario(
        says="two registries and every fault",
        faults=(
            f.kill_registry,
            f.freeze_registry,
            f.kill_postgres,
            f.restart_postgres,
            f.freeze_postgres,
            f.end_backends,
            f.delay_door,
            f.cut_door,
            f.swallow_door,
            f.half_open_door,
            f.delay_line,
            f.cut_line,
            f.die_at(*COMMIT_POINTS, "watch.before_send", "watch.after_send"),
        ),
        replicas=2,
        seconds=300.0,
        least_rate=2,
        recovery_seconds=None,
    ),
    "disk-full": Scenario(
        says="no room for PostgreSQL for a while",
        faults=(f.fill_disk,),
        pause=(3.0, 6.0),
        disk_megabytes=200,
        least_rate=2,
        recovery_seconds=30.0,
    ),
    "zombie-workers": Scenario(
        says="workers frozen past their leases finish what is no longer theirs",
        work=jobs.zombies,
        least_rate=0,
        points=("lease.before_lose",),
        recovery_seconds=None,
    ),
    "poison-jobs": Scenario(
        says="jobs that kill their worker, beside jobs that do not",
        work=jobs.poison,
        least_rate=0,
        least_faults=0.01,
        recovery_seconds=None,
        points=("lease.before_grant", "lease.after_grant"),
    ),
    "die-in-leases": Scenario(
        says="the registry dies around grants and renewals while workers work",
        faults=(
            f.die_at(
                "lease.before_grant",
                "lease.after_grant",
                "lease.before_renew",
                "lease.after_renew",
                most=4,
            ),
        ),
        work=jobs.flow,
        least_rate=0,
        points=(
            "lease.before_grant",
            "lease.after_grant",
            "lease.before_renew",
            "lease.after_renew",
        ),
        recovery_seconds=None,
    ),
}
"""Every scenario, by name."""

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
    """One kind of run. The least of everything is meant for a run of `seconds`."""

    says: str
    faults: tuple[f.Fault, ...] = ()
    pause: tuple[float, float] = (0.3, 1.2)
    """Seconds between two faults."""
    peace: float = 1.0
    """Seconds of writing after the last fault."""
    to_the_last_row: bool = False
    """Whether in place of peace the fault goes on until the last writer has ended."""
    replicas: int = 1
    seconds: float = 60.0
    """How long `make faults` runs it."""
    least_faults: int = 10
    """Faults below which the run says nothing."""
    least_deaths: int = 0
    """Deaths at each of `points` below which the run says nothing."""
    least_rate: float = 8.0
    """Acked appends a second below which the run says nothing."""
    least_delivered_rate: float = 200.0
    """Rows delivered to watchers a second below which the run says nothing."""
    points: tuple[str, ...] = ()
    """Failpoints that must have been reached."""
    failpoints: str = "*=count"
    """Failpoints that the registries have all the time."""
    variant: str = ""
    """What ails the registries all the time."""
    recovery_seconds: float | None = 6.0
    """Longest time after a fault until writers and readers are served again."""
    past_seconds: float | None = None
    """Longest time of a read that needs the database, after a fault."""
    lag_seconds: float | None = None
    """Longest time from an answer to its arrival at watchers."""
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
SEND_POINTS = ("watch.before_send", "watch.after_send")
LEASE_POINTS = (
    "lease.before_grant",
    "lease.after_grant",
    "lease.before_renew",
    "lease.after_renew",
    "lease.before_lose",
)

SCENARIOS: dict[str, Scenario] = {
    "calm": Scenario(
        says="no fault at all: the measure of the others",
        seconds=20.0,
        least_faults=0,
        least_rate=20,
        lag_seconds=5.0,
    ),
    "kill-registry": Scenario(
        says="SIGKILL of the registry",
        faults=(f.kill_registry,),
        seconds=90.0,
        least_faults=25,
    ),
    "freeze-registry": Scenario(
        says="SIGSTOP of the registry, mostly for moments",
        faults=(f.freeze_registry,),
        seconds=60.0,
        least_faults=8,
        least_rate=4,
    ),
    "kill-postgres": Scenario(
        says="SIGKILL of PostgreSQL",
        faults=(f.kill_postgres,),
        pause=(0.5, 2.0),
    ),
    "restart-postgres": Scenario(
        says="fast and immediate shutdowns of PostgreSQL",
        faults=(f.restart_postgres,),
        pause=(0.5, 2.0),
        seconds=120.0,
        least_faults=30,
    ),
    "freeze-postgres": Scenario(
        says="SIGSTOP of PostgreSQL, mostly for moments",
        faults=(f.freeze_postgres,),
        seconds=60.0,
        least_faults=8,
        least_rate=4,
        recovery_seconds=12.0,
    ),
    "end-backends": Scenario(
        says="every database connection ended",
        faults=(f.end_backends,),
        pause=(5.0, 6.0),
        least_faults=8,
        recovery_seconds=3.0,
        # A pool that tests each connection takes a second or more for the first that is dead.
        past_seconds=0.7,
    ),
    "end-backends-often": Scenario(
        says="every database connection ended, once a second",
        faults=(f.end_backends,),
        pause=(0.5, 1.5),
        seconds=90.0,
        replicas=2,
        least_faults=45,
    ),
    "die-in-commit": Scenario(
        says="the registry dies before, in and after commits",
        faults=(f.die_at(*COMMIT_POINTS),),
        points=COMMIT_POINTS,
        seconds=240.0,
        least_faults=60,
        least_deaths=12,
        least_rate=4,
        least_delivered_rate=50,
    ),
    "die-in-locked-commit": Scenario(
        says="one of two registries dies between a locked write and its commit",
        faults=(f.die_at("append.before_transaction_end", most=3),),
        replicas=2,
        points=("append.before_transaction_end",),
        seconds=75.0,
        least_deaths=8,
        least_rate=4,
    ),
    "die-in-send": Scenario(
        says="the registry dies before and after it sends to a watcher",
        faults=(f.die_at(*SEND_POINTS, most=100),),
        points=SEND_POINTS,
        seconds=90.0,
        least_faults=20,
        least_deaths=8,
        least_rate=4,
        least_delivered_rate=50,
    ),
    "slow-points": Scenario(
        says="the registry stalls at random in commits and sends, and is killed",
        faults=(f.kill_registry,),
        failpoints=";".join(f"{point}=sleep(0.02)%0.05" for point in COMMIT_POINTS + SEND_POINTS),
        points=COMMIT_POINTS + SEND_POINTS,
        least_rate=4,
        least_delivered_rate=50,
        seconds=45.0,
    ),
    "proxy-clients": Scenario(
        says="delay, loss, cuts and half-open connections between clients and the registry",
        faults=(f.delay_door, f.cut_door, f.swallow_door, f.half_open_door),
        seconds=75.0,
        least_faults=15,
        least_rate=4,
        least_delivered_rate=50,
    ),
    "proxy-postgres": Scenario(
        says="the same between two registries and PostgreSQL",
        faults=(f.delay_line, f.cut_line, f.swallow_line, f.half_open_line),
        replicas=2,
        seconds=90.0,
        least_faults=20,
        least_rate=4,
        # What is swallowed is noticed only by time: TCP's, then the statement's.
        recovery_seconds=12.0,
    ),
    "replicas": Scenario(
        says="two registries, of which one is killed, frozen or cut off at a time",
        faults=(f.kill_registry, f.freeze_registry, f.cut_line, f.delay_line, f.end_backends),
        replicas=2,
        seconds=90.0,
        least_faults=15,
    ),
    "calm-replicas": Scenario(
        says="two registries that write at once",
        replicas=2,
        seconds=30.0,
        least_faults=0,
        lag_seconds=5.0,
    ),
    "missed-notices": Scenario(
        says="notifications between two registries get lost, above all the last",
        faults=(f.deafen,),
        pause=(0.1, 0.3),
        to_the_last_row=True,
        replicas=2,
        least_faults=60,
        seconds=45.0,
    ),
    "no-notices": Scenario(
        says="two registries that never hear a notification",
        replicas=2,
        variant="deaf",
        seconds=30.0,
        least_faults=0,
        lag_seconds=6.0,
    ),
    "foreign-transaction": Scenario(
        says="somebody else holds transactions open that have written",
        faults=(f.foreign_transaction,),
        least_faults=3,
        lag_seconds=6.0,
        seconds=45.0,
    ),
    "restore": Scenario(
        says="a backup made under load is put back, and clients go on where they were",
        faults=(f.restore_backup,),
        replicas=2,
        least_faults=4,
        least_rate=4,
        least_delivered_rate=50,
        recovery_seconds=15.0,
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
            f.swallow_line,
            f.half_open_line,
            f.die_at(*COMMIT_POINTS, *SEND_POINTS, burst=2),
        ),
        replicas=2,
        seconds=240.0,
        least_faults=40,
        least_rate=4,
        recovery_seconds=None,
    ),
    "disk-full": Scenario(
        says="no room for PostgreSQL for a while",
        faults=(f.fill_disk,),
        pause=(2.0, 4.0),
        disk_megabytes=200,
        seconds=75.0,
        least_faults=6,
        least_rate=2,
        least_delivered_rate=50,
        recovery_seconds=30.0,
    ),
    "zombie-workers": Scenario(
        says="workers frozen past their leases finish what is no longer theirs",
        work=jobs.zombies,
        least_faults=4,
        points=("lease.before_lose",),
        recovery_seconds=None,
        seconds=45.0,
    ),
    "poison-jobs": Scenario(
        says="jobs that kill their worker, beside jobs that do not",
        work=jobs.poison,
        least_faults=1,
        recovery_seconds=None,
        points=("lease.before_grant", "lease.after_grant"),
        seconds=45.0,
    ),
    "die-in-leases": Scenario(
        says="the registry dies around grants, renewals and losses while workers come and go",
        faults=(f.die_at(*LEASE_POINTS, most=3),),
        work=jobs.flow,
        points=LEASE_POINTS,
        seconds=120.0,
        least_faults=20,
        least_deaths=2,
        recovery_seconds=None,
    ),
}
"""Every scenario, by name."""

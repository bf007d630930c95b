"""Requests for jobs of the system, checked before anything is queued."""

from __future__ import annotations

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.backups.targets import chosen_targets, declared_targets
from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import field_error
from vistaflow_services.core.names import MAX_DAYS, MAX_KEEP

DEFAULT_KEEP = 3
DEFAULT_DAYS = 7


def targets_of(spec: pb.BackUpSpec) -> dict[str, str]:
    """The targets of a backup: URLs by name.

    Raises:
        InvalidError: One is not declared, or `keep` cannot be.
    """
    if not 0 <= spec.keep <= MAX_KEEP:
        raise field_error("spec.keep", f"is {spec.keep}; give 1 to {MAX_KEEP:,}")
    return chosen_targets(spec.targets, declared_targets(configuration.backups()))


def days_of(spec: pb.CleanUpSpec) -> int:
    """How old a thing is that is removed.

    Raises:
        InvalidError: It cannot be so many days.
    """
    if not 0 <= spec.days <= MAX_DAYS:
        raise field_error("spec.days", f"is {spec.days}; give 1 to {MAX_DAYS:,}")
    return spec.days or DEFAULT_DAYS

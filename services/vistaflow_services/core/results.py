"""Results of jobs, read by services that did not write them.

The owner of an external job can publish any result under any type of job, and another version of a
service may use another format. So a result may lack any key and hold any value.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vistaflow_services.core.errors import ConflictError, ServiceError

logger = logging.getLogger(__name__)

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    FileNotFoundError,
    IsADirectoryError,
    LookupError,
    NotADirectoryError,
    TypeError,
    ValueError,
)
"""Exceptions that reading a result of an unexpected format may raise."""


@contextmanager
def readable(job_id: str, field: str) -> Iterator[None]:
    """Translates errors of a block that reads the result of a job.

    Args:
        job_id: The job.
        field: The field of the request that named it.

    Raises:
        ConflictError: It cannot be read.
    """
    try:
        yield
    except ServiceError:
        raise
    except UNREADABLE as error:
        # With its traceback: a fault of the reading code looks the same.
        logger.warning("the result of job %s cannot be read", job_id, exc_info=True)
        raise ConflictError(
            f"{field}: the result of job {job_id} cannot be read; it was written by hand or by "
            "another version of vistaflow: run the job again",
            reason="UNREADABLE_RESULT",
        ) from error

"""What jobs published, read by services that did not make it.

Whoever owns an external job publishes what they like, under any type of job, and another version of
a service may have published in another form. So what is read may lack any key and hold anything.
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
"""What reading a result raises that is not of the form that was expected."""


@contextmanager
def readable(job_id: str, field: str) -> Iterator[None]:
    """Reads what a job published for as long as the block runs.

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
        # With its traceback: a mistake of ours in reading looks the same.
        logger.warning("the result of job %s cannot be read", job_id, exc_info=True)
        raise ConflictError(
            f"{field}: what job {job_id} published cannot be read here; it was made by hand, or by "
            "another version of vistaflow: run the job again",
            reason="UNREADABLE_RESULT",
        ) from error

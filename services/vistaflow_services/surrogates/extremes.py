"""Values too large to be a response, such as the 1e300 that a diverged run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

LARGE = 1e30
"""No response in a usual unit is larger."""

FACTOR = 1e6
"""By how much a value must exceed a quarter of all: a response may be large everywhere."""

MOST_NAMED = 5
"""Rows that one note names."""


def huge_limit(values: ArrayLike) -> float:
    """The magnitude beyond which values of a response are too large to be one.

    The larger of 1e30 and a million times the lower quartile of the magnitudes of `values`,
    those of the design (n,); what is not finite is not looked at.
    """
    magnitudes = np.abs(np.asarray(values, float))
    magnitudes = magnitudes[np.isfinite(magnitudes)]
    if not len(magnitudes):
        return LARGE
    return max(LARGE, FACTOR * float(np.quantile(magnitudes, 0.25, method="lower")))


def huge_note(
    name: str, huge: Sequence[tuple[int, float]], usual: ArrayLike, what: str = "row"
) -> str:
    """A sentence that names the response, the rows with their values, and a range to declare.

    Args:
        name: The response.
        huge: The number of each row and its value.
        usual: The values that are not too large.
        what: What is numbered.
    """
    named = ", ".join(f"{what} {number} ({value:g})" for number, value in huge[:MOST_NAMED])
    more = f" and {len(huge) - MOST_NAMED} more" if len(huge) > MOST_NAMED else ""
    magnitudes = np.abs(np.asarray(usual, float))
    reach = float(magnitudes.max()) if len(magnitudes) else 1.0
    bound = float(f"{min(10.0 * (reach or 1.0), 1e300):.1g}")
    signs = {value > 0 for _, value in huge}
    low = f"{-bound:g}" if False in signs else "null"
    high = f"{bound:g}" if True in signs else "null"
    return (
        f"`{name}` is too large for a model in {named}{more}: omitted as failed runs; declare a "
        f"range of the response in the deck, such as `range: [{low}, {high}]`, so that they fail"
    )


def huge_values(responses: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """The responses of one run beyond their `huge_limit`, by name."""
    return {
        name: value for name, value in responses.items() if abs(value) > limits.get(name, np.inf)
    }

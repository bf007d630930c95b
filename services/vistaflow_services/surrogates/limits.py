"""Limits of the settings of models, apart from the numeric libraries that training needs."""

from __future__ import annotations

from typing import Final

MIN_FOLDS: Final = 2
MAX_FOLDS: Final = 20
"""Folds of a cross-validation."""

MAX_TEST_FRACTION: Final = 0.9
"""Largest part of the rows that may be held out."""

MIN_TRAINING_ROWS: Final = 8
"""Fewest usable rows to train on."""

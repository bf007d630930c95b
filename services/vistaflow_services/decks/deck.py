"""Decks from folders, from archives, and from those that come with vistaflow."""

from __future__ import annotations

from vistaflow_services.decks.definition import (
    DECK_FILE,
    SIMULATORS,
    Deck,
    FailurePolicy,
    Policy,
    Response,
)

__all__ = ["DECK_FILE", "SIMULATORS", "Deck", "FailurePolicy", "Policy", "Response"]

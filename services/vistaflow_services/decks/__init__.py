"""Decks: what may be varied, what comes back, and the files that compute it.

space.py      parameters and the space they span: unit cube, points, model features
rounding.py   floats rounded to twelve significant digits, so that equal points hash equally
deck.py       the deck itself, its identity, and what it writes into a scratch folder
document.py   YAML read with line numbers and without its traps
loading.py    deck.yaml to a deck, every mistake at once
archives.py   folders, zip and tar.gz files to the files of a deck, safely; and back
shipped/      the decks that come with vistaflow
"""

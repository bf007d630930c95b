"""Decks: what may be varied, what comes back, and the files that compute it.

deck.py         decks from folders and archives, and the shipped ones: begin here
definition.py   what a deck is, its identity, and the files of one run
space.py        the space of the parameters: unit cube, points, columns, model features
parameter.py    one parameter
rounding.py     floats rounded to twelve significant digits, so that equal points hash equally
cells.py        the points of a space without real parameters, counted and listed
feasibility.py  whether any point meets the constraints
archives.py     the files of a deck from a folder, zip or tar.gz, safely; and back
document.py     YAML read with line numbers and without its traps
fields.py       its fields, checked as they are read
loading.py      deck.yaml to a deck, every mistake at once
sources.py      templates, entries and functions, held against what the deck declares
library.py      the decks that were collected, by content
origins.py      where decks are collected from
shipped/        the decks that come with vistaflow
"""

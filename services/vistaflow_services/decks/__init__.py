"""Decks: what may be varied, what comes back, and the files that compute it.

deck.py         decks from folders and archives, and the shipped ones: begin here
definition.py   what a deck is, its identity, and the files of one run
space.py        the space of the parameters: unit cube, points, columns, model features
parameter.py    one parameter
rounding.py     floats rounded to twelve significant digits, so that equal points hash equally
cells.py        the points of a space without real parameters, counted and listed
expressions.py  the small grammar of constraints and goals; formulas.py parses it
feasibility.py  whether any point meets the constraints
archives.py     the files of a deck from a folder, zip or tar.gz, safely; and back
library.py      the decks that were collected, by content
origins.py      where decks are collected from
files/          deck.yaml: read, checked, and described to editors
shipped/        the decks that come with vistaflow
"""

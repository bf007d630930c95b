"""The `vistaflow` command.

app.py       the commands and what they share
kits.py      run, watch, kits, show, states
changes.py   pause, resume, diff, cancel, retry
stages.py    design, predict, decks
local.py     up, down, status, doctor, logs: what is on this machine
live.py      the tree of a kit that redraws itself
results.py   the table a finished kit ends with
output.py    text, JSON and exit codes
"""

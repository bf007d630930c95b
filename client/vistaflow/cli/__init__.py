"""The `vistaflow` command.

app.py       the commands and what they share
kits.py      run, validate, watch, show
lists.py     kits, jobs, states
changes.py   pause, resume, diff, cancel, retry
reporting.py create, append: kits whose work is done elsewhere
tokens.py    token create, list, revoke
keeping.py   backup, restore, retention
given.py     filters and times as they are given
dialing.py   the client of a command, and how it asks
stages.py    design, predict, decks
local.py     up, down, status, doctor, logs: what is on this machine; logs.py reads the logs,
             registries.py looks at the replicas
live.py      the tree of a kit that redraws itself
results.py   the table a finished kit ends with
output.py    text, JSON and exit codes
"""

import os

# gRPC's own lines about each failed handshake say nothing that the command does not say better.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

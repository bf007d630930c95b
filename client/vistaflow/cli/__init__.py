"""The `vistaflow` command.

app.py       the table of the commands, each imported when it is used
kits.py      run, extend, validate, schema, watch, show, report
lists.py     kits, jobs, states, requests
changes.py   pause, resume, diff, cancel, retry
external.py  create, append: kits whose work is done elsewhere
tokens.py    token create, list, revoke
backups.py   backup, restore, retention
arguments.py filters, times and numbers in arguments
connection.py the client of a command
stages.py    try, points, design, predict, decks
files/       export, compare, new deck, show --kit, decks --export
data/        convert, query, queries, datasets, dataset …
schedules/   schedule create, list, show, update, pause, resume, run, delete, next
outbox/      webhook set, list, delete, test; deliveries, delivery retry
local.py     up, down, status, doctor, logs: what is on this machine; logs.py reads the logs,
             registries.py looks at the replicas
live.py      the tree of a kit that redraws itself
results.py   the table a finished kit ends with
output.py    text, JSON and exit codes
"""

import os

# Commands report failed connections; gRPC would add lines about each failed handshake.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

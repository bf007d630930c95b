"""State registry: the one append-only log of what every job of every kit is doing.

domain.py      what a kit, a job and a state row are; which status may follow which
commands.py    everything that changes the log, and the answers
board.py      the kits touched lately, in memory
draft.py      the pure state machine: a command becomes rows and an answer
changes.py    what commands are made of; verdicts.py: what an append is told
ledger.py      the one queue of commands: group commit, conflicts, lost connections
journal.py     the ledger's own connection: one statement a batch
store.py       reads: kits, jobs, rows, leases (queries in sql/)
hub.py         the newest rows, in memory, for whoever watches
watch.py       WatchStates
leases.py      LeaseJobs: workers, heartbeats, expiry
translate.py   between the proto and the domain; checks requests
servicer.py    the gRPC service
embedded.py    a PostgreSQL of our own, supervised
config.py      settings, from VISTAFLOW_REGISTRY_* variables
rebuild.py     recomputes what is derived from the log
__main__.py    puts them together and serves
"""

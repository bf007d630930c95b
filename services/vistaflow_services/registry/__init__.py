"""State registry: the one append-only log of what every job of every kit is doing.

domain.py          what a kit, a job and a state row are; which status may follow which
commands.py        everything that changes the log, and the answers
board.py           the kits touched lately, in memory
draft.py           the pure state machine: a command becomes rows and an answer
changes.py         what commands are made of
verdicts.py        what an append is told
ledger.py          the one queue of commands: group commit, conflicts, lost connections
journal.py         the ledger's own connection: one statement a batch
store.py           reads: kits, jobs, rows, requests (queries in sql/)
reading.py         kits and jobs out of the tables, on any connection
watch_store.py     what is read for watches and leases
hub.py             the newest rows, in memory, for whoever watches
tail.py            brings the hub what other replicas wrote
watch.py           WatchStates
wire.py            its messages as bytes, made once for all watchers
leases.py          LeaseJobs: workers, heartbeats, expiry
lease_session.py   one worker's stream
lease_messages.py  its messages, to and from the domain
requests.py        requests to commands; every mistake under its field
translate.py       domain values to messages, and back
pages.py           page tokens
services.py        which services there are, and where
servicer.py        the gRPC service
token_store.py     bearer tokens in the database
token_service.py   hands them out, takes them back, tells whose one is
tokens.py          the same on the machine of the database, where no token is needed
tenancy.py         keeps a caller within its project
embedded.py        a PostgreSQL of our own, supervised
pg_launcher.py     starts it as somebody who is not root
config.py          settings, from VISTAFLOW_REGISTRY_* variables
rebuild.py         recomputes what is derived from the log
__main__.py        puts them together and serves
"""

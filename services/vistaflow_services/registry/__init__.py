"""State registry: the one append-only log of every job of every kit.

A command passes through these wings: messages (request to command), log (command to committed
rows), then those that wait for the rows: watch, lease, reads. No wing imports one above it here:

upkeep/            backups, retention, checks of health
schedules/         kits that are made again and again, and when
access/            bearer tokens, and which project a caller sees
datasets/          which datasets there are, and their versions
lineage/           what was made of what, by what jobs record
outbox/            events for webhooks and catalogs, and how far each delivery is
watch/  lease/     streams to watchers; jobs to workers
reads/             kits and lists, now and in the past
log/               the queue of commands, their commits, the newest rows in memory
messages/          protos to commands and filters, and back
database/          PostgreSQL: how it is started, opened, migrated and queried (SQL in sql/)

domain.py          what a kit, a job and a state row are; which status may follow which
commands.py        everything that changes the log, and the answers
dependencies.py    which jobs of a kit wait for which others
config.py          settings, from VISTAFLOW_REGISTRY_* variables
servicer.py        the gRPC service
streams.py         StreamStates: appends within credits
bulk.py            CancelJobs and RetryJobs: one command a kit
cached_reads.py    GetKit and GetJob, answered from memory where possible
handlers.py        which function serves each method, and how its messages are read
services.py        the directory of services, and where they listen
__main__.py        builds the registry and serves

Commands (`python -m vistaflow_services.registry.NAME`): backup.py restore.py rebuild.py
retention.py tokens.py
"""

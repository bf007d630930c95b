"""State registry: the one append-only log of what every job of every kit is doing.

domain.py          what a kit, a job and a state row are; which status may follow which
commands.py        everything that changes the log, and the answers
board.py           the kits touched lately, in memory
draft.py           the pure state machine: a command becomes rows and an answer
changes.py         what commands are made of
dependencies.py    which jobs of a kit wait for which others
unfinished.py      changes made in pieces, gone on with after a crash
verdicts.py        what an append is told
ledger.py          the one queue of commands: group commit, conflicts, lost connections
journal.py         the ledger's own connection: one statement a batch
statement.py       that statement, run by libpq's own calls
row_texts.py       its rows as the text that the statement takes
store.py           reads: kits, jobs, rows, requests (queries in sql/)
reading.py         kits and jobs out of the tables, on any connection
listing.py         pages of kits, jobs and rows
list_texts.py      the texts that list them, each for what is asked
kit_cache.py       the kits read lately, in memory, in step with the log
trees.py           one of them, its jobs and tasks in wire form
tree_pages.py      one that is too large for a message, in pages
page_cache.py      such pages, as they were answered
cached_reads.py    GetKit and GetJob from there
watch_store.py     what is read for watches and leases
hub.py             the newest rows, in memory, for whoever watches
turns.py           whose turn it is to be told of new rows
tail.py            brings the hub what other replicas wrote
watch.py           WatchStates
watch_rows.py      which rows a watch is sent, and which are folded into later ones
watch_snapshot.py  the current rows with which it may begin
watch_many.py      WatchMany: several watches on one stream
watch_bytes.py     serves both without serialising twice
wire.py            their messages as bytes, made once for all watchers
streams.py         StreamStates: appending within credits
leases.py          LeaseJobs: workers, heartbeats, expiry
lease_session.py   one worker's stream
lease_messages.py  its messages, to and from the domain
history.py         a kit as it was at a revision, and what changed between two; pure
past.py            what is read for that, and the jobs a filter wants
bulk.py            CancelJobs and RetryJobs: one command a kit
connections.py     the pool's connections, and what to do when one is dead
requests.py        requests to commands; every mistake under its field
quick.py           rows to append that are plainly right, read the quick way
raw_requests.py    requests in wire form: what would keep the parser busy is refused before it
selecting.py       which jobs, which moment: filters of requests, checked
structs.py         a Struct to JSON text, and back to bytes
numbers.py         its whole numbers that may have been rounded
varint.py          numbers as protobuf writes them
translate.py       domain values to messages, and back
translate_past.py  the difference of two moments as a message
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
retention.py       drops old partitions; what is kept of them
backup.py          saves the tables to a file, with dumping.py; restore.py puts it back
checksums.py       the checksum at the end of that file
schema_check.py    whether what was restored is what the migrations make
guarding.py        has the database refuse to drop or detach parts of the log
local.py           the database, for these commands
upkeep.py          looks at itself and its database while it serves
checks.py          whether what it sees is well, and how to mend it
refusals.py        what the errors of the database mean, and which are worth another try
storage.py         refuses writes before the disk is full
meters.py          what it tells Prometheus
__main__.py        puts them together and serves
"""

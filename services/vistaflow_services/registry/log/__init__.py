"""The log: one queue of commands, group commits, and the newest rows in memory.

ledger.py      the queue: batches, conflicts, lost connections
draft.py       the pure state machine: a command becomes rows and an answer
changes.py     the parts of a draft
verdicts.py    the verdict on each row of an append
unfinished.py  changes made in several commits, continued after a crash
board.py       the kits changed lately, in memory
journal.py     the ledger's own connection: one statement a batch
statement.py   that statement, through libpq
row_json.py    its rows as JSON text
hub.py         the newest rows, in memory, for watchers
turns.py       the order in which watchers are woken
tail.py        brings the rows of other replicas to the hub
"""

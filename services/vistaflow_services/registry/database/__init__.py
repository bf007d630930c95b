"""PostgreSQL, as the registry uses it.

embedded.py    an embedded PostgreSQL, started and supervised
launcher.py    starts its programs as a user who is not root
connect.py     the address of the database, for commands
sessions.py    the settings of every session
pool.py        connections, and the retry of work whose connection is dead
once.py        changes beside the log, once for each request
migrations.py  applies the numbered files of sql/
queries.py     the named queries of sql/, and how they are run
rows.py        rows as domain values, and filters as parameters
kits.py        kits and jobs with their tasks, as they are now
guard.py       makes the database refuse to drop or detach parts of the log
space.py       refuses writes before the disk is full
refusals.py    what errors of the database mean, and which may be retried
"""

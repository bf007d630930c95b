"""Backups, retention, and checks of health.

loop.py       checks and prunes the registry and its database while it serves
checks.py     whether the figures are healthy, and what to do if they are not
meters.py     the registry's metrics
retention.py  drops old partitions; what remains of them
backup.py     saves the tables to a file
dump.py       DumpLog: the same as a stream
restore.py    puts a backup back
source.py     a target of BACKUP jobs, to restore from
rebuild.py    recomputes what is derived from the log
checksums.py  the checksum at the end of a backup
programs.py   pg_dump and pg_restore
schema.py     whether a restored schema is what the migrations make
"""

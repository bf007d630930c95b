-- Queries of retention, and of those who look after the database.

-- name: log_partitions
-- The partitions of the log, oldest first, with their size.
SELECT p.name, p.first_id, p.end_id, pg_total_relation_size(to_regclass(quote_ident(p.name))),
       p.end_id - 1 <= h.last_id, p.end_id <= h.oldest_id
  FROM partitions p, head h
 ORDER BY p.first_id

-- name: blocking_kit
-- A kit that keeps a partition from being dropped, if there is one: with rows in it, and not over
-- for long enough.
SELECT k.kit_id, k.status, k.updated_at
  FROM kits k
 WHERE k.revision >= %(first_id)s
   AND NOT (k.counts[2] + k.counts[3] = 0
            AND coalesce(k.updated_at < clock_timestamp()
                         - make_interval(secs => (%(seconds)s::jsonb ->> k.status)::float8), false))
   AND EXISTS (SELECT FROM mlops_totalstate_table l
                WHERE l.kit_id = k.kit_id AND l.id >= %(first_id)s AND l.id < %(end_id)s)
 LIMIT 1

-- name: keep_states
-- Copies aside what is kept of a partition.
SELECT keep_states(%(name)s)

-- name: move_oldest
-- Tells that rows before an id are no longer kept.
UPDATE head SET oldest_id = greatest(oldest_id, %(oldest_id)s)

-- name: drop_partition
-- Drops a partition that is no longer kept.
SELECT drop_partition(%(name)s)

-- name: log_growth
-- How large the log is and how far back it goes. Rows that a restore left out do not count.
SELECT h.last_id - h.oldest_id + 1
           - (SELECT coalesce(sum(next_id - 1 - greatest(last_id, h.oldest_id - 1)), 0)
                FROM restores WHERE next_id > h.oldest_id)::bigint,
       h.last_id, h.oldest_id, (SELECT count(*) FROM partitions),
       (SELECT coalesce(sum(pg_total_relation_size(to_regclass(quote_ident(name)))), 0)::bigint
          FROM partitions),
       pg_total_relation_size('kept_states'),
       pg_database_size(current_database()),
       (SELECT created_at FROM mlops_totalstate_table WHERE id >= h.oldest_id ORDER BY id LIMIT 1),
       (SELECT max(end_id) FROM partitions)
  FROM head h

-- name: database_health
-- Connections used and allowed, the clock, the age of the oldest snapshot anywhere in the cluster
-- in transactions, and how long the oldest transaction has run.
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int,
       clock_timestamp(),
       coalesce(greatest((SELECT max(age(backend_xmin)) FROM pg_stat_activity),
                         (SELECT max(age(transaction)) FROM pg_prepared_xacts),
                         (SELECT max(age(xmin)) FROM pg_replication_slots)), 0),
       coalesce((SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::float8
                   FROM pg_stat_activity
                  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()), 0)

-- name: long_transactions
-- Transactions that run for longer than so many seconds, strangers' and the longest first.
SELECT pid, coalesce(datname, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
 ORDER BY application_name LIKE 'vistaflow%%', xact_start
 LIMIT 5

-- name: applied_migrations
-- The numbers of the migrations that ran.
SELECT number FROM schema_migrations ORDER BY number

-- name: log_end
-- The last revision by the head, the last row of the log, and a revision up to which rows need not
-- be there: they were dropped, or left out by a restore.
SELECT h.last_id, coalesce((SELECT max(id) FROM mlops_totalstate_table), 0),
       greatest(h.oldest_id - 1, coalesce((SELECT max(next_id) - 1 FROM restores), 0))
  FROM head h

-- name: log_guard
-- What is missing of the log or could be changed, and whether its owner is guarded against, too.
SELECT (SELECT coalesce(array_agg(what), '{}') FROM unguarded),
       (SELECT count(*) FROM pg_event_trigger
         WHERE evtfoid = to_regproc('guard_log') AND evtenabled <> 'D') = %(triggers)s

-- name: waiting_work
-- Jobs that wait for a worker, by type.
SELECT job_type, count(*) FROM jobs WHERE status = 'QUEUED' AND NOT external GROUP BY 1

-- name: backup_age
-- Seconds since the last backup that was complete at all of its targets; NULL if there is none.
SELECT extract(epoch FROM clock_timestamp() - max(finished_at))::float8
  FROM jobs WHERE job_type = 'BACKUP' AND status = 'FINISHED'

-- name: lease_count
-- Attempts in workers' hands.
SELECT count(*) FROM leases

-- name: settle_restored
-- Gives a restored log a new epoch and lets its revisions go on further up, so that no revision
-- and no kit id is ever used a second time.
WITH before AS (SELECT last_id, epoch FROM head),
after AS (
    UPDATE head SET epoch = gen_random_uuid(), commit_id = gen_random_uuid(),
                    last_id = greatest(head.last_id, %(last_id)s),
                    last_kit_id = greatest(head.last_kit_id, %(last_kit_id)s)
 RETURNING epoch, last_id, last_kit_id
), forgotten AS (
    DELETE FROM writers
)
INSERT INTO restores (epoch, from_epoch, last_id, next_id)
SELECT after.epoch, before.epoch, before.last_id, after.last_id + 1 FROM before, after
RETURNING epoch, last_id, next_id

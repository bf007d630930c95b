-- Queries of those who follow the log and of those who run jobs.

-- name: log_page
-- Rows of a range of the log that a filter wants, in order. Jobs' own rows come along whatever
-- the filter says of types, statuses and jobs: they carry the kits' counts.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, kit_counts
FROM mlops_totalstate_table
WHERE id > %(after)s AND id <= %(until)s
  AND (%(labels)s::jsonb IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE labels @> %(labels)s::jsonb))
  AND (%(project)s::text IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s))
  AND (task_name = ''
       OR ((%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
           AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
           AND (%(job_ids)s::uuid[] IS NULL OR job_id = ANY (%(job_ids)s::uuid[]))
           AND (%(recorded_after)s::timestamptz IS NULL
                OR created_at >= %(recorded_after)s::timestamptz)
           AND (%(recorded_before)s::timestamptz IS NULL
                OR created_at < %(recorded_before)s::timestamptz)))
ORDER BY id
LIMIT %(limit)s

-- name: log_page_of_kits
-- The same for certain kits that have few rows. Ordered by an expression, so that the rows are found by kit and
-- sorted: a walk along the log would read all that other kits did in between.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, kit_counts
FROM mlops_totalstate_table
WHERE kit_id = ANY (%(kit_ids)s::int[]) AND id > %(after)s AND id <= %(until)s
  AND (%(labels)s::jsonb IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE labels @> %(labels)s::jsonb))
  AND (%(project)s::text IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s))
  AND (task_name = ''
       OR ((%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
           AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
           AND (%(job_ids)s::uuid[] IS NULL OR job_id = ANY (%(job_ids)s::uuid[]))
           AND (%(recorded_after)s::timestamptz IS NULL
                OR created_at >= %(recorded_after)s::timestamptz)
           AND (%(recorded_before)s::timestamptz IS NULL
                OR created_at < %(recorded_before)s::timestamptz)))
ORDER BY id + 0
LIMIT %(limit)s

-- name: log_page_walked_for_kits
-- The same for certain kits that have many rows. The kit is compared as an expression, so that the
-- log is walked in order of its primary key and left at the limit: found by kit, millions of rows
-- would be sorted for every page.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, kit_counts
FROM mlops_totalstate_table
WHERE kit_id + 0 = ANY (%(kit_ids)s::int[]) AND id > %(after)s AND id <= %(until)s
  AND (%(labels)s::jsonb IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE labels @> %(labels)s::jsonb))
  AND (%(project)s::text IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s))
  AND (task_name = ''
       OR ((%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
           AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
           AND (%(job_ids)s::uuid[] IS NULL OR job_id = ANY (%(job_ids)s::uuid[]))
           AND (%(recorded_after)s::timestamptz IS NULL
                OR created_at >= %(recorded_after)s::timestamptz)
           AND (%(recorded_before)s::timestamptz IS NULL
                OR created_at < %(recorded_before)s::timestamptz)))
ORDER BY id
LIMIT %(limit)s

-- name: kits_are_large
-- Whether certain kits have more rows than `few`. Reads no more than that of the kits' index.
SELECT count(*) > %(few)s
FROM (SELECT FROM mlops_totalstate_table
      WHERE kit_id = ANY (%(kit_ids)s::int[])
      ORDER BY kit_id, job_id, task_name, id DESC
      LIMIT %(few)s + 1) AS first_of_them

-- name: kits_begin
-- Where the first row of certain kits is, or was.
SELECT coalesce(min(first_revision), 0) FROM kits WHERE kit_id = ANY (%(kit_ids)s::int[])

-- name: batch_of
-- The first revision of the append that a row is of.
SELECT batch FROM mlops_totalstate_table WHERE id = %(id)s

-- name: statuses_before
-- For rows of the log, the status of the same job or task before: empty if there was none, `?` if
-- it may have been in what is no longer kept.
SELECT asked.id,
       coalesce(earlier.status, CASE WHEN j.first_revision < head.oldest_id THEN '?' ELSE '' END)
FROM jsonb_to_recordset(%(asked)s::jsonb)
         AS asked (id bigint, kit_id int, job_id uuid, task_name text)
CROSS JOIN head
LEFT JOIN jobs j ON j.job_id = asked.job_id
LEFT JOIN LATERAL (
    SELECT status FROM history AS t
    WHERE t.kit_id = asked.kit_id AND t.job_id = asked.job_id
      AND t.task_name = asked.task_name AND t.id < asked.id
    ORDER BY t.id DESC
    LIMIT 1) AS earlier ON true

-- name: log_tail
-- Every row after a revision, in order.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, kit_counts
FROM mlops_totalstate_table
WHERE id > %(after)s
ORDER BY id
LIMIT %(limit)s

-- name: log_batch
-- The rows of one append, in order.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, kit_counts
FROM mlops_totalstate_table
WHERE id >= %(batch)s AND id < %(batch)s + 20000 AND batch = %(batch)s
ORDER BY id

-- name: log_ends
-- Where the log ends and begins, and its name.
SELECT last_id, oldest_id, epoch::text FROM head

-- name: count_connections
-- Connections of this name to this database.
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = %(name)s

-- name: current_rows
-- The latest row of each job and task that a filter wants, in revision order.
SELECT id, id, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, NULL::smallint[]
FROM current_state
WHERE (%(kit_ids)s::int[] IS NULL OR kit_id = ANY (%(kit_ids)s::int[]))
  AND (%(labels)s::jsonb IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE labels @> %(labels)s::jsonb))
  AND (%(project)s::text IS NULL
       OR kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s))
  AND (%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
  AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
  AND (%(job_ids)s::uuid[] IS NULL OR job_id = ANY (%(job_ids)s::uuid[]))
  AND (%(recorded_after)s::timestamptz IS NULL OR created_at >= %(recorded_after)s::timestamptz)
  AND (%(recorded_before)s::timestamptz IS NULL OR created_at < %(recorded_before)s::timestamptz)
ORDER BY id

-- name: kits_by_id
-- Kits without their jobs.
SELECT kit_id, name, project, labels, coalesce(spec::text, ''), actor, counts, revision,
       created_at, updated_at, paused, pauses, first_revision
FROM kits
WHERE kit_id = ANY (%(kit_ids)s::int[])
ORDER BY kit_id

-- name: labels_of_kits
-- The labels of kits, and the project of each.
SELECT kit_id, labels, project FROM kits WHERE kit_id = ANY (%(kit_ids)s::int[])

-- name: queued_jobs
-- Jobs to hand out next. Kits that are not paused take turns, those with less running first; within
-- a kit the higher priority, then the kit's own order. Queries are a kit each, so of them their
-- callers take turns, those with less running first.
WITH running AS MATERIALIZED (
    SELECT labels ->> 'query.caller' AS caller, count(*) AS number
      FROM jobs WHERE job_type = 'QUERY' AND status = 'RUNNING' GROUP BY 1)
SELECT job_id, job_type
FROM (SELECT j.job_id, j.job_type, j.kit_id, j.priority,
             coalesce(r.number, CASE WHEN j.job_type = 'QUERY' THEN 0 ELSE k.counts[3] END)
             + row_number() OVER (
                 PARTITION BY CASE WHEN j.job_type = 'QUERY' THEN j.labels ->> 'query.caller' END,
                              CASE WHEN j.job_type = 'QUERY' AND j.labels ? 'query.caller'
                                   THEN 0 ELSE j.kit_id END
                 ORDER BY j.priority DESC, j.kit_id, j.current_order, j.revision) AS turn,
             CASE WHEN j.job_type = 'QUERY' AND j.labels ? 'query.caller'
                  THEN substring(j.labels ->> 'query.most_running', '^[1-9][0-9]{0,5}$')::int
             END AS most
      FROM jobs j
      JOIN kits k USING (kit_id)
      LEFT JOIN running r ON j.job_type = 'QUERY' AND r.caller = j.labels ->> 'query.caller'
      WHERE j.status = 'QUEUED' AND NOT j.external AND NOT k.paused
        AND j.job_type = ANY (%(job_types)s::text[])) AS waiting
WHERE most IS NULL OR turn <= most
ORDER BY turn, kit_id
LIMIT %(limit)s

-- name: renew_leases
-- Renews what is still the worker's, keeps what it said of its progress, tells which were renewed.
-- Not worth waiting for the disk: what is lost with a crash of the database is a few seconds of a
-- lease, and leases are extended after an outage anyway.
WITH quiet AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true)),
     said AS (SELECT * FROM jsonb_to_recordset(%(said)s::jsonb)
              AS s (job_id uuid, attempt int, progress jsonb))
UPDATE leases AS l
SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s),
    progress = coalesce(said.progress, l.progress),
    progress_at = CASE WHEN said.progress IS NULL THEN l.progress_at ELSE clock_timestamp() END
FROM said, quiet
WHERE l.job_id = said.job_id AND l.attempt = said.attempt AND l.worker = %(worker)s
RETURNING l.job_id, l.attempt

-- name: extend_leases
-- Gives every lease its full time again, after a time in which no worker could renew.
UPDATE leases
SET expires_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE expires_at < clock_timestamp() + make_interval(secs => %(seconds)s)

-- name: expired_leases
-- Leases whose time is over by the database's clock, the longest over first, and those of attempts
-- that run on long after their job's timeout.
SELECT l.job_id, l.attempt, l.worker, l.expires_at >= clock_timestamp()
FROM leases l
LEFT JOIN jobs j ON j.job_id = l.job_id
WHERE l.expires_at < clock_timestamp()
   OR j.started_at + j.timeout + make_interval(secs => %(grace)s) < clock_timestamp()
ORDER BY l.expires_at
LIMIT %(limit)s

-- name: leases_of_worker
-- What the registry holds as leased to a worker.
SELECT job_id, attempt, worker FROM leases WHERE worker = %(worker)s

-- name: standing_of_jobs
-- Where jobs are, for a worker that holds an attempt which may not be the current one.
SELECT job_id, status, attempt, reason FROM jobs WHERE job_id = ANY (%(job_ids)s::uuid[])

-- name: database_now
-- The clock of the database.
SELECT clock_timestamp()

-- Queries of the past of kits, and of changes to many jobs.

-- name: revision_at
-- The last revision that was recorded by a time, found by halving: times rise with revisions, of
-- which some may be missing after a restore. One before the oldest kept if there is none. And
-- whether the time is past.
WITH RECURSIVE halves (low, high) AS (
    SELECT oldest_id - 1, last_id FROM head
    UNION ALL
    SELECT CASE WHEN l.created_at <= %(time)s THEN l.id ELSE low END,
           CASE WHEN l.created_at <= %(time)s THEN high ELSE (low + high + 1) / 2 - 1 END
      FROM halves
      LEFT JOIN LATERAL (SELECT id, created_at FROM mlops_totalstate_table
                          WHERE id >= (low + high + 1) / 2 AND id <= high
                          ORDER BY id LIMIT 1) AS l ON true
     WHERE low < high
)
SELECT low, %(time)s <= clock_timestamp() FROM halves ORDER BY high - low LIMIT 1

-- name: own_rows_until
-- The own rows of a kit's jobs up to a revision, in order. Of their metadata only what tells why a
-- job moved: what a job published does not change any more, so that the job has it.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, CASE WHEN metadata ? 'event' THEN metadata::text ELSE '' END, actor, reason,
       kit_counts
  FROM history
 WHERE kit_id = %(kit_id)s AND task_name = '' AND id <= %(revision)s
   AND job_id IN (SELECT job_id FROM jobs WHERE kit_id = %(kit_id)s)
 ORDER BY id + 0

-- name: task_rows_until
-- The latest row up to a revision of each task of a kit, whatever the attempt, and of the kit's
-- own; metadata only where it tells progress. Which they are is found in the index alone.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, CASE WHEN task_name = 'progress' THEN coalesce(metadata::text, '') ELSE '' END,
       actor, reason, NULL::smallint[]
  FROM history
  JOIN (SELECT DISTINCT ON (job_id, task_name) id
          FROM history
         WHERE kit_id = %(kit_id)s AND task_name <> '' AND id <= %(revision)s
         ORDER BY job_id, task_name, id DESC) AS latest USING (id)

-- name: count_matching_jobs
-- How many jobs a filter and a change want.
SELECT count(*)
  FROM jobs j JOIN kits k USING (kit_id)
 WHERE j.status = ANY (%(statuses)s::text[])
   AND (%(kit_ids)s::int[] IS NULL OR j.kit_id = ANY (%(kit_ids)s::int[]))
   AND (%(job_types)s::text[] IS NULL OR j.job_type = ANY (%(job_types)s::text[]))
   AND (%(labels)s::jsonb IS NULL OR j.labels @> %(labels)s::jsonb)
   AND (%(created_before)s::timestamptz IS NULL
        OR j.created_at < %(created_before)s::timestamptz)
   AND (%(project)s::text IS NULL OR k.project = %(project)s)
   AND (%(kit_labels)s::jsonb IS NULL OR k.labels @> %(kit_labels)s::jsonb)

-- name: matching_jobs
-- The jobs that a filter and a change want, kit by kit.
SELECT j.kit_id, array_agg(j.job_id ORDER BY j.current_order, j.first_revision)
  FROM jobs j JOIN kits k USING (kit_id)
 WHERE j.kit_id > %(after)s
   AND j.status = ANY (%(statuses)s::text[])
   AND (%(kit_ids)s::int[] IS NULL OR j.kit_id = ANY (%(kit_ids)s::int[]))
   AND (%(job_types)s::text[] IS NULL OR j.job_type = ANY (%(job_types)s::text[]))
   AND (%(labels)s::jsonb IS NULL OR j.labels @> %(labels)s::jsonb)
   AND (%(created_before)s::timestamptz IS NULL
        OR j.created_at < %(created_before)s::timestamptz)
   AND (%(project)s::text IS NULL OR k.project = %(project)s)
   AND (%(kit_labels)s::jsonb IS NULL OR k.labels @> %(kit_labels)s::jsonb)
 GROUP BY j.kit_id ORDER BY j.kit_id LIMIT %(limit)s

-- name: jobs_by_id
-- Jobs without their specs and results.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, '', ''::bytea,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, '',
       l.progress, l.progress_at
  FROM jobs j LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
 WHERE j.job_id = ANY (%(job_ids)s::uuid[])
 ORDER BY j.kit_id, j.current_order, j.first_revision

-- name: parts_of_request
-- What was done already of a request that is done kit by kit.
SELECT (data ->> 'kit_id')::int, body_sha256, response, created_at
  FROM request_info
 WHERE data ? 'part_of' AND data ->> 'part_of' = %(request_id)s
 ORDER BY id

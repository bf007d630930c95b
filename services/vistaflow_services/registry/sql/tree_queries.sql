-- Queries of kits that are read in pages.

-- name: jobs_after
-- The next jobs of a kit in the tree's order, without specs and results, from a job on.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, '', ''::bytea,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, '',
       l.progress, l.progress_at
  FROM jobs j LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
 WHERE j.kit_id = %(kit_id)s
   AND (j.current_order, j.first_revision) >= (%(current_order)s, %(first_revision)s)
 ORDER BY j.current_order, j.first_revision
 LIMIT %(limit)s

-- name: jobs_of_kit_in_short
-- The jobs of a kit, without specs and results.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, '', ''::bytea,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, '', NULL::jsonb,
       NULL::timestamptz
  FROM jobs j
 WHERE j.kit_id = %(kit_id)s

-- name: contents_of_jobs
-- Specs and results of jobs in the order asked for, up to so many bytes but at least one.
SELECT job_id, spec_type, spec, result
  FROM (SELECT job_id, spec_type, spec, result, place,
               sum(octet_length(spec) + octet_length(result)) OVER (ORDER BY place) AS bytes
          FROM (SELECT j.job_id, j.spec_type, j.spec, coalesce(j.result::text, '') AS result,
                       asked.place
                  FROM unnest(%(job_ids)s::uuid[]) WITH ORDINALITY AS asked (job_id, place)
                  JOIN jobs j USING (job_id)) AS wanted) AS sized
 WHERE bytes <= %(bytes)s OR place = 1
 ORDER BY place

-- name: tasks_after
-- The latest rows of the tasks of jobs, job by job in the order asked for, of the first job those
-- after a revision; up to so many bytes but at least one, and whether there are more.
SELECT id, id, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, metadata, actor, reason, NULL::smallint[], total
  FROM (SELECT *, row_number() OVER tree AS number, count(*) OVER () AS total,
               sum(octet_length(metadata) + octet_length(reason)) OVER tree AS bytes
          FROM (SELECT place, id, kit_id, job_id, job_type, task_name, status, current_order,
                       attempt, seq, created_at, coalesce(metadata::text, '') AS metadata, actor,
                       reason
                  FROM (SELECT asked.place, s.*
                          FROM unnest(%(job_ids)s::uuid[]) WITH ORDINALITY AS asked (job_id, place)
                          JOIN current_state s USING (job_id)
                         WHERE s.kit_id = %(kit_id)s AND s.task_name <> ''
                           AND (asked.place > 1 OR s.id > %(after)s)
                         ORDER BY asked.place, s.id LIMIT %(limit)s) AS next_rows) AS wanted
        WINDOW tree AS (ORDER BY place, id)) AS sized
 WHERE bytes <= %(bytes)s OR number = 1
 ORDER BY number

-- name: rows_by_id
-- Rows of the log in the order asked for, up to so many bytes but at least one.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, metadata, actor, reason, kit_counts
  FROM (SELECT *, sum(octet_length(metadata) + octet_length(reason)) OVER (ORDER BY place) AS bytes
          FROM (SELECT asked.place, h.id, batch, kit_id, job_id, job_type, task_name, status,
                       current_order, attempt, seq, created_at,
                       coalesce(metadata::text, '') AS metadata, actor, reason, kit_counts
                  FROM unnest(%(ids)s::bigint[]) WITH ORDINALITY AS asked (id, place)
                  JOIN history h USING (id)) AS wanted) AS sized
 WHERE bytes <= %(bytes)s OR place = 1
 ORDER BY place

-- What the cache of kits asks for.

-- name: kit_whole
-- A kit at one moment, in one statement. A row without a job holds where the log ends and, as JSON
-- in the place of metadata, the kit and its jobs in the columns of kits_by_id and jobs_of_kits;
-- the others are the latest rows of the jobs' tasks, of which all but what jobs tell.
SELECT h.last_id, NULL::bytea, NULL::text, NULL::text, NULL::int, NULL::bigint, NULL::timestamptz,
       json_build_object(
           'kit', json_build_array(
               k.kit_id, k.name, k.project, k.labels, coalesce(k.spec::text, ''), k.actor,
               k.counts, k.revision, k.created_at, k.updated_at, k.paused, k.pauses,
               k.first_revision),
           'jobs', (
               SELECT coalesce(json_agg(json_build_array(
                   j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on,
                   j.spec_type, encode(j.spec, 'base64'), j.external, j.max_attempts, j.failures,
                   extract(epoch FROM j.timeout)::float8, j.priority, j.labels, j.status,
                   j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
                   j.started_at, j.finished_at, j.worker, j.reason, j.actor,
                   coalesce(j.result::text, ''), l.progress, l.progress_at)
                   ORDER BY j.first_revision), '[]')
                 FROM jobs j LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
                WHERE j.kit_id = %(kit_id)s::int))::text,
       NULL::text, NULL::text
  FROM head h LEFT JOIN kits k ON k.kit_id = %(kit_id)s::int
UNION ALL
SELECT id, uuid_send(job_id), task_name, status, attempt, seq, created_at,
       coalesce(metadata::text, ''), actor, reason
  FROM current_state
 WHERE kit_id = %(kit_id)s::int AND task_name <> '' AND job_type <> 'KIT'

-- name: progress_of_attempts
-- What running jobs last said of their progress, with the attempt that said it.
SELECT job_id, attempt, progress, progress_at
FROM leases
WHERE job_id = ANY (%(job_ids)s::uuid[]) AND progress IS NOT NULL

-- name: kit_is_large
-- Whether a kit has more tasks, jobs or dependencies than so many, or its tasks and jobs more than
-- so many bytes.
SELECT (SELECT count(*) > %(tasks)s OR coalesce(sum(octet_length(metadata::text)), 0) > %(bytes)s
          FROM (SELECT metadata FROM current_state
                 WHERE kit_id = %(kit_id)s LIMIT %(tasks)s::bigint + 1) AS some_rows)
       OR (SELECT coalesce(sum(octet_length(spec)), 0) > %(bytes)s OR count(*) > %(jobs)s
                  OR coalesce(sum(cardinality(depends_on)), 0) > %(needs)s
             FROM jobs WHERE kit_id = %(kit_id)s)

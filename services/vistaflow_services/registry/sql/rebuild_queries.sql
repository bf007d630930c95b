-- Recomputes from the log what is derived from it. Run by rebuild.py, in one transaction.

-- name: rebuild_own_rows
-- Every own row of the jobs, in order.
SELECT l.job_id, l.id, l.status, l.attempt, l.created_at, l.actor, l.reason,
       l.metadata ->> 'event', (l.metadata ->> 'counts') = 'true', j.external
  FROM history l JOIN jobs j USING (job_id)
 WHERE l.task_name = ''
 ORDER BY l.id

-- name: rebuild_jobs
-- Puts the derived columns of jobs in place.
UPDATE jobs
   SET status = x.status, attempt = x.attempt, failures = x.failures, revision = x.revision,
       worker = x.worker, reason = x.reason, actor = x.actor, started_at = x.started,
       finished_at = x.finished,
       last_seq = coalesce((SELECT max(seq) FROM history l
                             WHERE l.kit_id = jobs.kit_id AND l.job_id = jobs.job_id
                               AND l.attempt = x.attempt), 0),
       result = (SELECT l.metadata -> 'result' FROM history l
                  WHERE l.kit_id = jobs.kit_id AND l.job_id = jobs.job_id AND l.task_name = ''
                    AND l.status = 'FINISHED' AND jsonb_typeof(l.metadata -> 'result') = 'object')
  FROM jsonb_to_recordset(%(jobs)s::jsonb) AS x (
       job_id uuid, status text, attempt integer, failures integer, revision bigint, worker text,
       reason text, actor text, started timestamptz, finished timestamptz)
 WHERE jobs.job_id = x.job_id

-- name: rebuild_kits
-- Puts the derived columns of kits in place.
UPDATE kits
   SET counts = c.counts, revision = c.revision, updated_at = c.updated_at,
       status = CASE
           WHEN c.counts[5] > 0 THEN 'FAILED'
           WHEN c.counts[6] > 0 THEN 'CANCELED'
           WHEN c.counts[4] > 0 AND c.counts[1] + c.counts[2] + c.counts[3] = 0 THEN 'FINISHED'
           WHEN c.counts[3] + c.counts[4] > 0 THEN 'RUNNING'
           WHEN c.counts[2] > 0 THEN 'QUEUED'
           ELSE 'INIT' END
  FROM (SELECT j.kit_id,
               ARRAY[count(*) FILTER (WHERE status = 'INIT'),
                     count(*) FILTER (WHERE status = 'QUEUED'),
                     count(*) FILTER (WHERE status = 'RUNNING'),
                     count(*) FILTER (WHERE status = 'FINISHED'),
                     count(*) FILTER (WHERE status = 'FAILED'),
                     count(*) FILTER (WHERE status = 'CANCELED')]::smallint[] AS counts,
               max(last.id) AS revision, max(last.created_at) AS updated_at
          FROM jobs j
          JOIN (SELECT DISTINCT ON (kit_id) kit_id, id, created_at
                  FROM history ORDER BY kit_id, id DESC) AS last USING (kit_id)
         GROUP BY j.kit_id) AS c
 WHERE kits.kit_id = c.kit_id

-- name: rebuild_pauses
-- Whether kits are paused, and how often they were, from the latest of their own rows.
UPDATE kits
   SET paused = coalesce(last.status = 'RUNNING', false), pauses = coalesce(last.attempt, 0)
  FROM kits k
  LEFT JOIN (SELECT DISTINCT ON (kit_id) kit_id, status, attempt
               FROM history WHERE job_type = 'KIT'
              ORDER BY kit_id, id DESC) AS last USING (kit_id)
 WHERE kits.kit_id = k.kit_id

-- name: rebuild_reasons
-- Puts the reasons of waiting jobs in place.
UPDATE jobs SET reason = x.reason
  FROM jsonb_to_recordset(%(reasons)s::jsonb) AS x (job_id uuid, reason text)
 WHERE jobs.job_id = x.job_id

-- name: rebuild_current_state
-- The latest row of each job and of each task of its current attempt.
INSERT INTO current_state (kit_id, job_id, task_name, id, job_type, status, current_order, attempt,
                           seq, created_at, actor, reason, metadata)
SELECT DISTINCT ON (l.kit_id, l.job_id, l.task_name)
       l.kit_id, l.job_id, l.task_name, l.id, l.job_type, l.status, l.current_order, l.attempt,
       l.seq, l.created_at, l.actor, l.reason, l.metadata
  FROM history l LEFT JOIN jobs j USING (job_id)
 WHERE l.task_name = '' OR l.attempt = j.attempt OR l.job_type = 'KIT'
 ORDER BY l.kit_id, l.job_id, l.task_name, l.id DESC

-- name: rebuild_steps
-- The stages' tables, one row a job.
WITH own AS MATERIALIZED (
    SELECT job_id, job_type, min(id) AS id, min(created_at) AS created_at,
           max(created_at) AS updated_at,
           (array_agg(status ORDER BY id DESC))[1] AS status,
           (array_agg(metadata ORDER BY id DESC))[1] AS metadata,
           (array_agg(metadata -> 'result' ORDER BY id DESC)
                FILTER (WHERE metadata ? 'result'))[1] AS result
      FROM history WHERE task_name = '' GROUP BY job_id, job_type
), decks AS (
    INSERT INTO deck_collection (request_id, job_id, status, created_at, updated_at, metadata)
    SELECT id, job_id, status, created_at, updated_at, metadata
      FROM own WHERE job_type = 'DECK_COLLECTION'
), does AS (
    INSERT INTO doe_step (id, job_id, status, data_info, created_at, updated_at, metadata)
    SELECT id, job_id, status, result, created_at, updated_at, metadata
      FROM own WHERE job_type = 'DOE'
), mls AS (
    INSERT INTO ml_step (id, job_id, step_name, status, step_order, created_at, updated_at,
                         metadata)
    SELECT id, job_id, lower(substr(job_type, 4)), status,
           array_position(ARRAY['ML_PREPROCESS', 'ML_SCALE', 'ML_TRAIN', 'ML_TEST'],
                          job_type::text),
           created_at, updated_at, metadata
      FROM own WHERE job_type LIKE 'ML\_%%'
)
INSERT INTO optimize_step (id, job_id, status, created_at, updated_at, metadata)
SELECT id, job_id, status, created_at, updated_at, metadata FROM own WHERE job_type = 'OPTIMIZE'

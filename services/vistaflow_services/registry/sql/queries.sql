-- Queries of the registry's log and of its reads. Parameters are psycopg's %(name)s.

-- name: write_rows
-- The first part of the one statement that commits a batch: nothing happens unless the head is
-- where the batch was made for. Reasons are given by their place in `texts`: many rows share one.
-- Large metadata is given beside the rows, in their order: among them it would be read twice.
WITH cas AS (
    UPDATE head
       SET last_id = %(last_id)s, last_kit_id = %(last_kit_id)s, commit_id = %(commit_id)s
     WHERE last_id = %(expected_id)s AND commit_id = %(expected_commit)s
 RETURNING clock_timestamp() AS now
), mine AS (
    UPDATE writers SET commit_id = %(commit_id)s, committed_at = cas.now
      FROM cas WHERE replica = %(replica)s
), r AS MATERIALIZED (
    SELECT i, b, k, j, y, coalesce(t, '') AS t, s, o, a, coalesce(q, 0) AS q,
           coalesce(w, '') AS w, coalesce(%(texts)s::jsonb ->> e, '') AS e, c, x IS NULL AS l, f,
           coalesce(m, told.unnest::jsonb) AS metadata, cas.now
      FROM cas, ROWS FROM (
           jsonb_to_recordset(%(rows)s::jsonb) AS (
           i bigint, b bigint, k integer, j uuid, y text, t text, s text, o integer, a integer,
           q bigint, m jsonb, w text, e integer, c smallint[], x boolean, f bigint),
           unnest(string_to_array(%(metadata)s::text, chr(30), ''))) AS told
), logged AS (
    INSERT INTO mlops_totalstate_table
           (id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
            created_at, metadata, actor, reason, kit_counts)
    SELECT i, b, k, j, y, t, s, o, a, q, now, metadata, w, e, c FROM r
), latest AS (
    INSERT INTO current_state
           (kit_id, job_id, task_name, id, job_type, status, current_order, attempt, seq,
            created_at, actor, reason, metadata)
    SELECT k, j, t, i, y, s, o, a, q, now, w, e, metadata FROM r WHERE l
    ON CONFLICT (kit_id, job_id, task_name) DO UPDATE
       SET id = excluded.id, status = excluded.status, attempt = excluded.attempt,
           seq = excluded.seq, created_at = excluded.created_at, actor = excluded.actor,
           reason = excluded.reason, metadata = excluded.metadata
)

-- name: write_touched
-- The part of batches that append rows of tasks only: of kits nothing else changes.
, kits_touched AS (
    UPDATE kits SET revision = x.i, updated_at = cas.now
      FROM cas, (SELECT k, max(i) AS i FROM r GROUP BY k) AS x
     WHERE kits.kit_id = x.k
)

-- name: write_kits
-- The part of all other batches.
, kits_moved AS (
    UPDATE kits
       SET status = x.status, counts = x.counts, revision = x.revision, updated_at = cas.now,
           paused = x.paused, pauses = x.pauses
      FROM cas, jsonb_to_recordset(%(kits)s::jsonb) AS x (
           kit_id integer, status text, counts smallint[], revision bigint, paused boolean,
           pauses integer)
     WHERE kits.kit_id = x.kit_id
)

-- name: write_jobs
-- The part of batches that change more of jobs than their tasks.
, jobs_moved AS (
    UPDATE jobs
       SET status = x.status, attempt = x.attempt, last_seq = x.last_seq, failures = x.failures,
           revision = x.revision, worker = x.worker,
           reason = coalesce(%(texts)s::jsonb ->> x.reason, ''), actor = x.actor,
           started_at = CASE WHEN x.started = 'infinity' THEN cas.now ELSE x.started END,
           finished_at = CASE WHEN x.finished = 'infinity' THEN cas.now ELSE x.finished END,
           result = coalesce(x.result::jsonb, jobs.result)
      FROM cas, jsonb_to_recordset(%(jobs)s::jsonb) AS x (
           job_id uuid, status text, attempt integer, last_seq bigint, failures integer,
           revision bigint, worker text, reason integer, actor text, started timestamptz,
           finished timestamptz, result text)
     WHERE jobs.job_id = x.job_id
)

-- name: write_rest
-- The part of batches that do more than append tasks' rows. What new jobs wait for is given beside
-- them, in their order: it may be half a million names, which JSON would only wrap.
, kits_made AS (
    INSERT INTO kits (kit_id, name, project, labels, spec, actor, created_at, status, counts,
                      revision, updated_at, paused, pauses, first_revision)
    SELECT x.kit_id, x.name, x.project, x.labels, x.spec::jsonb, x.actor, cas.now, x.status,
           x.counts, x.revision, cas.now, x.paused, x.pauses, x.first_revision
      FROM cas, jsonb_to_recordset(%(new_kits)s::jsonb) AS x (
           kit_id integer, name text, project text, labels jsonb, spec text, actor text,
           status text, counts smallint[], revision bigint, paused boolean, pauses integer,
           first_revision bigint)
), jobs_made AS (
    INSERT INTO jobs (job_id, kit_id, name, job_type, current_order, depends_on, spec_type, spec,
                      external, max_attempts, timeout, priority, labels, first_revision,
                      created_at, status, attempt, last_seq, failures, revision, started_at,
                      finished_at, worker, reason, actor, result)
    SELECT x.job_id, x.kit_id, x.name, x.job_type, x.current_order,
           coalesce(string_to_array(x.unnest, ' '), '{}'), x.spec_type,
           decode(x.spec, 'base64'), x.external, x.max_attempts,
           make_interval(secs => x.timeout), x.priority, x.labels, x.first_revision, cas.now,
           x.status, x.attempt, x.last_seq, x.failures, x.revision,
           CASE WHEN x.started = 'infinity' THEN cas.now ELSE x.started END,
           CASE WHEN x.finished = 'infinity' THEN cas.now ELSE x.finished END,
           x.worker, coalesce(%(texts)s::jsonb ->> x.reason, ''), x.actor, x.result::jsonb
      FROM cas, ROWS FROM (
           jsonb_to_recordset(%(new_jobs)s::jsonb) AS (
           job_id uuid, kit_id integer, name text, job_type text, current_order integer,
           spec_type text, spec text, external boolean, max_attempts integer,
           timeout double precision, priority integer, labels jsonb, first_revision bigint,
           status text, attempt integer, last_seq bigint, failures integer, revision bigint,
           started timestamptz, finished timestamptz, worker text, reason integer, actor text,
           result text),
           unnest(string_to_array(%(needs)s::text, chr(30)))) AS x
), tasks_gone AS (
    DELETE FROM current_state AS s
     USING cas, jsonb_to_recordset(%(restarted)s::jsonb) AS x (kit_id integer, job_id uuid)
     WHERE s.kit_id = x.kit_id AND s.job_id = x.job_id AND s.task_name <> ''
       AND NOT EXISTS (SELECT FROM r WHERE l AND j = s.job_id AND t = s.task_name)
), leases_ended AS (
    DELETE FROM leases USING cas
     WHERE job_id = ANY (ARRAY(SELECT jsonb_array_elements_text(%(ended)s::jsonb)::uuid))
), leases_granted AS (
    INSERT INTO leases (job_id, attempt, worker, expires_at)
    SELECT x.job_id, x.attempt, x.worker, cas.now + make_interval(secs => x.seconds)
      FROM cas, jsonb_to_recordset(%(leases)s::jsonb) AS x (
           job_id uuid, attempt integer, worker text, seconds double precision)
    ON CONFLICT (job_id) DO UPDATE
       SET attempt = excluded.attempt, worker = excluded.worker,
           expires_at = excluded.expires_at, progress = NULL, progress_at = NULL
), decks AS (
    INSERT INTO deck_collection (request_id, job_id, status, created_at, updated_at, metadata)
    SELECT f, j, s, now, now, metadata FROM r WHERE l AND t = '' AND y = 'DECK_COLLECTION'
    ON CONFLICT (job_id) DO UPDATE
       SET status = excluded.status, updated_at = excluded.updated_at,
           metadata = excluded.metadata
), does AS (
    INSERT INTO doe_step (id, job_id, status, data_info, created_at, updated_at, metadata)
    SELECT f, j, s, metadata -> 'result', now, now, metadata
      FROM r WHERE l AND t = '' AND y = 'DOE'
    ON CONFLICT (job_id) DO UPDATE
       SET status = excluded.status, updated_at = excluded.updated_at,
           metadata = excluded.metadata,
           data_info = coalesce(excluded.data_info, doe_step.data_info)
), mls AS (
    INSERT INTO ml_step (id, job_id, step_name, status, step_order, created_at, updated_at,
                         metadata)
    SELECT f, j, lower(substr(y, 4)), s,
           array_position(ARRAY['ML_PREPROCESS', 'ML_SCALE', 'ML_TRAIN', 'ML_TEST'], y),
           now, now, metadata
      FROM r WHERE l AND t = '' AND y LIKE 'ML\_%%'
    ON CONFLICT (job_id) DO UPDATE
       SET status = excluded.status, updated_at = excluded.updated_at,
           metadata = excluded.metadata
), optimizes AS (
    INSERT INTO optimize_step (id, job_id, status, created_at, updated_at, metadata)
    SELECT f, j, s, now, now, metadata FROM r WHERE l AND t = '' AND y = 'OPTIMIZE'
    ON CONFLICT (job_id) DO UPDATE
       SET status = excluded.status, updated_at = excluded.updated_at,
           metadata = excluded.metadata
), requests AS (
    INSERT INTO request_info (data, request_id, method, body_sha256, response, created_at, actor,
                              kit_id)
    SELECT x.data::jsonb, x.request_id, x.method, x.body_sha256, decode(x.response, 'base64'),
           cas.now, x.actor, x.kit_id
      FROM cas, jsonb_to_recordset(%(requests)s::jsonb) AS x (
           data text, request_id uuid, method text, body_sha256 text, response text, actor text,
           kit_id integer)
), changes_begun AS (
    INSERT INTO unfinished_changes
           (change_id, method, body_sha256, data, retry, reason, actor, kit_id, job_ids, whole,
            done, moved, revision, wanted)
    SELECT x.change_id, x.method, x.body_sha256, x.data::jsonb, x.retry, x.reason, x.actor,
           x.kit_id, x.job_ids, x.whole, x.done, x.moved, x.revision, x.wanted
      FROM cas, jsonb_to_recordset(%(changes_begun)s::jsonb) AS x (
           change_id uuid, method text, body_sha256 text, data text, retry boolean, reason text,
           actor text, kit_id integer, job_ids uuid[], whole boolean, done integer, moved integer,
           revision bigint, wanted jsonb)
    ON CONFLICT (change_id) DO NOTHING
), changes_moved AS (
    UPDATE unfinished_changes AS u
       SET done = x.done, moved = x.moved, revision = x.revision, touched_at = cas.now
      FROM cas, jsonb_to_recordset(%(changes_moved)s::jsonb) AS x (
           change_id uuid, done integer, moved integer, revision bigint)
     WHERE u.change_id = x.change_id
), changes_over AS (
    DELETE FROM unfinished_changes USING cas
     WHERE change_id = ANY (ARRAY(SELECT jsonb_array_elements_text(%(changes_over)s::jsonb)::uuid))
)

-- name: write_end
-- When the batch was committed; no row if the head was elsewhere. Wakes the other replicas.
SELECT now, pg_notify('totalstate', %(last_id)s::bigint::text) FROM cas

-- name: head
-- Where the log ends.
SELECT last_id, last_kit_id, epoch, commit_id, oldest_id FROM head

-- name: lock_head
-- Where the log ends, and nobody moves it until the transaction ends.
SELECT last_id, last_kit_id, epoch, commit_id, oldest_id FROM head FOR UPDATE

-- name: reclaim_head
-- Where the log ends. A statement of ours that still runs somewhere comes too late from here on:
-- this waits for it if it holds the head, and turns it away if it does not yet.
UPDATE head SET commit_id = %(commit_id)s
RETURNING last_id, last_kit_id, epoch, commit_id, oldest_id

-- name: enroll
-- The last commit of this process, if it made one.
INSERT INTO writers (replica) VALUES (%(replica)s)
ON CONFLICT (replica) DO UPDATE SET replica = excluded.replica
RETURNING commit_id, committed_at

-- name: forget_writers
-- Removes processes that have not written for long.
DELETE FROM writers WHERE committed_at < clock_timestamp() - interval '30 days'
   AND replica <> %(replica)s

-- name: forget_requests
-- Forgets the ids of requests, some at a time, and later the requests. Of rows that were appended the
-- log is the trail.
WITH aged AS (
    SELECT id, method FROM request_info
     WHERE request_id IS NOT NULL
       AND created_at < clock_timestamp() - make_interval(secs => %(seconds)s)
     ORDER BY created_at LIMIT 5000
), gone AS (
    SELECT id FROM aged WHERE method = 'AppendStates'
     UNION
    (SELECT id FROM request_info
      WHERE created_at < clock_timestamp() - make_interval(secs => %(trail_seconds)s)
      ORDER BY created_at LIMIT 5000)
), released AS (
    UPDATE request_info AS r SET request_id = NULL, data = r.data - 'part_of'
      FROM aged WHERE r.id = aged.id AND NOT EXISTS (SELECT FROM gone WHERE gone.id = r.id)
)
DELETE FROM request_info USING gone WHERE request_info.id = gone.id

-- name: list_requests
-- Requests with their answers, newest first; of very large ones the size only.
SELECT id, created_at, actor, method, kit_id,
       CASE WHEN octet_length(data::text) <= 65536 THEN data::text
            ELSE jsonb_build_object('bytes', octet_length(data::text))::text END,
       response
  FROM request_info
 WHERE id < %(before)s
   AND (%(actor)s::text IS NULL OR actor = %(actor)s)
   AND CASE WHEN %(method)s::text IS NULL THEN method <> 'AppendStates' ELSE method = %(method)s END
   AND (%(kit_id)s::integer IS NULL OR kit_id = %(kit_id)s)
   AND (%(after)s::timestamptz IS NULL OR created_at >= %(after)s)
   AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
 ORDER BY id DESC LIMIT %(limit)s

-- name: add_partitions
-- The end of the newest partition, after adding what is needed.
SELECT add_partitions(%(size)s)

-- name: kits_of_jobs
-- The kit of each job, and its project.
SELECT j.job_id, j.kit_id, k.project FROM jobs j JOIN kits k USING (kit_id)
 WHERE j.job_id = ANY (%(job_ids)s)

-- name: recorded_seqs
-- Revisions of rows by job, attempt and seq.
SELECT l.job_id, l.attempt, l.seq, min(l.id)
  FROM jsonb_to_recordset(%(wanted)s::jsonb) AS x (j uuid, a integer, q bigint[])
  JOIN mlops_totalstate_table AS l
    ON l.job_id = x.j AND l.attempt = x.a AND l.seq = ANY (x.q) AND l.seq > 0
 GROUP BY 1, 2, 3

-- name: same_rows
-- The places in `rows` of those that say what the row of their revision says. jsonb compares
-- numbers by value and knows no order of keys.
SELECT x.n
  FROM jsonb_to_recordset(%(rows)s::jsonb) AS x (n integer, i bigint, t text, s text, e text, m jsonb)
  JOIN mlops_totalstate_table AS l ON l.id = x.i
 WHERE l.task_name = x.t AND l.status = x.s AND l.reason = x.e AND l.metadata IS NOT DISTINCT FROM x.m

-- name: answers
-- What requests were answered.
SELECT request_id, method, body_sha256, response, created_at
  FROM request_info WHERE request_id = ANY (%(request_ids)s)

-- name: unfinished_changes
-- Changes that are made in pieces, and how far they are.
SELECT change_id, method, body_sha256, data::text, retry, reason, actor, kit_id, job_ids, whole,
       done, moved, revision, wanted
  FROM unfinished_changes WHERE change_id = ANY (%(change_ids)s)

-- name: take_changes
-- Changes without a commit for some time: the caller of this query takes them over.
UPDATE unfinished_changes SET touched_at = clock_timestamp()
 WHERE touched_at < clock_timestamp() - make_interval(secs => %(seconds)s)
RETURNING change_id, method, body_sha256, data::text, retry, reason, actor, kit_id, job_ids, whole,
          done, moved, revision, wanted

-- name: touch_change
-- Keeps a change from being taken over.
UPDATE unfinished_changes SET touched_at = clock_timestamp() WHERE change_id = %(change_id)s
RETURNING change_id

-- name: jobs_of_kits
-- The jobs of kits with their leases' progress, in the order they were made.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, j.spec_type, j.spec,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, coalesce(j.result::text, ''),
       l.progress, l.progress_at
  FROM jobs j LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
 WHERE j.kit_id = ANY (%(kit_ids)s)
 ORDER BY j.first_revision

-- name: job_by_id
-- One job with its lease's progress.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, j.spec_type, j.spec,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, coalesce(j.result::text, ''),
       l.progress, l.progress_at
  FROM jobs j LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
 WHERE j.job_id = %(job_id)s

-- name: tasks_of_kits
-- The latest row of each task of the kits' jobs, in revision order.
SELECT id, id, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, NULL::smallint[]
  FROM current_state
 WHERE kit_id = ANY (%(kit_ids)s) AND task_name <> '' AND job_type <> 'KIT'
 ORDER BY id

-- name: tasks_of_job
-- The latest row of each task of one job, in revision order.
SELECT id, id, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, coalesce(metadata::text, ''), actor, reason, NULL::smallint[]
  FROM current_state
 WHERE kit_id = %(kit_id)s AND job_id = %(job_id)s AND task_name <> ''
 ORDER BY id

-- name: list_kits
-- Kits without their jobs, newest first, up to so many bytes of specs and labels but at least one;
-- and whether there are more. `some_kits` stands for one of the two queries that follow.
SELECT k.kit_id, k.name, k.project, k.labels, coalesce(k.spec::text, ''), k.actor, k.counts,
       k.revision, k.created_at, k.updated_at, k.paused, k.pauses, k.first_revision, picked.total
  FROM (SELECT kit_id, row_number() OVER newest AS place, count(*) OVER () AS total,
               sum(coalesce(octet_length(spec::text), 0) + octet_length(labels::text)) OVER newest
                   AS bytes
          FROM (some_kits) AS wanted
        WINDOW newest AS (ORDER BY kit_id DESC)) AS picked
  JOIN kits k USING (kit_id)
 WHERE picked.bytes <= %(bytes)s OR picked.place = 1
 ORDER BY k.kit_id DESC

-- name: kits_around
-- Ids between which all kits of certain times are: ids rise with times, but for a clock that was
-- set back.
SELECT coalesce((SELECT kit_id FROM kits WHERE created_at < %(surely_after)s::timestamptz
                  ORDER BY created_at DESC LIMIT 1), 0),
       coalesce((SELECT kit_id FROM kits WHERE created_at > %(surely_before)s::timestamptz
                  ORDER BY created_at LIMIT 1), 2147483647)

-- name: kits_wanted
-- The newest kits that a filter wants.
SELECT kit_id, spec, labels FROM kits
 WHERE kit_id < %(before)s AND kit_id > %(after)s
   AND (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
   AND (%(labels)s::jsonb IS NULL OR labels @> %(labels)s::jsonb)
   AND (%(name_contains)s::text IS NULL OR strpos(folded(name), folded(%(name_contains)s)) > 0)
   AND (%(name_contains)s::text IS NULL OR name_grams(name) @> part_grams(%(name_contains)s))
   AND (%(created_after)s::timestamptz IS NULL OR created_at >= %(created_after)s::timestamptz)
   AND (%(created_before)s::timestamptz IS NULL OR created_at < %(created_before)s::timestamptz)
 ORDER BY kit_id DESC LIMIT %(limit)s

-- name: kits_wanted_by_status
-- The same of certain statuses: of each as many as may be wanted, by the index that has them in
-- order. `some_kits` stands for the query above, narrowed to one status. That is not written as an
-- equality, which would let the planner walk along all kits in the hope to meet some.
SELECT found.kit_id, found.spec, found.labels
  FROM unnest(%(statuses)s::text[]) AS word
 CROSS JOIN LATERAL (some_kits) AS found
 ORDER BY kit_id DESC LIMIT %(limit)s

-- name: kits_wanted_by_search
-- The same by labels or a part of the name: first among the newest kits, where those are that many
-- have; then, if that was not enough, among all others by an index, which finds all of them at
-- once. `recent_kits` and `older_kits` stand for the query above, narrowed to those.
WITH recent AS MATERIALIZED (recent_kits), older AS MATERIALIZED (older_kits)
SELECT kit_id, spec, labels FROM (SELECT * FROM recent UNION ALL SELECT * FROM older) AS both_kinds
 ORDER BY kit_id DESC LIMIT %(limit)s

-- name: list_jobs
-- Jobs without their tasks, newest first, up to so many bytes of what is large but at least one;
-- and whether there are more. `some_jobs` stands for one of the two queries that follow.
SELECT j.job_id, j.kit_id, j.name, j.job_type, j.current_order, j.depends_on, j.spec_type, j.spec,
       j.external, j.max_attempts, j.failures, extract(epoch FROM j.timeout)::float8, j.priority,
       j.labels, j.status, j.attempt, j.last_seq, j.first_revision, j.revision, j.created_at,
       j.started_at, j.finished_at, j.worker, j.reason, j.actor, coalesce(j.result::text, ''),
       l.progress, l.progress_at, picked.total
  FROM (SELECT job_id, row_number() OVER newest AS place, count(*) OVER () AS total,
               sum(octet_length(spec) + coalesce(octet_length(result::text), 0)
                   + octet_length(labels::text) + octet_length(depends_on::text)) OVER newest
                   AS bytes
          FROM (some_jobs) AS wanted
        WINDOW newest AS (ORDER BY first_revision DESC)) AS picked
  JOIN jobs j USING (job_id)
  LEFT JOIN leases l ON l.job_id = j.job_id AND l.attempt = j.attempt
 WHERE picked.bytes <= %(bytes)s OR picked.place = 1
 ORDER BY j.first_revision DESC

-- name: jobs_wanted
-- The newest jobs that a filter wants. The clause of the project is left out where none is given:
-- it takes a join, which no constant folds away.
SELECT job_id, first_revision, spec, result, labels, depends_on FROM jobs
 WHERE first_revision < %(before)s
   AND (%(kit_ids)s::int[] IS NULL OR kit_id = ANY (%(kit_ids)s::int[]))
   AND (%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
   AND (%(labels)s::jsonb IS NULL OR labels @> %(labels)s::jsonb)
   AND kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s)
 ORDER BY first_revision DESC LIMIT %(limit)s

-- name: jobs_wanted_by_kind
-- The same of certain types and statuses: of each pair as many as may be wanted, by an index that
-- has them in order. `some_jobs` stands for the query above, narrowed to one type and one status.
SELECT found.*
  FROM unnest(%(each_type)s::text[]) AS kind, unnest(%(each_status)s::text[]) AS word,
       LATERAL (some_jobs) AS found
 ORDER BY first_revision DESC LIMIT %(limit)s

-- name: task_counts
-- Tasks of jobs by status, without those that only tell progress.
SELECT s.job_id, s.status, count(*)
  FROM current_state s JOIN jobs j USING (job_id)
 WHERE s.kit_id = ANY (%(kit_ids)s) AND s.job_id = ANY (%(job_ids)s) AND s.task_name <> ''
   AND (s.task_name <> 'progress' OR j.external)
 GROUP BY 1, 2

-- name: list_states
-- Rows of a range of the log that a filter wants, in order, up to so many bytes of metadata and
-- reasons but at least one; and whether there are more.
SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order, attempt, seq,
       created_at, metadata, actor, reason, kit_counts, total
  FROM (SELECT *, row_number() OVER oldest AS place, count(*) OVER () AS total,
               sum(octet_length(metadata) + octet_length(reason)) OVER oldest AS bytes
          FROM (SELECT id, batch, kit_id, job_id, job_type, task_name, status, current_order,
                       attempt, seq, created_at, coalesce(metadata::text, '') AS metadata, actor,
                       reason, kit_counts
                  FROM mlops_totalstate_table
                 WHERE id > %(after)s AND id <= %(until)s
                   AND (%(kit_ids)s::int[] IS NULL OR kit_id = ANY (%(kit_ids)s::int[]))
                   AND (%(labels)s::jsonb IS NULL
                        OR kit_id IN (SELECT kit_id FROM kits WHERE labels @> %(labels)s::jsonb))
                   AND (%(project)s::text IS NULL
                        OR kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s))
                   AND (%(recorded_after)s::timestamptz IS NULL
                        OR created_at >= %(recorded_after)s::timestamptz)
                   AND (%(recorded_before)s::timestamptz IS NULL
                        OR created_at < %(recorded_before)s::timestamptz)
                   AND (%(job_types)s::text[] IS NULL OR job_type = ANY (%(job_types)s::text[]))
                   AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
                   AND (%(job_ids)s::uuid[] IS NULL OR job_id = ANY (%(job_ids)s::uuid[]))
                 ORDER BY id LIMIT %(limit)s) AS wanted
        WINDOW oldest AS (ORDER BY id)) AS picked
 WHERE bytes <= %(bytes)s OR place = 1
 ORDER BY id

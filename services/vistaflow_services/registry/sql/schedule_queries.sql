-- Queries of the schedules.

-- name: database_clock
-- The time by the database.
SELECT clock_timestamp()

-- name: add_schedule
-- Adds a schedule; returns nothing if its name is taken or the project has too many.
INSERT INTO schedules (project, name, timing, overlap, catch_up_window, paused, note, kit, kit_name,
                       handled_until, created_at, updated_at, actor, notify)
SELECT %(project)s, %(name)s, %(timing)s, %(overlap)s, %(catch_up_window)s, %(paused)s, %(note)s,
       %(kit)s, %(kit_name)s, %(now)s, %(now)s, %(now)s, %(actor)s, %(notify)s::jsonb
 WHERE (SELECT count(*) FROM schedules WHERE project = %(project)s) < %(most)s
ON CONFLICT (project, name) DO NOTHING RETURNING schedule_id

-- name: find_schedules
-- Schedules in the order they were made, each with its latest fire.
SELECT s.schedule_id, s.number, s.project, s.name, s.timing, s.overlap, s.catch_up_window, s.paused,
       s.note, s.handled_until, s.next_time, s.kit_name, s.created_at, s.updated_at, s.actor,
       s.revision, s.notify, f.fire_time, f.state, f.reason, f.kit_id, k.status, f.manual, f.updated_at
  FROM schedules AS s
  LEFT JOIN LATERAL (SELECT * FROM schedule_fires WHERE schedule_id = s.schedule_id
                      ORDER BY fire_time DESC LIMIT 1) AS f ON true
  LEFT JOIN kits AS k ON k.kit_id = f.kit_id
 WHERE (%(project)s::text IS NULL OR s.project = %(project)s)
   AND (%(name)s::text IS NULL OR s.name = %(name)s)
   AND s.number > %(after)s
 ORDER BY s.number LIMIT %(limit)s

-- name: schedule_fires
-- The latest fires of a schedule, newest first.
SELECT f.fire_time, f.state, f.reason, f.kit_id, k.status, f.manual, f.updated_at
  FROM schedule_fires AS f LEFT JOIN kits AS k USING (kit_id)
 WHERE f.schedule_id = %(schedule_id)s
   AND (%(fire_time)s::timestamptz IS NULL OR f.fire_time = %(fire_time)s)
 ORDER BY f.fire_time DESC LIMIT %(limit)s

-- name: schedule_kit
-- The kit that a schedule makes, with the schedule's project and name.
SELECT kit, project, name FROM schedules WHERE schedule_id = %(schedule_id)s

-- name: change_schedule
-- Changes what is not null. A new timing, and a resumed schedule, fire from now on.
UPDATE schedules
   SET timing = coalesce(%(timing)s, timing),
       overlap = coalesce(%(overlap)s, overlap),
       catch_up_window = coalesce(%(catch_up_window)s, catch_up_window),
       note = coalesce(%(note)s, note),
       kit = coalesce(%(kit)s, kit),
       kit_name = coalesce(%(kit_name)s, kit_name),
       notify = coalesce(%(notify)s::jsonb, notify),
       handled_until = CASE WHEN %(timing)s::bytea IS NOT NULL OR (paused AND NOT %(paused)s)
                            THEN %(now)s ELSE handled_until END,
       next_time = CASE WHEN %(timing)s::bytea IS NOT NULL OR (paused AND NOT %(paused)s)
                        THEN NULL ELSE next_time END,
       paused = coalesce(%(paused)s, paused),
       updated_at = %(now)s, actor = %(actor)s, revision = revision + 1
 WHERE project = %(project)s AND name = %(name)s
RETURNING schedule_id

-- name: remove_schedule
-- Removes a schedule with its fires.
DELETE FROM schedules WHERE project = %(project)s AND name = %(name)s RETURNING schedule_id

-- name: add_fire
-- Adds a fire that a person asks for; returns its time, which no other fire has. The revision of the
-- schedule moves, so that plans see the fire.
WITH moved AS (
    UPDATE schedules SET revision = revision + 1
     WHERE project = %(project)s AND name = %(name)s RETURNING schedule_id
)
INSERT INTO schedule_fires (schedule_id, fire_time, state, manual, updated_at)
SELECT m.schedule_id, %(now)s::timestamptz + (
           SELECT count(*) FROM schedule_fires AS f
            WHERE f.schedule_id = m.schedule_id
              AND f.fire_time BETWEEN %(now)s AND %(now)s::timestamptz + interval '1 ms'
       ) * interval '1 microsecond', 'PENDING', true, %(now)s
  FROM moved AS m
RETURNING fire_time

-- name: due_schedules
-- Schedules to plan: whether a kit of them is at work, and the fire that waits.
SELECT s.schedule_id, s.number, s.project, s.name, s.timing, s.overlap, s.catch_up_window, s.paused,
       s.note, s.handled_until, s.next_time, s.kit_name, s.created_at, s.updated_at, s.actor,
       s.revision, s.notify, live.is, waiting.fire_time
  FROM schedules AS s
 CROSS JOIN LATERAL (
       SELECT EXISTS (
           SELECT FROM schedule_fires AS f LEFT JOIN kits AS k USING (kit_id)
            WHERE f.schedule_id = s.schedule_id
              AND (f.state = 'PENDING'
                   OR f.state = 'STARTED'
                      AND (k.status NOT IN ('FINISHED', 'FAILED', 'CANCELED')
                           OR k.counts[2] + k.counts[3] > 0))) AS is) AS live
  LEFT JOIN LATERAL (
       SELECT min(fire_time) AS fire_time FROM schedule_fires
        WHERE schedule_id = s.schedule_id AND state = 'BUFFERED') AS waiting ON true
 WHERE NOT s.paused
   AND (s.next_time IS NULL OR s.next_time <= %(now)s
        OR waiting.fire_time IS NOT NULL AND NOT live.is)
 ORDER BY s.next_time NULLS FIRST, s.number LIMIT %(limit)s

-- name: pending_fires
-- Fires whose kits are not made yet, oldest first.
SELECT schedule_id, fire_time FROM schedule_fires
 WHERE state = 'PENDING' ORDER BY fire_time, schedule_id LIMIT %(limit)s

-- name: plan_schedule
-- Moves a schedule on; returns nothing if it was changed or planned since its revision.
UPDATE schedules
   SET handled_until = greatest(handled_until, %(handled_until)s), next_time = %(next_time)s,
       revision = revision + 1
 WHERE schedule_id = %(schedule_id)s AND revision = %(revision)s
RETURNING schedule_id

-- name: plan_fires
-- Records fires; of those there are only one that waited changes.
INSERT INTO schedule_fires AS f (schedule_id, fire_time, state, reason, updated_at)
SELECT %(schedule_id)s, x.fire_time, x.state, x.reason, %(now)s
  FROM unnest(%(fire_times)s::timestamptz[], %(states)s::text[], %(reasons)s::text[])
       AS x (fire_time, state, reason)
ON CONFLICT (schedule_id, fire_time) DO UPDATE
   SET state = excluded.state, reason = excluded.reason, updated_at = excluded.updated_at
 WHERE f.state = 'BUFFERED'

-- name: settle_fire
-- A fire has its kit, or the reason why there is none.
UPDATE schedule_fires
   SET state = %(state)s, reason = %(reason)s, kit_id = %(kit_id)s, updated_at = %(now)s
 WHERE schedule_id = %(schedule_id)s AND fire_time = %(fire_time)s AND state = 'PENDING'

-- name: trim_fires
-- Removes the oldest fires beyond a number that are over.
DELETE FROM schedule_fires AS f
 USING (SELECT fire_time FROM schedule_fires WHERE schedule_id = %(schedule_id)s
         ORDER BY fire_time DESC OFFSET %(most)s) AS old
 WHERE f.schedule_id = %(schedule_id)s AND f.fire_time = old.fire_time
   AND f.state NOT IN ('BUFFERED', 'PENDING')

-- name: lock_request
-- Waits for another transaction that answers the same request.
SELECT pg_advisory_xact_lock(hashtextextended(%(request_id)s::uuid::text, 0))

-- name: keep_schedule_request
-- Keeps a request and its answer.
INSERT INTO request_info (data, request_id, method, body_sha256, response, created_at, actor)
VALUES (%(data)s::jsonb, %(request_id)s, %(method)s, %(body_sha256)s, %(response)s,
        clock_timestamp(), %(actor)s)

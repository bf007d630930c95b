-- Queries of the outbox. `now` is NULL for the database's clock.

-- name: put_webhook
-- Makes a webhook, or changes what is not null; returns nothing if something is missing or the project has too many.
WITH former AS (
    SELECT * FROM webhooks WHERE project = %(project)s AND name = %(name)s
), new AS (
    SELECT coalesce(%(url)s, f.url) AS url,
           CASE WHEN f.webhook_id IS NULL OR %(change_events)s THEN %(events)s::text[] ELSE f.events END AS events,
           coalesce(%(secrets)s::bytea[], f.secrets) AS secrets
      FROM (VALUES (1)) AS one LEFT JOIN former AS f ON true
     WHERE f.webhook_id IS NOT NULL
        OR (SELECT count(*) FROM webhooks WHERE project = %(project)s) < %(most)s
)
INSERT INTO webhooks (project, name, url, events, secrets, created_at, updated_at, actor)
SELECT %(project)s, %(name)s, url, events, secrets, t.now, t.now, %(actor)s
  FROM new, (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t
 WHERE url IS NOT NULL AND secrets IS NOT NULL
ON CONFLICT (project, name) DO UPDATE
   SET url = excluded.url, events = excluded.events, secrets = excluded.secrets,
       updated_at = excluded.updated_at, actor = excluded.actor
RETURNING webhook_id

-- name: list_webhooks
-- Webhooks by project and name.
SELECT project, name, url, events, cardinality(secrets), created_at, updated_at, actor
  FROM webhooks
 WHERE (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(name)s::text IS NULL OR name = %(name)s)
 ORDER BY project, name LIMIT %(limit)s

-- name: delete_webhook
-- Deletes a webhook; what waits for it is DEAD.
WITH deleted AS (
    DELETE FROM webhooks WHERE project = %(project)s AND name = %(name)s RETURNING webhook_id
), dead AS (
    UPDATE deliveries AS d
       SET state = 'DEAD', error = 'the webhook was deleted', lease = NULL, leased_until = NULL,
           updated_at = coalesce(%(now)s, clock_timestamp())
      FROM deleted WHERE d.webhook_id = deleted.webhook_id AND d.state = 'PENDING'
)
SELECT webhook_id FROM deleted

-- name: add_events
-- Records events for each webhook that wants them; returns how many deliveries that are.
WITH added AS (
    INSERT INTO deliveries (event_id, kind, event_type, project, webhook_id, target, order_key,
                            body, created_at, updated_at, next_attempt_at)
    SELECT e.event_id, 'WEBHOOK', e.event_type, w.project, w.webhook_id, w.name, e.order_key,
           e.body, t.now, t.now, t.now
      FROM (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t,
           jsonb_to_recordset(%(events)s::jsonb)
               AS e (place int, event_id uuid, event_type text, project text, order_key text, body text, names text[])
      JOIN webhooks AS w ON w.project = e.project AND (e.event_type = ANY (w.events) OR w.name = ANY (e.names))
     ORDER BY e.place
    ON CONFLICT (coalesce(webhook_id, '00000000-0000-0000-0000-000000000000'), event_id) DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM added

-- name: add_lineage
-- Records lineage events.
INSERT INTO deliveries (event_id, kind, event_type, project, target, order_key, job_id, body,
                        created_at, updated_at, next_attempt_at)
SELECT e.event_id, 'LINEAGE', e.event_type, e.project, 'openlineage', e.order_key, e.job_id, e.body,
       t.now, t.now, t.now
  FROM (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t,
       jsonb_to_recordset(%(events)s::jsonb)
           AS e (place int, event_id uuid, event_type text, project text, order_key text, body text, job_id uuid)
 ORDER BY e.place
ON CONFLICT (coalesce(webhook_id, '00000000-0000-0000-0000-000000000000'), event_id) DO NOTHING

-- name: lock_outbox
-- Waits for other transactions that lease or list what is due.
SELECT pg_advisory_xact_lock(hashtext('vistaflow outbox'))

-- name: lease_deliveries
-- Leases what is due: of each key the oldest, of each target a few.
WITH heads AS (
    SELECT DISTINCT ON (target, project, order_key)
           delivery_id, target, project, next_attempt_at, leased_until > t.now AS is_leased
      FROM deliveries, (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t
     WHERE state = 'PENDING'
     ORDER BY target, project, order_key, delivery_id
), placed AS (
    SELECT h.*,
           count(*) FILTER (WHERE is_leased) OVER (PARTITION BY target, project) AS leased,
           row_number() OVER (PARTITION BY target, project, coalesce(is_leased, false)
                              ORDER BY next_attempt_at, delivery_id) AS place
      FROM heads AS h
     WHERE is_leased OR next_attempt_at <= coalesce(%(now)s, clock_timestamp())
), chosen AS (
    SELECT delivery_id FROM placed
     WHERE is_leased IS NOT TRUE AND place + leased <= %(per_target)s
     ORDER BY place, next_attempt_at LIMIT %(limit)s
)
UPDATE deliveries AS d
   SET lease = gen_random_uuid(), attempts = d.attempts + 1,
       leased_until = t.now + %(lease)s,
       expires_at = coalesce(d.expires_at, t.now + %(patience)s)
  FROM chosen AS c
  CROSS JOIN (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t
 WHERE d.delivery_id = c.delivery_id
RETURNING d.delivery_id, d.lease, d.kind, d.event_id, d.body, t.now,
          (SELECT url FROM webhooks AS w WHERE w.webhook_id = d.webhook_id),
          (SELECT secrets FROM webhooks AS w WHERE w.webhook_id = d.webhook_id)

-- name: report_delivery
-- Ends a lease: SENT, or PENDING again after a pause, or DEAD.
UPDATE deliveries
   SET state = CASE WHEN %(sent)s THEN 'SENT'
                    WHEN %(permanent)s OR t.now >= expires_at THEN 'DEAD' ELSE 'PENDING' END,
       answer_status = %(answer_status)s, error = %(error)s,
       lease = NULL, leased_until = NULL, updated_at = t.now,
       next_attempt_at = CASE WHEN t.now < expires_at
                              THEN least(expires_at, t.now + greatest(%(retry_after)s, make_interval(secs =>
                                  least(86400, 5 * 2.0 ^ least(attempts - 1, 20)) * (0.5 + random()))))
                              ELSE t.now END
  FROM (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t
 WHERE delivery_id = %(delivery_id)s AND lease = %(lease)s AND state = 'PENDING'
RETURNING delivery_id

-- name: retry_delivery
-- Has a DEAD delivery be sent again; returns nothing if its receiver is no longer there.
UPDATE deliveries AS d
   SET state = 'PENDING', next_attempt_at = t.now, updated_at = t.now, expires_at = NULL, attempts = 0
  FROM (SELECT coalesce(%(now)s, clock_timestamp()) AS now) AS t
 WHERE d.delivery_id = %(delivery_id)s AND d.state = 'DEAD'
   AND (d.kind = 'LINEAGE' OR EXISTS (SELECT FROM webhooks AS w WHERE w.webhook_id = d.webhook_id))
RETURNING d.delivery_id

-- name: list_deliveries
-- Deliveries, newest first.
SELECT delivery_id, event_id, kind, event_type, project, target, order_key, state, attempts,
       answer_status, error, created_at, updated_at, next_attempt_at, job_id
  FROM deliveries
 WHERE (%(project)s::text IS NULL OR project = %(project)s)
   AND (%(state)s::text IS NULL OR state = %(state)s)
   AND (%(target)s::text IS NULL OR target = %(target)s)
   AND (%(delivery_id)s::bigint IS NULL OR delivery_id = %(delivery_id)s)
   AND (%(event_id)s::uuid IS NULL OR event_id = %(event_id)s)
   AND delivery_id < %(before)s
 ORDER BY delivery_id DESC LIMIT %(limit)s

-- name: forget_deliveries
-- Deletes deliveries that ended long ago.
DELETE FROM deliveries
 WHERE state <> 'PENDING' AND updated_at < coalesce(%(now)s, clock_timestamp()) - %(age)s

-- name: outbox_health
-- How many wait, how many are dead, and for how many seconds the oldest that is due waits.
SELECT (SELECT count(*) FROM deliveries WHERE state = 'PENDING'),
       (SELECT count(*) FROM deliveries WHERE state = 'DEAD'),
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
          FROM deliveries WHERE state = 'PENDING')

-- name: begin_outbox
-- How far events are recorded, where the log ends, and whether anybody wants events; nothing while another registry records them.
SELECT c.revision, h.last_id, EXISTS (SELECT FROM webhooks)
  FROM outbox_cursor AS c, head AS h FOR UPDATE OF c SKIP LOCKED

-- name: move_outbox
-- Events are recorded up to a revision.
UPDATE outbox_cursor SET revision = %(revision)s

-- name: ended_kits
-- Kits that ended within a part of the log, with what was wrong; in order.
WITH ends AS (
    SELECT DISTINCT ON (l.kit_id, over.status) l.id, l.kit_id, l.created_at, over.status
      FROM mlops_totalstate_table AS l,
           LATERAL (SELECT CASE WHEN l.kit_counts[5] > 0 THEN 'FAILED'
                                WHEN l.kit_counts[6] > 0 THEN 'CANCELED'
                                WHEN l.kit_counts[1] = 0 THEN 'FINISHED' END AS status) AS over
     WHERE l.id > %(after)s AND l.id <= %(until)s AND l.task_name = ''
       AND l.status IN ('FINISHED', 'FAILED', 'CANCELED')
       AND l.kit_counts[2] = 0 AND l.kit_counts[3] = 0 AND over.status IS NOT NULL
     ORDER BY l.kit_id, over.status, l.id
)
SELECT e.id, e.kit_id, e.created_at, e.status, k.name, k.project, k.labels, k.spec -> 'notify',
       s.name, s.notify, (SELECT sum(attempt) FROM jobs WHERE kit_id = e.kit_id)::bigint,
       f.job_id, f.name, f.job_type, f.reason
  FROM ends AS e
  JOIN kits AS k USING (kit_id)
  LEFT JOIN schedules AS s ON s.project = k.project AND s.name = k.labels ->> 'schedule'
  LEFT JOIN LATERAL (SELECT job_id, name, job_type, reason FROM jobs
                      WHERE kit_id = e.kit_id AND status = 'FAILED' AND e.status = 'FAILED'
                      ORDER BY finished_at, revision LIMIT 1) AS f ON true
 ORDER BY e.id

-- name: data_jobs
-- Jobs that move data and began or ended within a part of the log; in order. Last, the jobs that
-- each depends on, by name: their ids, and the versions of datasets that they made. Of a job that
-- failed the result is what its row says of the failure.
SELECT l.id, l.job_id, l.job_type, l.status, l.created_at, l.reason, l.attempt, k.project, k.spec,
       j.spec_type, j.spec,
       CASE l.status WHEN 'FAILED' THEN l.metadata #> '{error,details}' ELSE j.result END,
       d.name, v.version, v.manifest,
       (SELECT jsonb_object_agg(name, jsonb_build_object('job_id', job_id, 'pinned', result -> 'pinned'))
          FROM jobs AS other WHERE other.kit_id = l.kit_id AND other.name = ANY (j.depends_on))
  FROM mlops_totalstate_table AS l
  JOIN jobs AS j ON j.job_id = l.job_id
  JOIN kits AS k ON k.kit_id = l.kit_id
  LEFT JOIN dataset_versions AS v ON v.job_id = l.job_id AND l.status = 'FINISHED'
  LEFT JOIN datasets AS d USING (dataset_id)
 WHERE l.id > %(after)s AND l.id <= %(until)s AND l.task_name = ''
   AND l.job_type IN ('QUERY', 'IMPORT', 'CONVERT')
   AND l.status IN ('RUNNING', 'FINISHED', 'FAILED', 'CANCELED')
 ORDER BY l.id

-- name: schedule_name
-- A schedule's project, name and whom it notifies.
SELECT project, name, notify FROM schedules WHERE schedule_id = %(schedule_id)s

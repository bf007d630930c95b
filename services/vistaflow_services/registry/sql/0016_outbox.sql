-- Events for other programs: where they are sent, and how far each is.

CREATE TABLE webhooks (
    webhook_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    project    text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    url        text NOT NULL,
    events     text[] NOT NULL,
    secrets    bytea[] NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    actor      text NOT NULL,
    UNIQUE (project, name)
);
COMMENT ON TABLE webhooks IS 'Where events of a project are sent.';
COMMENT ON COLUMN webhooks.secrets IS 'Sealed by the key in keys/webhooks of the registry''s home.';

CREATE TABLE deliveries (
    delivery_id     bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    event_id        uuid NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('WEBHOOK', 'LINEAGE')),
    event_type      text NOT NULL,
    project         text COLLATE "C" NOT NULL,
    webhook_id      uuid,
    target          text COLLATE "C" NOT NULL,
    order_key       text COLLATE "C" NOT NULL,
    job_id          uuid,
    body            text NOT NULL,
    state           text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'SENT', 'DEAD')),
    attempts        integer NOT NULL DEFAULT 0,
    answer_status   integer NOT NULL DEFAULT 0,
    error           text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    expires_at      timestamptz,
    lease           uuid,
    leased_until    timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE deliveries IS 'The outbox: a row for each receiver of an event.';
COMMENT ON COLUMN deliveries.expires_at IS 'When it is given up: counted from its first attempt.';
-- An event that is derived again from the log is recorded once.
CREATE UNIQUE INDEX deliveries_event ON deliveries (coalesce(webhook_id, '00000000-0000-0000-0000-000000000000'), event_id);
-- For lease_deliveries.
CREATE INDEX deliveries_pending ON deliveries (target, project, order_key, delivery_id) WHERE state = 'PENDING';
-- For list_deliveries.
CREATE INDEX deliveries_project ON deliveries (project, delivery_id);
-- For outbox_health, which counts them, and for forget_deliveries.
CREATE INDEX deliveries_state ON deliveries (state, updated_at);
-- For the view model_queue.
CREATE INDEX deliveries_job ON deliveries (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE outbox_cursor (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision bigint NOT NULL
);
COMMENT ON TABLE outbox_cursor IS 'How far in the log events have been recorded.';
INSERT INTO outbox_cursor (revision) SELECT last_id FROM head;

ALTER TABLE schedules ADD COLUMN notify jsonb NOT NULL DEFAULT '[]';
COMMENT ON COLUMN schedules.notify IS 'The webhooks that get events of the schedule and its kits, as Notify messages.';

DROP VIEW model_queue;
CREATE VIEW model_queue AS
WITH edges AS (
    SELECT f.id, f.job_id,
           'vistaflow.results.' || k.project || '.' || quote_ident(j.job_id::text) AS model_name_fqn,
           f.fully_qualified_name AS from_fqn, 'LINEAGE' AS command, 'COMPLETE' AS event_type
      FROM fusion_model AS f
      JOIN jobs AS j USING (job_id)
      JOIN kits AS k USING (kit_id)
     WHERE j.status = 'FINISHED'
    UNION ALL
    SELECT j.first_revision * 1000, j.job_id,
           'vistaflow.dataset.' || k.project || '.' || (k.spec ->> 'register_as'),
           'vistaflow.results.' || k.project || '.' || quote_ident(q.job_id::text),
           'INGESTION', 'DATASET'
      FROM jobs AS j
      JOIN kits AS k USING (kit_id)
      JOIN jobs AS q ON q.kit_id = j.kit_id AND q.job_type = 'QUERY'
     WHERE j.job_type = 'IMPORT' AND j.status = 'FINISHED' AND k.spec ? 'register_as'
)
SELECT e.id, e.job_id, e.model_name_fqn, e.from_fqn, e.command,
       d.state, d.attempts, d.error AS last_error, d.updated_at
  FROM edges AS e
  LEFT JOIN deliveries AS d ON d.job_id = e.job_id AND d.kind = 'LINEAGE' AND d.event_type = e.event_type;
COMMENT ON VIEW model_queue IS 'From which table to which result or dataset data went, and whether the catalog of metadata knows: state is NULL where no catalog was named, or the delivery is no longer kept.';

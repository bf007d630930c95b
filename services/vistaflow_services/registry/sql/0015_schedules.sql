-- Schedules and their fires, beside the log; and the audit trail of requests.

CREATE TABLE schedules (
    schedule_id     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number          bigint NOT NULL UNIQUE GENERATED ALWAYS AS IDENTITY,
    project         text COLLATE "C" NOT NULL,
    name            text COLLATE "C" NOT NULL,
    timing          bytea NOT NULL,
    overlap         text NOT NULL CHECK (overlap IN ('SKIP', 'BUFFER_ONE', 'ALLOW')),
    catch_up_window interval NOT NULL,
    paused          boolean NOT NULL,
    note            text NOT NULL,
    kit             bytea NOT NULL,
    kit_name        text NOT NULL,
    handled_until   timestamptz NOT NULL,
    next_time       timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    actor           text NOT NULL,
    revision        bigint NOT NULL DEFAULT 1,
    UNIQUE (project, name)
);
COMMENT ON TABLE schedules IS 'Kits that are run again and again. timing and kit are messages: Timing, CreateKitRequest.';
COMMENT ON COLUMN schedules.next_time IS 'The next fire; NULL until it is planned.';

CREATE TABLE schedule_fires (
    schedule_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
    fire_time   timestamptz NOT NULL,
    state       text NOT NULL
                CHECK (state IN ('BUFFERED', 'PENDING', 'STARTED', 'SKIPPED', 'MISSED', 'FAILED')),
    reason      text NOT NULL DEFAULT '',
    kit_id      integer,
    manual      boolean NOT NULL DEFAULT false,
    updated_at  timestamptz NOT NULL,
    -- What makes a fire happen once.
    PRIMARY KEY (schedule_id, fire_time)
);
COMMENT ON TABLE schedule_fires IS 'The times at which schedules fired. A row is PENDING before its kit is made.';
-- For due_schedules and pending_fires.
CREATE INDEX schedule_fires_open ON schedule_fires (fire_time) WHERE state IN ('BUFFERED', 'PENDING');

-- The audit trail: requests stay longer than their ids are recognised.
ALTER TABLE request_info
    ADD COLUMN actor text NOT NULL DEFAULT '',
    ADD COLUMN kit_id integer;
COMMENT ON COLUMN request_info.actor IS 'Who asked: the name of the token, else the name given in the request.';
COMMENT ON COLUMN request_info.request_id IS 'NULL once the id is no longer recognised, and of requests without one.';
UPDATE request_info
   SET actor = coalesce(data ->> 'actor', ''),
       kit_id = CASE WHEN jsonb_typeof(data -> 'kit_id') = 'number' THEN (data ->> 'kit_id')::integer END
 WHERE method <> 'AppendStates';
-- For forget_requests.
CREATE INDEX request_info_recognised ON request_info (created_at) WHERE request_id IS NOT NULL;
-- For list_requests by kit.
CREATE INDEX request_info_kit ON request_info (kit_id, id) WHERE kit_id IS NOT NULL;

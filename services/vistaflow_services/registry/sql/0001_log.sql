-- The log, what is derived from it, and what only the registry keeps.

CREATE TABLE head (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_id     bigint NOT NULL DEFAULT 0,
    last_kit_id integer NOT NULL DEFAULT 0,
    epoch       uuid NOT NULL DEFAULT gen_random_uuid(),
    commit_id   uuid NOT NULL DEFAULT gen_random_uuid(),
    oldest_id   bigint NOT NULL DEFAULT 1
) WITH (fillfactor = 50);
COMMENT ON TABLE head IS 'Where the log ends. Every commit swaps commit_id and moves last_id, so that ids are dense and in commit order.';
INSERT INTO head DEFAULT VALUES;

CREATE TABLE writers (
    replica      uuid PRIMARY KEY,
    commit_id    uuid,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE writers IS 'The last commit of each registry process: tells it, after a lost connection, whether its commit happened.';

CREATE TABLE mlops_totalstate_table (
    id            bigint NOT NULL PRIMARY KEY,
    kit_id        integer NOT NULL,
    job_type      varchar(50) NOT NULL,
    task_name     varchar(100) NOT NULL,
    job_id        uuid NOT NULL,
    status        varchar(20) NOT NULL,
    current_order integer NOT NULL,
    created_at    timestamptz NOT NULL,
    metadata      jsonb,
    batch         bigint NOT NULL,
    attempt       integer NOT NULL,
    seq           bigint NOT NULL,
    actor         text NOT NULL,
    reason        text NOT NULL,
    kit_counts    smallint[],
    CHECK (status IN ('INIT', 'QUEUED', 'RUNNING', 'FINISHED', 'FAILED', 'CANCELED'))
) PARTITION BY RANGE (id);
COMMENT ON TABLE mlops_totalstate_table IS 'The log, append-only. id is the revision; task_name is empty on a job''s own rows; batch is the id of the first row of the same append.';
COMMENT ON COLUMN mlops_totalstate_table.kit_counts IS 'On a job''s own rows: the kit''s jobs in INIT, QUEUED, RUNNING, FINISHED, FAILED, CANCELED after this row.';

-- For log_page_of_kits and recorded_seqs, and for people who ask for a task's history.
CREATE INDEX mlops_totalstate_task ON mlops_totalstate_table (kit_id, job_id, task_name, id DESC);

CREATE FUNCTION forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'mlops_totalstate_table is append-only: % is not allowed', TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON mlops_totalstate_table
    FOR EACH ROW EXECUTE FUNCTION forbid_change();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON mlops_totalstate_table
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_change();

CREATE TABLE partitions (
    first_id bigint PRIMARY KEY,
    end_id   bigint NOT NULL,
    name     text NOT NULL
);
COMMENT ON TABLE partitions IS 'Partitions of the log: ids from first_id up to and without end_id.';

CREATE FUNCTION add_partitions(size bigint) RETURNS bigint LANGUAGE plpgsql AS $$
-- Adds partitions until one fifth of `size` ids are free beyond the head; returns the end.
DECLARE
    last bigint;
    first bigint;
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('vistaflow partitions'));
    SELECT last_id INTO last FROM head;
    SELECT coalesce(max(end_id), 1) INTO first FROM partitions;
    WHILE first <= last + greatest(size / 5, 20000) LOOP
        part := 'mlops_totalstate_from_' || first;
        EXECUTE format('CREATE TABLE %I (LIKE mlops_totalstate_table INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()', part);
        -- Attaching, unlike creating in place, waits for no reader.
        EXECUTE format('ALTER TABLE mlops_totalstate_table ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', part, first, first + size);
        INSERT INTO partitions VALUES (first, first + size, part);
        first := first + size;
    END LOOP;
    RETURN first;
END
$$;

CREATE TABLE kits (
    kit_id     integer PRIMARY KEY,
    name       text NOT NULL,
    project    text NOT NULL,
    labels     jsonb NOT NULL,
    spec       jsonb,
    actor      text NOT NULL,
    created_at timestamptz NOT NULL,
    status     varchar(20) NOT NULL,
    counts     smallint[] NOT NULL,
    revision   bigint NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON COLUMN kits.counts IS 'Jobs in INIT, QUEUED, RUNNING, FINISHED, FAILED, CANCELED.';
-- For list_kits by label, and for rows filtered by label.
CREATE INDEX kits_labels ON kits USING gin (labels jsonb_path_ops);

CREATE TABLE jobs (
    job_id         uuid PRIMARY KEY,
    kit_id         integer NOT NULL REFERENCES kits,
    name           text NOT NULL,
    job_type       varchar(50) NOT NULL,
    current_order  integer NOT NULL,
    depends_on     text[] NOT NULL,
    spec_type      text NOT NULL,
    spec           bytea NOT NULL,
    external       boolean NOT NULL,
    max_attempts   integer NOT NULL,
    timeout        interval,
    priority       integer NOT NULL,
    labels         jsonb NOT NULL,
    first_revision bigint NOT NULL UNIQUE,
    created_at     timestamptz NOT NULL,
    status         varchar(20) NOT NULL,
    attempt        integer NOT NULL,
    last_seq       bigint NOT NULL,
    failures       integer NOT NULL,
    revision       bigint NOT NULL,
    started_at     timestamptz,
    finished_at    timestamptz,
    worker         text NOT NULL,
    reason         text NOT NULL,
    actor          text NOT NULL,
    result         jsonb,
    UNIQUE (kit_id, name)
) WITH (fillfactor = 70);
-- For queued_jobs.
CREATE INDEX jobs_queued ON jobs (job_type, priority) WHERE status = 'QUEUED' AND NOT external;
-- For list_jobs by label.
CREATE INDEX jobs_labels ON jobs USING gin (labels jsonb_path_ops);

CREATE TABLE current_state (
    kit_id        integer NOT NULL,
    job_id        uuid NOT NULL,
    task_name     varchar(100) NOT NULL,
    id            bigint NOT NULL,
    job_type      varchar(50) NOT NULL,
    status        varchar(20) NOT NULL,
    current_order integer NOT NULL,
    attempt       integer NOT NULL,
    seq           bigint NOT NULL,
    created_at    timestamptz NOT NULL,
    actor         text NOT NULL,
    reason        text NOT NULL,
    metadata      jsonb,
    PRIMARY KEY (kit_id, job_id, task_name)
) WITH (fillfactor = 70);
COMMENT ON TABLE current_state IS 'The latest row of each task of a job''s current attempt, and of the job itself (empty task_name).';

CREATE TABLE leases (
    job_id      uuid PRIMARY KEY,
    attempt     integer NOT NULL,
    worker      text NOT NULL,
    expires_at  timestamptz NOT NULL,
    progress    jsonb,
    progress_at timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
COMMENT ON TABLE leases IS 'Attempts held by workers. Outside the log: heartbeats are no history.';

-- The stages' own tables: one row a job, in step with its latest own row of the log.
CREATE TABLE deck_collection (
    request_id bigint PRIMARY KEY,
    job_id     uuid NOT NULL UNIQUE,
    status     varchar(20) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata   jsonb
) WITH (fillfactor = 70);
CREATE TABLE doe_step (
    id         bigint PRIMARY KEY,
    job_id     uuid NOT NULL UNIQUE,
    status     varchar(20) NOT NULL,
    data_info  jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata   jsonb
) WITH (fillfactor = 70);
CREATE TABLE ml_step (
    id         bigint PRIMARY KEY,
    job_id     uuid NOT NULL UNIQUE,
    step_name  varchar(50) NOT NULL,
    status     varchar(20) NOT NULL,
    step_order integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata   jsonb
) WITH (fillfactor = 70);
CREATE TABLE optimize_step (
    id         bigint PRIMARY KEY,
    job_id     uuid NOT NULL UNIQUE,
    status     varchar(20) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    metadata   jsonb
) WITH (fillfactor = 70);
COMMENT ON COLUMN deck_collection.request_id IS 'Revision of the job''s first row; so are the ids of the other steps.';

CREATE TABLE request_info (
    id          serial PRIMARY KEY,
    data        jsonb NOT NULL,
    request_id  uuid UNIQUE,
    method      text NOT NULL,
    body_sha256 text NOT NULL,
    response    bytea NOT NULL,
    created_at  timestamptz NOT NULL
);
COMMENT ON TABLE request_info IS 'Mutating requests as they came, with their answers: the audit trail, and what makes request_id idempotent.';
-- For forget_requests.
CREATE INDEX request_info_created ON request_info (created_at);

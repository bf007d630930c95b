-- What lets the log grow for years: old partitions go, the last word of each task stays.

CREATE TABLE kept_states (LIKE mlops_totalstate_table INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE kept_states ADD PRIMARY KEY (id);
COMMENT ON TABLE kept_states IS 'Of dropped partitions: every own row of the jobs, and the last row of each task.';
-- For rebuilding, and for people who ask for a task's history.
CREATE INDEX kept_states_task ON kept_states (kit_id, job_id, task_name, id DESC);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON kept_states
    FOR EACH ROW EXECUTE FUNCTION forbid_change();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON kept_states
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_change();

CREATE OR REPLACE FUNCTION forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is not allowed', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE VIEW history AS
SELECT * FROM kept_states WHERE id < (SELECT oldest_id FROM head)
UNION ALL
SELECT * FROM mlops_totalstate_table WHERE id >= (SELECT oldest_id FROM head);
COMMENT ON VIEW history IS 'The log, and of what was dropped from it what is kept.';

CREATE OR REPLACE FUNCTION add_partitions(size bigint) RETURNS bigint LANGUAGE plpgsql AS $$
-- Adds partitions until one fifth of `size` ids are free beyond the head; returns the end.
DECLARE
    last bigint;
    first bigint;
    part text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('vistaflow partitions'));
    SELECT last_id INTO last FROM head;
    SELECT coalesce(max(end_id), 1) INTO first FROM partitions;
    -- After a restore the log goes on further up: nothing lies in between.
    first := greatest(first, last + 1);
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

CREATE FUNCTION keep_states(part text) RETURNS bigint LANGUAGE plpgsql AS $$
-- Copies aside what is kept of a partition; doing it again changes nothing. Returns how many rows
-- were new.
DECLARE
    copied bigint;
BEGIN
    EXECUTE format($query$
        INSERT INTO kept_states
        SELECT part.*
          FROM %1$I AS part
          JOIN (SELECT id FROM %1$I WHERE task_name = ''
                UNION
                SELECT max(id) FROM %1$I
                 WHERE task_name <> '' GROUP BY kit_id, job_id, task_name
                UNION
                -- The last number that each attempt used.
                (SELECT DISTINCT ON (kit_id, job_id, attempt) id FROM %1$I
                  WHERE seq > 0 ORDER BY kit_id, job_id, attempt, seq DESC)) AS kept
            ON part.id = kept.id
        ON CONFLICT DO NOTHING
    $query$, part);
    GET DIAGNOSTICS copied = ROW_COUNT;
    RETURN copied;
END
$$;

CREATE FUNCTION drop_partition(part text) RETURNS void LANGUAGE plpgsql AS $$
-- Drops a partition that lies before the head's oldest_id: the only way rows leave the log.
BEGIN
    PERFORM FROM partitions, head WHERE name = part AND end_id <= oldest_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% holds rows that are still to be kept', part
            USING ERRCODE = 'restrict_violation';
    END IF;
    EXECUTE format('ALTER TABLE mlops_totalstate_table DETACH PARTITION %I', part);
    EXECUTE format('DROP TABLE %I', part);
    DELETE FROM partitions WHERE name = part;
END
$$;

CREATE TABLE restores (
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch       uuid NOT NULL,
    from_epoch  uuid NOT NULL,
    last_id     bigint NOT NULL,
    next_id     bigint NOT NULL
);
COMMENT ON TABLE restores IS 'Times this log was put back from a backup whose last row was last_id; it went on at next_id.';

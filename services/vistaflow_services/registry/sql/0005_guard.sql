-- Rows of the log cannot be taken away by mistake, also not by its owner.

-- Not even for a session that puts triggers out of force (session_replication_role).
ALTER TABLE mlops_totalstate_table ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE mlops_totalstate_table ENABLE ALWAYS TRIGGER never_truncated;
ALTER TABLE kept_states ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE kept_states ENABLE ALWAYS TRIGGER never_truncated;

CREATE FUNCTION forbid_forgetting() RETURNS trigger LANGUAGE plpgsql AS $$
-- A partition leaves the list only when the head has said that its rows are no longer kept.
BEGIN
    IF TG_OP <> 'DELETE' OR OLD.end_id > (SELECT oldest_id FROM head) THEN
        RAISE EXCEPTION 'partitions tells where the append-only log is: % is not allowed', TG_OP
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON partitions
    FOR EACH ROW EXECUTE FUNCTION forbid_forgetting();
CREATE TRIGGER never_truncated BEFORE TRUNCATE ON partitions
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_change();
ALTER TABLE partitions ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE partitions ENABLE ALWAYS TRIGGER never_truncated;

DO $$
-- A detached partition loses the triggers that it has by its parent; these are its own.
DECLARE
    part text;
BEGIN
    FOR part IN SELECT name FROM partitions LOOP
        EXECUTE format('CREATE TRIGGER append_only_itself BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION forbid_change()', part);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only_itself, ENABLE ALWAYS TRIGGER never_truncated', part);
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION add_partitions(size bigint) RETURNS bigint LANGUAGE plpgsql AS $$
-- Adds partitions, a few at a time, until one fifth of `size` ids are free beyond the head; returns
-- the end.
DECLARE
    last bigint;
    first bigint;
    part text;
    added int := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('vistaflow partitions'));
    SELECT last_id INTO last FROM head;
    SELECT coalesce(max(end_id), 1) INTO first FROM partitions;
    -- After a restore the log goes on further up: nothing lies in between.
    first := greatest(first, last + 1);
    WHILE first <= last + greatest(size / 5, 20000) AND added < 8 LOOP
        part := 'mlops_totalstate_from_' || first;
        EXECUTE format('CREATE TABLE %I (LIKE mlops_totalstate_table INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part);
        EXECUTE format('CREATE TRIGGER append_only_itself BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION forbid_change()', part);
        EXECUTE format('CREATE TRIGGER never_truncated BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION forbid_change()', part);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER append_only_itself, ENABLE ALWAYS TRIGGER never_truncated', part);
        -- Attaching, unlike creating in place, waits for no reader.
        EXECUTE format('ALTER TABLE mlops_totalstate_table ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', part, first, first + size);
        INSERT INTO partitions VALUES (first, first + size, part);
        first := first + size;
        added := added + 1;
    END LOOP;
    RETURN first;
END
$$;

CREATE OR REPLACE FUNCTION drop_partition(part text) RETURNS void LANGUAGE plpgsql AS $$
-- Drops a partition that lies before the head's oldest_id: the only way rows leave the log.
BEGIN
    PERFORM FROM partitions, head WHERE name = part AND end_id <= oldest_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% holds rows that are still to be kept', part
            USING ERRCODE = 'restrict_violation';
    END IF;
    -- First off the list, else guard_log would refuse.
    DELETE FROM partitions WHERE name = part;
    EXECUTE format('ALTER TABLE mlops_totalstate_table DETACH PARTITION %I', part);
    EXECUTE format('DROP TABLE %I', part);
END
$$;

CREATE VIEW unguarded AS
-- What is missing of the log, or could be changed: nothing.
SELECT 'partition ' || name AS what
  FROM partitions
 WHERE NOT EXISTS (SELECT FROM pg_inherits
                    WHERE inhrelid = to_regclass(quote_ident(name))
                      AND inhparent = to_regclass('mlops_totalstate_table')
                      AND NOT inhdetachpending)
UNION ALL
SELECT 'trigger ' || trigger || ' of ' || name
  FROM (SELECT unnest(ARRAY['mlops_totalstate_table', 'kept_states', 'partitions']),
               'append_only'
        UNION ALL
        SELECT unnest(ARRAY['mlops_totalstate_table', 'kept_states', 'partitions']),
               'never_truncated'
        UNION ALL
        SELECT name, unnest(ARRAY['append_only_itself', 'never_truncated']) FROM partitions
       ) AS wanted (name, trigger)
 WHERE NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass(quote_ident(name)) AND tgname = trigger
                      AND tgenabled = 'A');

CREATE FUNCTION guard_log() RETURNS event_trigger LANGUAGE plpgsql AS $$
-- Refuses to drop, detach, rename or unguard parts of the log of this function's own schema. The
-- registry lets it run after every such command where it may: event triggers are for superusers.
DECLARE
    me oid;
    before text := current_setting('search_path');
    lost text;
BEGIN
    IF tg_event = 'ddl_command_start' THEN
        -- Half of this is done, and committed, before the end of the command.
        IF current_query() ~* 'mlops_totalstate_.*detach\s+partition.*concurrently' THEN
            RAISE EXCEPTION 'the log is append-only: % refused', tg_tag
                USING ERRCODE = 'restrict_violation';
        END IF;
        RETURN;
    END IF;
    GET DIAGNOSTICS me = PG_ROUTINE_OID;
    PERFORM set_config('search_path', quote_ident(nspname), true)
       FROM pg_proc, pg_namespace WHERE pg_proc.oid = me AND pg_namespace.oid = pronamespace;
    IF to_regclass('unguarded') IS NULL THEN
        lost := 'tables that the log needs';
    ELSE
        SELECT string_agg(what, ', ') INTO lost FROM unguarded;
    END IF;
    PERFORM set_config('search_path', before, true);
    IF lost IS NOT NULL THEN
        RAISE EXCEPTION 'the log is append-only: % refused, it would take away %', tg_tag, lost
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Old partitions go by `vistaflow retention`. To remove a log as a whole, drop its schema.';
    END IF;
END
$$;

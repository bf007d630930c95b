-- Rows enter the log by the registry alone, and a row that entered past it can be removed.

CREATE FUNCTION require_registry() RETURNS trigger LANGUAGE plpgsql AS $$
-- A row beyond the head would take the id of the next append, and no append could be committed.
-- Against mistakes, not against malice: who names the session "vistaflow ..." gets through, and so
-- do registries of the versions before this one.
BEGIN
    IF current_setting('application_name') NOT LIKE 'vistaflow %' THEN
        RAISE EXCEPTION '% is written by the registry alone: % is not allowed', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Append rows by AppendStates: `vistaflow append`, client.append() in Python, or grpcurl.';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION forbid_change() RETURNS trigger LANGUAGE plpgsql AS $$
-- A row beyond the head is not part of the log: it blocks the log, and may be deleted.
DECLARE
    last bigint;
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME LIKE 'mlops_totalstate_%' THEN
        -- By schema: whoever types this in psql has not set the search path.
        EXECUTE format('SELECT last_id FROM %I.head', TG_TABLE_SCHEMA) INTO last;
        IF OLD.id > last THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION '% is append-only: % is not allowed', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE FUNCTION guard_inserts(part text) RETURNS void LANGUAGE plpgsql AS $$
-- Lets the registry alone insert into one table. Triggers of statements are not inherited: each
-- partition needs its own.
BEGIN
    EXECUTE format('CREATE TRIGGER by_registry BEFORE INSERT ON %I FOR EACH STATEMENT EXECUTE FUNCTION require_registry()', part);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER by_registry', part);
END
$$;

SELECT guard_inserts(name)
  FROM (SELECT unnest(ARRAY['mlops_totalstate_table', 'kept_states']) AS name
        UNION ALL
        SELECT name FROM partitions) AS tables;

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
        PERFORM guard_inserts(part);
        -- Attaching, unlike creating in place, waits for no reader.
        EXECUTE format('ALTER TABLE mlops_totalstate_table ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', part, first, first + size);
        INSERT INTO partitions VALUES (first, first + size, part);
        first := first + size;
        added := added + 1;
    END LOOP;
    RETURN first;
END
$$;

CREATE OR REPLACE VIEW unguarded AS
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
        SELECT unnest(ARRAY['mlops_totalstate_table', 'kept_states']), 'by_registry'
        UNION ALL
        SELECT name, unnest(ARRAY['append_only_itself', 'never_truncated', 'by_registry'])
          FROM partitions
       ) AS wanted (name, trigger)
 WHERE NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = to_regclass(quote_ident(name)) AND tgname = trigger
                      AND tgenabled = 'A');

CREATE OR REPLACE FUNCTION guard_log() RETURNS event_trigger LANGUAGE plpgsql AS $$
-- Refuses to drop, detach, rename or unguard parts of the log of this function's own schema. The
-- registry lets it run after every such command where it may: event triggers are for superusers.
DECLARE
    me oid;
    before text := current_setting('search_path');
    lost text;
BEGIN
    IF tg_event = 'ddl_command_start' THEN
        -- Half of this is done, and committed, before the end of the command. It can only be a
        -- query of its own: a longer text that mentions it, such as a migration, passes.
        IF current_query() ~* '^(\s|--[^\n]*\n|/\*.*?\*/)*alter\s+table\s[^;]*mlops_totalstate_[^;]*\sdetach\s+partition\s[^;]*concurrently[;\s]*$' THEN
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

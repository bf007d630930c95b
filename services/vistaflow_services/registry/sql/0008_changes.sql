-- Changes of many jobs that are made in pieces, until the last piece is made.

CREATE TABLE unfinished_changes (
    -- The id of the request, by which a repeat finds it.
    change_id uuid PRIMARY KEY,
    method text NOT NULL,
    body_sha256 text NOT NULL,
    -- The request as request_info will hold it.
    data jsonb NOT NULL,
    retry boolean NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    -- Of a change of one kit: its jobs in the order in which they have their turn, and how far it is.
    kit_id integer,
    job_ids uuid[],
    whole boolean,
    done integer NOT NULL DEFAULT 0,
    moved integer NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 0,
    -- Of a change of several kits: which jobs it is for. Each kit is a change of its own.
    wanted jsonb,
    -- When it was last gone on with. What was left alone for some seconds is taken over.
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

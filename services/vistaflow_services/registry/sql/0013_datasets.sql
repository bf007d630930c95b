-- Datasets: their versions, the names of versions, and the files that versions refer to.

CREATE TABLE datasets (
    dataset_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    project       text COLLATE "C" NOT NULL,
    name          text COLLATE "C" NOT NULL,
    description   text NOT NULL DEFAULT '',
    labels        jsonb NOT NULL DEFAULT '{}',
    quota_bytes   bigint NOT NULL DEFAULT 0,
    max_versions  integer NOT NULL DEFAULT 0,
    max_age       interval,
    last_version  bigint NOT NULL DEFAULT 0,
    version_count integer NOT NULL DEFAULT 0,
    size_bytes    bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at    timestamptz,
    -- For list_datasets, too.
    UNIQUE (project, name)
);
COMMENT ON TABLE datasets IS 'Datasets, also deleted ones: the numbers of their versions are never used again.';
COMMENT ON COLUMN datasets.size_bytes IS 'Of the files of all versions; what they share counts once.';

CREATE TABLE dataset_versions (
    dataset_id     bigint NOT NULL REFERENCES datasets,
    version        bigint NOT NULL,
    job_id         uuid NOT NULL UNIQUE,
    parent         bigint NOT NULL,
    source         text NOT NULL,
    digest         text NOT NULL,
    row_count      bigint NOT NULL,
    rejected_count bigint NOT NULL,
    size_bytes     bigint NOT NULL,
    manifest       jsonb,
    report         jsonb,
    profile        jsonb,
    pinned         boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at     timestamptz,
    deletion       text CHECK (deletion IN ('REQUEST', 'MAX_VERSIONS', 'MAX_AGE', 'FORGOTTEN')),
    deleted_by     bigint,
    PRIMARY KEY (dataset_id, version),
    CHECK ((manifest IS NULL) = (deleted_at IS NOT NULL)),
    CHECK ((deletion IS NULL) = (deleted_at IS NULL)),
    CHECK (deleted_at IS NULL OR (report IS NULL AND profile IS NULL))
);
COMMENT ON TABLE dataset_versions IS 'Versions. A deleted one keeps its row, without what it held.';
COMMENT ON COLUMN dataset_versions.deleted_by IS 'The version that it was deleted with, by retention or to be forgotten.';

CREATE TABLE dataset_aliases (
    dataset_id bigint NOT NULL,
    alias      text NOT NULL,
    version    bigint NOT NULL,
    PRIMARY KEY (dataset_id, alias),
    FOREIGN KEY (dataset_id, version) REFERENCES dataset_versions
);

CREATE TABLE dataset_blobs (
    dataset_id bigint NOT NULL,
    version    bigint NOT NULL,
    sha256     bytea NOT NULL CHECK (octet_length(sha256) = 32),
    size_bytes bigint NOT NULL,
    PRIMARY KEY (dataset_id, version, sha256),
    FOREIGN KEY (dataset_id, version) REFERENCES dataset_versions
);
COMMENT ON TABLE dataset_blobs IS 'The files that versions refer to, each once a version: an index of the manifests.';
-- For referenced_blobs and due_blobs.
CREATE INDEX dataset_blobs_sha256 ON dataset_blobs (sha256);

CREATE TABLE forgotten_blobs (
    sha256   bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    purge_at timestamptz NOT NULL,
    given_at timestamptz,
    purged_at timestamptz
);
COMMENT ON TABLE forgotten_blobs IS 'Files with rows that are to be forgotten: when they are to be purged, when a service was last asked to, and when it had purged them.';
-- For due_blobs.
CREATE INDEX forgotten_blobs_due ON forgotten_blobs (purge_at) WHERE purged_at IS NULL;

CREATE FUNCTION guard_datasets() RETURNS trigger LANGUAGE plpgsql AS $$
-- Against mistakes, as require_registry.
BEGIN
    IF TG_OP = 'TRUNCATE' OR current_setting('application_name') NOT LIKE 'vistaflow %' THEN
        RAISE EXCEPTION '% is changed by the registry alone: % is not allowed', TG_TABLE_NAME, TG_OP
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Change datasets by DatasetService: `vistaflow dataset`, Python, or grpcurl.';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION keep_version() RETURNS trigger LANGUAGE plpgsql AS $$
-- A version never changes but for its pin, until it is deleted; then it never changes at all.
BEGIN
    IF TG_OP = 'DELETE' OR OLD.deleted_at IS NOT NULL
       OR (NEW.manifest IS NOT NULL
           AND (NEW.manifest, NEW.report, NEW.profile)
               IS DISTINCT FROM (OLD.manifest, OLD.report, OLD.profile))
       OR (NEW.dataset_id, NEW.version, NEW.job_id, NEW.parent, NEW.source, NEW.digest,
           NEW.row_count, NEW.rejected_count, NEW.size_bytes, NEW.created_at)
          IS DISTINCT FROM
          (OLD.dataset_id, OLD.version, OLD.job_id, OLD.parent, OLD.source, OLD.digest,
           OLD.row_count, OLD.rejected_count, OLD.size_bytes, OLD.created_at) THEN
        RAISE EXCEPTION 'versions of datasets never change: % is not allowed', TG_OP
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER never_changed BEFORE UPDATE OR DELETE ON dataset_versions
    FOR EACH ROW EXECUTE FUNCTION keep_version();
ALTER TABLE dataset_versions ENABLE ALWAYS TRIGGER never_changed;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['datasets', 'dataset_versions', 'dataset_aliases', 'dataset_blobs',
                                'forgotten_blobs'] LOOP
        EXECUTE format('CREATE TRIGGER by_registry BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION guard_datasets()', name);
        EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER by_registry', name);
    END LOOP;
END
$$;

-- Published versions of price plans. A version never changes and is never
-- deleted: an invoice names the version it was rated under.
CREATE TABLE plan_versions (
    plan         text NOT NULL CHECK (length(plan) BETWEEN 1 AND 63),
    version      integer NOT NULL CHECK (version > 0),
    effective_at timestamptz NOT NULL, -- midnight in the plan's own zone
    mid_period   boolean NOT NULL,     -- takes effect within a running period
    source       bytea NOT NULL CHECK (length(source) BETWEEN 1 AND 1048576), -- YAML, as published
    published_at timestamptz NOT NULL,
    PRIMARY KEY (plan, version)
);

CREATE FUNCTION plan_versions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'plan % version % is published and never changes', OLD.plan, OLD.version;
END
$$;

CREATE TRIGGER plan_versions_append_only
    BEFORE UPDATE OR DELETE ON plan_versions
    FOR EACH ROW EXECUTE FUNCTION plan_versions_append_only();

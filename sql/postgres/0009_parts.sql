-- Plans that change within a period, percentiles, and prices kept for older
-- resources: what an invoice needs to be made again from these tables alone.

-- The newest version of the plan when the period was rated; mid-period versions
-- published since then change nothing of the closing. What is here already was
-- rated before there were any.
ALTER TABLE closings ADD COLUMN plan_known integer NOT NULL DEFAULT 0;

-- When the resource was created, as labels write it; '' is not known, as of all
-- closing readings that are here already, and counts as new.
ALTER TABLE closing_readings ADD COLUMN created text NOT NULL DEFAULT '';

-- How what a closing reading climbed lies in slots, for meters of which a rate
-- bills a percentile: by slot from the first on, in thousandths of the meter's
-- base unit; NULL where nothing was read in the slot. They sum to the climb.
CREATE TABLE closing_slots (
    tenant       text NOT NULL,
    source       text NOT NULL,
    seq          integer NOT NULL,
    window_start timestamptz NOT NULL,
    meter        text NOT NULL CHECK (meter <> ''),
    first_slot   timestamptz NOT NULL, -- its end
    growth       bigint[] NOT NULL CHECK (cardinality(growth) >= 1 AND 0 <= ALL (array_remove(growth, NULL))),
    PRIMARY KEY (tenant, source, seq, window_start, meter),
    FOREIGN KEY (tenant, source, seq, window_start) REFERENCES closing_readings (tenant, source, seq, window_start)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON closing_slots
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

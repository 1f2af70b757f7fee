-- How much of a host is in quarantine is counted with every batch that adds to
-- it, and operators decide by epoch and by instance.
CREATE INDEX quarantined_readings_held_host ON quarantined_readings (host) WHERE state = 'held';
CREATE INDEX quarantined_readings_open_epoch ON quarantined_readings (epoch) WHERE state = 'open';
CREATE INDEX quarantined_readings_open_instance ON quarantined_readings (instance) WHERE state = 'open';

-- The days (UTC) whose readings were compared with slots and totals, so that each
-- is once, whatever is started again, and none is left out.
CREATE TABLE audited_days (
    day         date PRIMARY KEY,
    audited_at  timestamptz NOT NULL,
    differences integer NOT NULL CHECK (differences >= 0),
    gaps        integer NOT NULL CHECK (gaps >= 0)
);

-- Usage of a closing that no rate fits, summed up: while it is that of the
-- tenant's last closing, it is a leak.
CREATE TABLE closing_unrated (
    tenant    text NOT NULL,
    seq       integer NOT NULL,
    meter     text NOT NULL CHECK (meter <> ''),
    flavor    text NOT NULL,
    resources integer NOT NULL CHECK (resources > 0),
    quantity  text NOT NULL, -- in the meter's base unit
    PRIMARY KEY (tenant, seq, meter, flavor),
    FOREIGN KEY (tenant, seq) REFERENCES closings
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON closing_unrated
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

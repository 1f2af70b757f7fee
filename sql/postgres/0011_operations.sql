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

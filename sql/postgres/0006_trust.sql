-- Who settled a quarantined reading, when and why; and whether an accepted one
-- is in the readings by now. What was accepted before is.
ALTER TABLE quarantined_readings
    ADD COLUMN decided_by text NOT NULL DEFAULT '',
    ADD COLUMN decided_at timestamptz,
    ADD COLUMN note       text NOT NULL DEFAULT '',
    ADD COLUMN stored_at  timestamptz;

UPDATE quarantined_readings SET stored_at = received_at WHERE state = 'accepted';

ALTER TABLE quarantined_readings
    ADD CHECK (decided_by = '' OR state IN ('accepted', 'rejected') AND decided_at IS NOT NULL),
    ADD CHECK (stored_at IS NULL OR state = 'accepted');

CREATE INDEX quarantined_readings_open ON quarantined_readings (host, reason) WHERE state = 'open';
CREATE INDEX quarantined_readings_accepted ON quarantined_readings (id) WHERE state = 'accepted' AND stored_at IS NULL;

-- Epochs whose readings later than from_at are not counted. A void never
-- changes: its replacing epoch may be voided in turn.
CREATE TABLE voids (
    epoch     text PRIMARY KEY REFERENCES epochs,
    from_at   timestamptz NOT NULL,
    cap       bigint[] NOT NULL CHECK (0 <= ALL (cap)), -- by register: the most the epoch counts for
    next      text NOT NULL UNIQUE REFERENCES epochs CHECK (next <> epoch), -- the replacing epoch
    voided_by text NOT NULL CHECK (length(voided_by) BETWEEN 1 AND 64),
    voided_at timestamptz NOT NULL,
    reason    text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000)
);

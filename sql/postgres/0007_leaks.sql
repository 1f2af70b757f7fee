-- Differences between what runs, what is wanted and what is metered. A row is a
-- suspicion until opened_at is set (one that passes before is deleted), and never
-- changes any more once it is closed.
CREATE TABLE leaks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text NOT NULL CHECK (kind <> ''),
    subject      text NOT NULL CHECK (length(subject) BETWEEN 1 AND 200), -- what it is about, unique within the kind
    tenant       text NOT NULL, -- '' when nobody's
    host         text NOT NULL, -- '' when of none
    since        timestamptz NOT NULL,
    detail       text NOT NULL,
    hourly_minor bigint, -- estimated, in minor units an hour; null when it cannot be said
    currency     text NOT NULL DEFAULT '',
    found_at     timestamptz NOT NULL,
    opened_at    timestamptz CHECK (opened_at >= found_at),
    closed_at    timestamptz CHECK (closed_at >= opened_at),
    closed_why   text NOT NULL DEFAULT '',
    CHECK ((hourly_minor IS NULL) = (currency = '')),
    CHECK (closed_at IS NULL OR opened_at IS NOT NULL),
    CHECK ((closed_at IS NULL) = (closed_why = ''))
);

CREATE UNIQUE INDEX leaks_one_open ON leaks (kind, subject) WHERE closed_at IS NULL;
CREATE INDEX leaks_past ON leaks (kind, subject, since);

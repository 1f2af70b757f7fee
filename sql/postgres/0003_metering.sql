-- The control plane's own record of every epoch that a host has announced. It
-- never changes: what a host says of a known epoch must be what is here.
CREATE TABLE epochs (
    id         text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{32}$'),
    tenant     text NOT NULL CHECK (length(tenant) BETWEEN 1 AND 64),
    instance   text NOT NULL CHECK (length(instance) BETWEEN 1 AND 64),
    host       text NOT NULL CHECK (length(host) BETWEEN 1 AND 64),
    lease      bigint NOT NULL CHECK (lease > 0),
    start      bigint NOT NULL CHECK (start > 0),
    opened_at  timestamptz NOT NULL,
    opening    bigint[] NOT NULL CHECK (0 <= ALL (opening)), -- by register; later registers are appended
    flavor     text NOT NULL,
    image      text NOT NULL,
    region     text NOT NULL,
    host_class text NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX epochs_tenant ON epochs (tenant, id);
CREATE INDEX epochs_host ON epochs (host, first_seen DESC);

-- Readings that are not accepted: those that cannot be true, kept with the reason
-- and not billed unless an operator accepts them, and those of the future, held
-- until their time has come. A reading sent again is the same row.
CREATE TABLE quarantined_readings (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    host        text NOT NULL CHECK (length(host) BETWEEN 1 AND 64),
    tenant      text NOT NULL, -- '' when the lease is unknown
    epoch       text NOT NULL CHECK (length(epoch) BETWEEN 1 AND 64),
    instance    text NOT NULL,
    lease       bigint NOT NULL,
    start       bigint NOT NULL,
    opened_at   timestamptz NOT NULL,
    opening     bigint[] NOT NULL,
    at          timestamptz NOT NULL,
    registers   bigint[] NOT NULL,
    reason      text NOT NULL CHECK (reason <> ''),
    detail      text NOT NULL,
    admit_at    timestamptz, -- of held ones alone
    state       text NOT NULL CHECK (state IN ('held', 'open', 'accepted', 'rejected')),
    CHECK (state <> 'held' OR admit_at IS NOT NULL)
);

CREATE UNIQUE INDEX quarantined_readings_once ON quarantined_readings (host, epoch, at, reason, registers);
CREATE INDEX quarantined_readings_held ON quarantined_readings (admit_at) WHERE state = 'held';

-- Intervals in which a tenant held something that is billed by holding it.
CREATE TABLE allocations (
    id         text PRIMARY KEY CHECK (id ~ '^all_[0-9a-f]{17}$'),
    tenant     text NOT NULL CHECK (length(tenant) BETWEEN 1 AND 64),
    resource   text NOT NULL CHECK (length(resource) BETWEEN 1 AND 64),
    meter      text NOT NULL CHECK (meter <> ''),
    flavor     text NOT NULL,
    image      text NOT NULL,
    region     text NOT NULL,
    host_class text NOT NULL,
    amount     bigint NOT NULL CHECK (amount > 0), -- 1 for meters in s, MiB for meters in MiB·s
    started_at timestamptz NOT NULL,
    ended_at   timestamptz CHECK (ended_at >= started_at) -- null while it is held
);

CREATE UNIQUE INDEX allocations_one_open ON allocations (resource, meter) WHERE ended_at IS NULL;
CREATE INDEX allocations_tenant ON allocations (tenant, started_at);

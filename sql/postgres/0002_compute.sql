-- Hosts, and what tenants want on them. Locks are taken in this order: the
-- tenant's row in compute_quotas, then hosts by id. Leases and instances change
-- only under the lock of their host.

CREATE TABLE hosts (
    id               text PRIMARY KEY CHECK (id ~ '^hst_[0-9a-f]{17}$'),
    name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 253),
    vcpus            integer NOT NULL CHECK (vcpus >= 0), -- what it offers, as last reported
    memory_mib       bigint NOT NULL CHECK (memory_mib >= 0),
    disk_mib         bigint NOT NULL CHECK (disk_mib >= 0),
    draining         boolean NOT NULL DEFAULT false,
    joined_at        timestamptz NOT NULL,
    seen_at          timestamptz NOT NULL, -- last report, server's clock
    removed_at       timestamptz,
    revision         bigint NOT NULL DEFAULT 1, -- of its desired state
    full_reading     bigint NOT NULL DEFAULT 0, -- the last one asked for
    full_reading_got bigint NOT NULL DEFAULT 0 CHECK (full_reading_got <= full_reading),
    report           jsonb NOT NULL DEFAULT '{}' -- the last report, without instances
);

-- The secret itself is never stored. A token is spent on one key: the same key
-- gets the same host again.
CREATE TABLE join_tokens (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    host       text REFERENCES hosts,
    key_hash   text,
    CHECK ((host IS NULL) = (key_hash IS NULL))
);

CREATE TABLE compute_quotas (
    tenant     text PRIMARY KEY CHECK (length(tenant) BETWEEN 1 AND 64),
    instances  integer NOT NULL CHECK (instances >= 0),
    vcpus      integer NOT NULL CHECK (vcpus >= 0),
    memory_mib bigint NOT NULL CHECK (memory_mib >= 0),
    disk_mib   bigint NOT NULL CHECK (disk_mib >= 0)
);

-- Rows stay when the instance is gone: invoices speak of them.
CREATE TABLE instances (
    id           text PRIMARY KEY CHECK (id ~ '^ins_[0-9a-f]{17}$'),
    tenant       text NOT NULL REFERENCES compute_quotas,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
    flavor       text NOT NULL CHECK (flavor <> ''),
    vcpus        integer NOT NULL CHECK (vcpus > 0),
    memory_mib   bigint NOT NULL CHECK (memory_mib > 0),
    disk_mib     bigint NOT NULL CHECK (disk_mib >= 0),
    image        text NOT NULL CHECK (image <> ''),
    image_record jsonb NOT NULL, -- its files with checksums, as they were at creation
    user_data    text NOT NULL,
    ssh_keys     text[] NOT NULL,
    request      text, -- the tenant's idempotency key
    desired      text NOT NULL CHECK (desired IN ('running', 'stopped', 'deleted')),
    reason       text NOT NULL,
    generation   bigint NOT NULL CHECK (generation > 0),
    start        bigint NOT NULL CHECK (start >= 0),
    answered     bigint NOT NULL DEFAULT 0 CHECK (answered BETWEEN 0 AND generation),
    state        text NOT NULL,
    since        timestamptz NOT NULL,
    error        text NOT NULL DEFAULT '',
    address      text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL,
    CHECK (state <> 'deleted' OR desired = 'deleted')
);

CREATE UNIQUE INDEX instances_request ON instances (tenant, request);
CREATE INDEX instances_list ON instances (tenant, created_at DESC, id DESC) WHERE state <> 'deleted';

-- A placement. It never changes but for its end, and carries what it takes of
-- its host.
CREATE TABLE leases (
    instance   text NOT NULL REFERENCES instances,
    no         bigint NOT NULL CHECK (no > 0),
    host       text NOT NULL REFERENCES hosts,
    tenant     text NOT NULL,
    flavor     text NOT NULL,
    image      text NOT NULL,
    vcpus      integer NOT NULL,
    memory_mib bigint NOT NULL,
    disk_mib   bigint NOT NULL,
    granted_at timestamptz NOT NULL,
    ended_at   timestamptz CHECK (ended_at >= granted_at),
    PRIMARY KEY (instance, no)
);

CREATE UNIQUE INDEX leases_one_open ON leases (instance) WHERE ended_at IS NULL;
CREATE INDEX leases_host ON leases (host) INCLUDE (vcpus, memory_mib, disk_mib) WHERE ended_at IS NULL;
CREATE INDEX leases_tenant ON leases (tenant) WHERE ended_at IS NULL;

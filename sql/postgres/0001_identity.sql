-- Tenants, the users who belong to them, and the secrets they prove it with.
-- Secrets are stored as hashes only.

CREATE TABLE tenants (
    id         text PRIMARY KEY CHECK (length(id) = 21),
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL
);

CREATE TABLE users (
    id            text PRIMARY KEY CHECK (length(id) = 21),
    email         text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    password_hash text NOT NULL,
    created_at    timestamptz NOT NULL
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE memberships (
    tenant  text NOT NULL REFERENCES tenants,
    user_id text NOT NULL REFERENCES users,
    role    text NOT NULL CHECK (role IN ('owner', 'member')),
    PRIMARY KEY (user_id, tenant)
);

CREATE TABLE sessions (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    user_id    text NOT NULL REFERENCES users,
    tenant     text NOT NULL REFERENCES tenants,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at)
);
CREATE INDEX sessions_expires ON sessions (expires_at);

CREATE TABLE api_tokens (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    tenant     text NOT NULL REFERENCES tenants,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant);

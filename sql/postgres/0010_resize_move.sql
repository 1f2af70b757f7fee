-- Resize and move.
--
-- A resize of a running instance grants it a new lease on its host. The one
-- before, its successor set, stays in force until the host shows the instance
-- under a newer one; what an instance takes of its host is what its newest lease
-- says. Leases of an instance that are in force at the same time are on one host,
-- since a lease and its successor are.

ALTER TABLE leases ADD COLUMN successor bigint CHECK (successor > no);
ALTER TABLE leases ADD UNIQUE (instance, no, host);
ALTER TABLE leases ADD CONSTRAINT leases_successor_on_its_host FOREIGN KEY (instance, successor, host)
    REFERENCES leases (instance, no, host) DEFERRABLE INITIALLY DEFERRED;

DROP INDEX leases_one_open, leases_host, leases_tenant;
CREATE UNIQUE INDEX leases_one_open ON leases (instance) WHERE ended_at IS NULL AND successor IS NULL;
CREATE INDEX leases_replaced ON leases (instance, no) WHERE ended_at IS NULL AND successor IS NOT NULL;
CREATE INDEX leases_host ON leases (host) INCLUDE (vcpus, memory_mib, disk_mib) WHERE ended_at IS NULL AND successor IS NULL;
CREATE INDEX leases_tenant ON leases (tenant) WHERE ended_at IS NULL AND successor IS NULL;

-- An instance on its way to another host takes its place there from the order on.
ALTER TABLE instances ADD COLUMN moves_to text REFERENCES hosts CHECK (moves_to IS NULL OR desired = 'stopped');
CREATE INDEX instances_moving ON instances (moves_to) INCLUDE (vcpus, memory_mib, disk_mib) WHERE moves_to IS NOT NULL;

ALTER TABLE hosts
    ADD COLUMN storage text NOT NULL DEFAULT '' CHECK (length(storage) <= 100), -- shared with the hosts of the same one; '': its own
    ADD COLUMN version integer NOT NULL DEFAULT 1; -- of the protocol that its agent speaks

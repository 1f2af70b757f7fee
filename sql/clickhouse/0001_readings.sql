-- Readings: what came in, what usage in slots is computed from, and where every epoch stands.
--
-- Each register is a maximum, so a batch may come twice, late or in pieces and every answer stays
-- the same. Nothing here is ever a sum. New registers are new columns at the end (ALTER TABLE … ADD
-- COLUMN in a migration of its own, in all three tables, the views and the sorting key of readings).
--
-- On a cluster the same text is rendered (sql/cluster.go): each table is x_local, of the Replicated form of
-- its engine, with x, of engine Distributed by tenant, over it; the views read and write the _local tables.
-- Every answer being a maximum, none depends on which shard a row lies on, or on how many.

-- Everything accepted, for 13 months. The registers end the sorting key, so that only readings that
-- are alike in everything replace each other: of two different ones at the same instant the larger counts.
CREATE TABLE IF NOT EXISTS readings
(
    tenant   String CODEC(ZSTD(1)),
    instance String CODEC(ZSTD(1)),
    epoch    String CODEC(ZSTD(1)),
    at       DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    received DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    running_ms             UInt64 CODEC(Delta, ZSTD(1)),
    paused_ms              UInt64 CODEC(Delta, ZSTD(1)),
    bridged_ms             UInt64 CODEC(Delta, ZSTD(1)),
    vcpu_ms                UInt64 CODEC(Delta, ZSTD(1)),
    cpu_ns                 UInt64 CODEC(Delta, ZSTD(1)),
    memory_mib_ms          UInt64 CODEC(Delta, ZSTD(1)),
    memory_used_mib_ms     UInt64 CODEC(Delta, ZSTD(1)),
    disk_read_bytes        UInt64 CODEC(Delta, ZSTD(1)),
    disk_read_ops          UInt64 CODEC(Delta, ZSTD(1)),
    disk_write_bytes       UInt64 CODEC(Delta, ZSTD(1)),
    disk_write_ops         UInt64 CODEC(Delta, ZSTD(1)),
    net_public_rx_bytes    UInt64 CODEC(Delta, ZSTD(1)),
    net_public_rx_packets  UInt64 CODEC(Delta, ZSTD(1)),
    net_public_tx_bytes    UInt64 CODEC(Delta, ZSTD(1)),
    net_public_tx_packets  UInt64 CODEC(Delta, ZSTD(1)),
    net_private_rx_bytes   UInt64 CODEC(Delta, ZSTD(1)),
    net_private_rx_packets UInt64 CODEC(Delta, ZSTD(1)),
    net_private_tx_bytes   UInt64 CODEC(Delta, ZSTD(1)),
    net_private_tx_packets UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
PRIMARY KEY (tenant, instance, epoch, at)
ORDER BY (tenant, instance, epoch, at,
    running_ms, paused_ms, bridged_ms, vcpu_ms, cpu_ns, memory_mib_ms, memory_used_mib_ms,
    disk_read_bytes, disk_read_ops, disk_write_bytes, disk_write_ops, net_public_rx_bytes,
    net_public_rx_packets, net_public_tx_bytes, net_public_tx_packets, net_private_rx_bytes,
    net_private_rx_packets, net_private_tx_bytes, net_private_tx_packets)
TTL toDateTime(at) + INTERVAL 13 MONTH
SETTINGS
    ttl_only_drop_parts = 1,
    -- On disk when an insert returns, and merged parts before their sources go.
    fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1,
    old_parts_lifetime = 480;

-- Per epoch and slot (slot is its end; a reading on the boundary belongs to the slot that ends there)
-- the largest value of each register, for ever.
CREATE TABLE IF NOT EXISTS reading_slots
(
    tenant   String CODEC(ZSTD(1)),
    instance String CODEC(ZSTD(1)),
    epoch    String CODEC(ZSTD(1)),
    slot     DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    at       SimpleAggregateFunction(max, DateTime64(3, 'UTC')) CODEC(DoubleDelta, ZSTD(1)),
    running_ms             SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    paused_ms              SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    bridged_ms             SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    vcpu_ms                SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    cpu_ns                 SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    memory_mib_ms          SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    memory_used_mib_ms     SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    disk_read_bytes        SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    disk_read_ops          SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    disk_write_bytes       SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    disk_write_ops         SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_public_rx_bytes    SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_public_rx_packets  SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_public_tx_bytes    SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_public_tx_packets  SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_private_rx_bytes   SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_private_rx_packets SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_private_tx_bytes   SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1)),
    net_private_tx_packets SimpleAggregateFunction(max, UInt64) CODEC(Delta, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(slot)
ORDER BY (tenant, instance, epoch, slot)
SETTINGS
    fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1,
    old_parts_lifetime = 480;

-- One row per epoch, for ever.
CREATE TABLE IF NOT EXISTS epoch_totals
(
    tenant   String CODEC(ZSTD(1)),
    instance String CODEC(ZSTD(1)),
    epoch    String CODEC(ZSTD(1)),
    at       SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    received SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    running_ms             SimpleAggregateFunction(max, UInt64),
    paused_ms              SimpleAggregateFunction(max, UInt64),
    bridged_ms             SimpleAggregateFunction(max, UInt64),
    vcpu_ms                SimpleAggregateFunction(max, UInt64),
    cpu_ns                 SimpleAggregateFunction(max, UInt64),
    memory_mib_ms          SimpleAggregateFunction(max, UInt64),
    memory_used_mib_ms     SimpleAggregateFunction(max, UInt64),
    disk_read_bytes        SimpleAggregateFunction(max, UInt64),
    disk_read_ops          SimpleAggregateFunction(max, UInt64),
    disk_write_bytes       SimpleAggregateFunction(max, UInt64),
    disk_write_ops         SimpleAggregateFunction(max, UInt64),
    net_public_rx_bytes    SimpleAggregateFunction(max, UInt64),
    net_public_rx_packets  SimpleAggregateFunction(max, UInt64),
    net_public_tx_bytes    SimpleAggregateFunction(max, UInt64),
    net_public_tx_packets  SimpleAggregateFunction(max, UInt64),
    net_private_rx_bytes   SimpleAggregateFunction(max, UInt64),
    net_private_rx_packets SimpleAggregateFunction(max, UInt64),
    net_private_tx_bytes   SimpleAggregateFunction(max, UInt64),
    net_private_tx_packets SimpleAggregateFunction(max, UInt64),
    INDEX by_epoch epoch TYPE bloom_filter GRANULARITY 1
)
ENGINE = AggregatingMergeTree
ORDER BY (tenant, instance, epoch)
SETTINGS
    fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1,
    old_parts_lifetime = 480;

-- The views group nothing: the tables' engine joins the rows of a batch before they are written.
CREATE MATERIALIZED VIEW IF NOT EXISTS reading_slots_feed TO reading_slots AS
SELECT tenant, instance, epoch,
    toDateTime(intDiv(toUnixTimestamp64Milli(at) + 299999, 300000) * 300, 'UTC') AS slot, at,
    running_ms, paused_ms, bridged_ms, vcpu_ms, cpu_ns, memory_mib_ms, memory_used_mib_ms,
    disk_read_bytes, disk_read_ops, disk_write_bytes, disk_write_ops, net_public_rx_bytes,
    net_public_rx_packets, net_public_tx_bytes, net_public_tx_packets, net_private_rx_bytes,
    net_private_rx_packets, net_private_tx_bytes, net_private_tx_packets
FROM readings;

CREATE MATERIALIZED VIEW IF NOT EXISTS epoch_totals_feed TO epoch_totals AS
SELECT tenant, instance, epoch, at, received,
    running_ms, paused_ms, bridged_ms, vcpu_ms, cpu_ns, memory_mib_ms, memory_used_mib_ms,
    disk_read_bytes, disk_read_ops, disk_write_bytes, disk_write_ops, net_public_rx_bytes,
    net_public_rx_packets, net_public_tx_bytes, net_public_tx_packets, net_private_rx_bytes,
    net_private_rx_packets, net_private_tx_bytes, net_private_tx_packets
FROM readings;

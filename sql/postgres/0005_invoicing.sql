-- Accounts, closings, invoices, ledger and credit. Every table here but
-- accounts, invoice_series and tenant_accrued is append-only: a trigger refuses
-- UPDATE, DELETE and TRUNCATE, whoever asks.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

-- One row per tenant: who pays, and how.
CREATE TABLE accounts (
    tenant            text PRIMARY KEY CHECK (length(tenant) BETWEEN 1 AND 64),
    currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    plan              text NOT NULL CHECK (plan <> ''),
    zone              text NOT NULL CHECK (zone <> ''),  -- IANA name; where the billing months begin; never changes
    credit_limit      bigint NOT NULL CHECK (credit_limit >= 0),
    tax_category      text NOT NULL CHECK (tax_category IN ('S', 'AE', 'O', 'E', 'Z')),
    tax_percent_milli integer NOT NULL CHECK (tax_percent_milli BETWEEN 0 AND 100000),
    created           timestamptz NOT NULL
);

-- A closing: one cut of one period of one tenant. seq counts a tenant's
-- closings from 1; taking the next seq is the compare-and-set that lets one of
-- two replicas win.
CREATE TABLE closings (
    tenant         text NOT NULL REFERENCES accounts,
    seq            integer NOT NULL CHECK (seq >= 1),
    period_start   timestamptz NOT NULL,
    period_end     timestamptz NOT NULL,
    cut            timestamptz NOT NULL,
    plan           text NOT NULL,
    plan_version   integer NOT NULL,
    unsettled_from timestamptz,          -- start of the earliest period with an amount not yet invoiced
    closed         timestamptz NOT NULL,
    PRIMARY KEY (tenant, seq),
    UNIQUE (tenant, period_start, cut),
    CHECK (period_start < cut AND cut <= period_end)
);

CREATE FUNCTION closings_follow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE prev closings;
BEGIN
    SELECT * INTO prev FROM closings WHERE tenant = NEW.tenant ORDER BY seq DESC LIMIT 1;
    IF NEW.seq <> coalesce(prev.seq, 0) + 1 THEN
        RAISE EXCEPTION 'closing % of % does not follow closing %', NEW.seq, NEW.tenant, coalesce(prev.seq, 0)
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'closings_follow';
    END IF;
    IF prev.seq IS NOT NULL AND NOT (NEW.cut > prev.cut AND (
            NEW.period_start = prev.period_start AND NEW.period_end = prev.period_end
            OR NEW.period_start = prev.period_end AND prev.cut = prev.period_end)) THEN
        RAISE EXCEPTION 'closing % of %: period from % cut at % does not follow period from % cut at %',
            NEW.seq, NEW.tenant, NEW.period_start, NEW.cut, prev.period_start, prev.cut
            USING ERRCODE = 'check_violation', CONSTRAINT = 'closings_follow';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER closings_follow BEFORE INSERT ON closings FOR EACH ROW EXECUTE FUNCTION closings_follow();

-- What a closing billed of one odometer in one period: from one level up to
-- another. The levels of a source join end to end over its closings, so the last
-- level_to is all that was ever billed of it (W). An epoch's level is its
-- registers in their order; an allocation's level is one number, thousandths of
-- its meter's base unit.
CREATE TABLE closing_readings (
    tenant       text NOT NULL,
    seq          integer NOT NULL,
    source       text NOT NULL,            -- epoch or allocation id
    period_start timestamptz NOT NULL,     -- the period the usage lies in; earlier than the closing's for late usage
    period_end   timestamptz NOT NULL,
    window_start timestamptz NOT NULL,     -- the part of the period: all of it, or one span of a time class
    window_end   timestamptz NOT NULL,
    resource     text NOT NULL,
    start_id     text NOT NULL,
    meter        text NOT NULL,            -- of an allocation; '' for an epoch
    flavor       text NOT NULL,
    image        text NOT NULL,
    region       text NOT NULL,
    host_class   text NOT NULL,
    level_from   bigint[] NOT NULL,
    level_to     bigint[] NOT NULL CHECK (cardinality(level_to) = cardinality(level_from)),
    PRIMARY KEY (tenant, source, seq, window_start),
    FOREIGN KEY (tenant, seq) REFERENCES closings,
    CHECK (period_start <= window_start AND window_start < window_end AND window_end <= period_end)
);
CREATE INDEX closing_readings_period ON closing_readings (tenant, period_start);
CREATE INDEX closing_readings_start ON closing_readings (tenant, resource, start_id);
-- Two steps up from the same level would bill the same usage twice.
CREATE UNIQUE INDEX closing_readings_once ON closing_readings (tenant, source, level_from) WHERE level_from <> level_to;

CREATE TABLE invoice_series (
    series text PRIMARY KEY,
    next   bigint NOT NULL CHECK (next >= 1)
);

CREATE TABLE invoices (
    id                text PRIMARY KEY,
    tenant            text NOT NULL,
    seq               integer NOT NULL,
    series            text NOT NULL REFERENCES invoice_series,
    ordinal           bigint NOT NULL CHECK (ordinal >= 1),
    number            text NOT NULL UNIQUE,
    period_start      timestamptz NOT NULL,
    period_end        timestamptz NOT NULL,
    cut               timestamptz NOT NULL,
    issued            timestamptz NOT NULL,
    currency          text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    net               bigint NOT NULL,
    tax_category      text NOT NULL,
    tax_percent_milli integer NOT NULL,
    tax               bigint NOT NULL,
    gross             bigint NOT NULL CHECK (gross > 0 AND gross = net + tax),
    promotional       bigint NOT NULL CHECK (promotional >= 0), -- paid at once from promotional credit
    prepaid           bigint NOT NULL CHECK (prepaid >= 0),     -- paid at once from prepaid credit
    UNIQUE (tenant, seq),
    UNIQUE (series, ordinal),
    FOREIGN KEY (tenant, seq) REFERENCES closings,
    CHECK (promotional + prepaid <= gross)
);

-- Exact numbers are decimals or quotients ("0.0075", "2/3"); shares are arrays
-- of equal length, by resource.
CREATE TABLE invoice_lines (
    tenant          text NOT NULL,
    seq             integer NOT NULL,
    position        integer NOT NULL CHECK (position >= 1),
    period_start    timestamptz NOT NULL,  -- the period the usage lies in
    period_end      timestamptz NOT NULL,
    key             text NOT NULL,
    rate            text NOT NULL,
    meter           text NOT NULL,
    price           text NOT NULL,
    unit            text NOT NULL,
    quantity        text NOT NULL,         -- in unit
    exact           text NOT NULL,         -- currency units
    allowance       text NOT NULL,         -- currency units
    amount          bigint NOT NULL,
    billed_exact    text NOT NULL,         -- of earlier invoices: exact less allowance
    billed          bigint NOT NULL,       -- of earlier invoices: amount
    share_resources text[] NOT NULL,
    share_amounts   bigint[] NOT NULL CHECK (cardinality(share_amounts) = cardinality(share_resources)),
    PRIMARY KEY (tenant, seq, position),
    UNIQUE (tenant, seq, period_start, key),
    FOREIGN KEY (tenant, seq) REFERENCES invoices (tenant, seq) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX invoice_lines_period ON invoice_lines (tenant, period_start);

CREATE FUNCTION invoice_sums() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE total numeric;
BEGIN
    SELECT coalesce(sum(amount), 0) INTO total FROM invoice_lines WHERE tenant = NEW.tenant AND seq = NEW.seq;
    IF total <> NEW.net THEN
        RAISE EXCEPTION 'invoice %: its lines sum to %, not to %', NEW.number, total, NEW.net USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER invoice_sums AFTER INSERT ON invoices
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION invoice_sums();

-- Lines are written before their invoice, so that none is added to one that stands.
CREATE FUNCTION lines_come_first() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added JOIN invoices USING (tenant, seq)) THEN
        RAISE EXCEPTION 'a line is added to an issued invoice' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER lines_come_first AFTER INSERT ON invoice_lines
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION lines_come_first();

-- The ledger. A posting above zero is a debit.
CREATE TABLE entries (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant    text NOT NULL REFERENCES accounts,
    kind      text NOT NULL,
    at        timestamptz NOT NULL,
    reference text NOT NULL,
    key       text NOT NULL UNIQUE CHECK (key <> '')
);
CREATE INDEX entries_tenant ON entries (tenant, id);

CREATE TABLE postings (
    entry    bigint NOT NULL REFERENCES entries,
    position integer NOT NULL,
    account  text NOT NULL CHECK (account <> ''),
    amount   bigint NOT NULL CHECK (amount <> 0),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    PRIMARY KEY (entry, position)
);
CREATE INDEX postings_account ON postings (account) INCLUDE (amount, currency);

CREATE FUNCTION entry_balances() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE entry_id bigint := CASE TG_TABLE_NAME WHEN 'entries' THEN (to_jsonb(NEW)->>'id')::bigint ELSE (to_jsonb(NEW)->>'entry')::bigint END;
BEGIN
    IF NOT EXISTS (SELECT FROM postings WHERE entry = entry_id) THEN
        RAISE EXCEPTION 'entry % has no postings', entry_id USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT FROM postings WHERE entry = entry_id GROUP BY currency HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'the postings of entry % do not sum to zero', entry_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER entry_balances AFTER INSERT ON entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION entry_balances();
CREATE CONSTRAINT TRIGGER posting_balances AFTER INSERT ON postings
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION entry_balances();

-- Promotional credit: what was granted, and what of each grant was used or expired.
CREATE TABLE promo_grants (
    entry    bigint PRIMARY KEY REFERENCES entries,
    tenant   text NOT NULL REFERENCES accounts,
    amount   bigint NOT NULL CHECK (amount > 0),
    expires  timestamptz NOT NULL           -- usable for usage up to this instant
);
CREATE INDEX promo_grants_tenant ON promo_grants (tenant, expires);

CREATE TABLE promo_uses (
    grant_entry bigint NOT NULL REFERENCES promo_grants,
    entry       bigint NOT NULL REFERENCES entries,
    amount      bigint NOT NULL CHECK (amount > 0),
    PRIMARY KEY (grant_entry, entry)
);

CREATE FUNCTION promo_within_grant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT sum(u.amount) > g.amount FROM promo_grants g JOIN promo_uses u ON u.grant_entry = g.entry
        WHERE g.entry = NEW.grant_entry GROUP BY g.amount) THEN
        RAISE EXCEPTION 'promotional grant % is used beyond its amount', NEW.grant_entry USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER promo_within_grant AFTER INSERT ON promo_uses FOR EACH ROW EXECUTE FUNCTION promo_within_grant();

-- The accrued cache: what a tenant owed beyond its invoices at as_of, and how
-- fast that grows. It serves admission and may be thrown away. closing is the
-- closing it counts from: it holds only while that is the tenant's last (0: none).
-- revision rises with every admission, so that a refresh that began before one
-- cannot overwrite the burn it added.
CREATE TABLE tenant_accrued (
    tenant    text PRIMARY KEY REFERENCES accounts,
    as_of     timestamptz NOT NULL,
    closing   integer NOT NULL,
    amount    bigint NOT NULL,               -- minor units
    burn_nano bigint NOT NULL CHECK (burn_nano >= 0), -- billionths of the currency unit an hour
    revision  bigint NOT NULL DEFAULT 0
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['closings', 'closing_readings', 'invoices', 'invoice_lines', 'entries', 'postings', 'promo_grants', 'promo_uses'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
    END LOOP;
END $$;

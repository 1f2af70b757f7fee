package invoicedb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/usance/usance/invoicing"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// Position is a place in a tenant's books: after closing Seq. What stood there
// never changes.
type Position struct {
	Tenant metering.TenantID
	Seq    int
}

const billedSQL = `
SELECT DISTINCT ON (c.tenant, c.source) c.tenant, c.source, c.level_to
FROM closing_readings c
JOIN unnest($1::text[], $2::integer[]) AS at (tenant, seq) ON c.tenant = at.tenant AND c.seq <= at.seq
ORDER BY c.tenant, c.source, c.seq DESC, c.window_start DESC`

// Billed is W: up to where each source, by id, is billed at the given places.
// Sources that no closing has seen are absent.
func (s *Store) Billed(ctx context.Context, at []Position) (map[string]invoicing.Level, error) {
	tenants, seqs := columns(at)
	rows, err := s.pool.Query(ctx, billedSQL, tenants, seqs)
	if err != nil {
		return nil, fmt.Errorf("billed levels: %w", err)
	}
	billed := map[string]invoicing.Level{}
	var tenant, source string
	var level []int64
	_, err = pgx.ForEachRow(rows, []any{&tenant, &source, &level}, func() (err error) {
		billed[source], err = levelOf(level)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("billed levels: %w", err)
	}
	return billed, nil
}

func columns(at []Position) (tenants []string, seqs []int32) {
	for _, p := range at {
		tenants = append(tenants, string(p.Tenant))
		seqs = append(seqs, int32(p.Seq))
	}
	return tenants, seqs
}

// Reach says what of a tenant's books is wanted: at Position, all segments and
// lines of periods that start at From or later, and the earlier segments of the
// starts in them and of Starts.
type Reach struct {
	Position
	From   time.Time
	Starts []Start
	Slots  bool // also how segments since From lie in slots
}

// Start names a start of a resource.
type Start struct {
	Resource metering.ResourceID
	Start    string
}

const segmentsSQL = `
WITH at AS (
    SELECT * FROM unnest($1::text[], $2::integer[], $3::timestamptz[]) AS at (tenant, seq, period_start)
), starts AS (
    SELECT DISTINCT c.tenant, c.resource, c.start_id
    FROM closing_readings c
    JOIN at ON c.tenant = at.tenant AND c.seq <= at.seq AND c.period_start >= at.period_start
    UNION
    SELECT * FROM unnest($4::text[], $5::text[], $6::text[])
)
SELECT c.tenant, c.seq, c.source, c.resource, c.start_id, c.meter, c.flavor, c.image, c.region, c.host_class, c.created,
    c.period_start, c.period_end, c.window_start, c.window_end, c.level_from, c.level_to
FROM closing_readings c
JOIN starts USING (tenant, resource, start_id)
JOIN at ON c.tenant = at.tenant AND c.seq <= at.seq
ORDER BY c.tenant, c.seq, c.source, c.window_start`

// Segments are the closing readings within reach, by tenant, in the order in
// which they were billed.
func (s *Store) Segments(ctx context.Context, reaches []Reach) (map[metering.TenantID][]invoicing.Segment, error) {
	var tenants, startTenants, resources, starts []string
	var seqs []int32
	var from []time.Time
	for _, r := range reaches {
		tenants, seqs, from = append(tenants, string(r.Tenant)), append(seqs, int32(r.Seq)), append(from, r.From.UTC())
		for _, st := range r.Starts {
			startTenants, resources, starts = append(startTenants, string(r.Tenant)), append(resources, string(st.Resource)), append(starts, st.Start)
		}
	}
	rows, err := s.pool.Query(ctx, segmentsSQL, tenants, seqs, from, startTenants, resources, starts)
	if err != nil {
		return nil, fmt.Errorf("closing readings: %w", err)
	}
	segments, err := collectSegments(rows)
	if err != nil {
		return nil, fmt.Errorf("closing readings: %w", err)
	}
	return segments, s.addSlots(ctx, reaches, segments)
}

const slotsSQL = `
SELECT k.tenant, k.seq, k.source, k.window_start, k.meter, k.first_slot, k.growth
FROM closing_slots k
JOIN unnest($1::text[], $2::integer[], $3::integer[], $4::timestamptz[]) AS at (tenant, after, seq, period_start)
    ON k.tenant = at.tenant AND k.seq > at.after AND k.seq <= at.seq AND k.window_start >= at.period_start
ORDER BY k.meter`

// addSlots adds how segments within reach lie in slots, where it is asked for.
func (s *Store) addSlots(ctx context.Context, reaches []Reach, segments map[metering.TenantID][]invoicing.Segment) error {
	var tenants []string
	var after, seqs []int32
	var from []time.Time
	for _, r := range reaches {
		if r.Slots {
			tenants, after, seqs, from = append(tenants, string(r.Tenant)), append(after, 0), append(seqs, int32(r.Seq)), append(from, r.From.UTC())
		}
	}
	if len(tenants) == 0 {
		return nil
	}
	rows, err := s.pool.Query(ctx, slotsSQL, tenants, after, seqs, from)
	if err != nil {
		return fmt.Errorf("slots of closing readings: %w", err)
	}
	return collectSlots(rows, segments)
}

// collectSlots adds the rows' slots to the segments that they are of.
func collectSlots(rows pgx.Rows, segments map[metering.TenantID][]invoicing.Segment) error {
	type key struct {
		tenant metering.TenantID
		seq    int
		source string
		start  int64 // of the window, microseconds since 1970
	}
	of := map[key]*invoicing.Segment{}
	for tenant, all := range segments {
		for i := range all {
			of[key{tenant, all[i].Seq, all[i].ID, all[i].Window.Start.UnixMicro()}] = &all[i]
		}
	}
	var k key
	var start time.Time
	var slots invoicing.Slots
	var growth []pgtype.Int8
	_, err := pgx.ForEachRow(rows, []any{&k.tenant, &k.seq, &k.source, &start, &slots.Meter, &slots.First, &growth}, func() error {
		k.start = start.UnixMicro()
		slots.First, slots.Growth = slots.First.UTC(), growthOf(growth)
		if g := of[k]; g != nil {
			g.Slots = append(g.Slots, slots)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("slots of closing readings: %w", err)
	}
	return nil
}

const closedSegmentsSQL = `
SELECT tenant, seq, source, resource, start_id, meter, flavor, image, region, host_class, created,
    period_start, period_end, window_start, window_end, level_from, level_to
FROM closing_readings
WHERE tenant = $1 AND seq = $2
ORDER BY source, window_start`

// SegmentsOf are the closing readings of one closing.
func (s *Store) SegmentsOf(ctx context.Context, at Position) ([]invoicing.Segment, error) {
	rows, err := s.pool.Query(ctx, closedSegmentsSQL, at.Tenant, at.Seq)
	if err != nil {
		return nil, fmt.Errorf("closing readings %d of %s: %w", at.Seq, at.Tenant, err)
	}
	segments, err := collectSegments(rows)
	if err != nil {
		return nil, fmt.Errorf("closing readings %d of %s: %w", at.Seq, at.Tenant, err)
	}
	rows, err = s.pool.Query(ctx, slotsSQL, []string{string(at.Tenant)}, []int32{int32(at.Seq - 1)}, []int32{int32(at.Seq)}, []time.Time{{}})
	if err != nil {
		return nil, fmt.Errorf("slots of closing readings %d of %s: %w", at.Seq, at.Tenant, err)
	}
	return segments[at.Tenant], collectSlots(rows, segments)
}

func collectSegments(rows pgx.Rows) (map[metering.TenantID][]invoicing.Segment, error) {
	all := map[metering.TenantID][]invoicing.Segment{}
	var tenant metering.TenantID
	var g invoicing.Segment
	var from, to []int64
	l := &g.Labels
	_, err := pgx.ForEachRow(rows, []any{&tenant, &g.Seq, &g.ID, &g.Resource, &g.Start, &g.Meter, &l.Flavor, &l.Image, &l.Region, &l.HostClass, &l.Created,
		&g.Period.Start, &g.Period.End, &g.Window.Start, &g.Window.End, &from, &to}, func() (err error) {
		g.Period, g.Window = inUTC(g.Period), inUTC(g.Window)
		if g.From, err = levelOf(from); err == nil {
			g.To, err = levelOf(to)
		}
		all[tenant] = append(all[tenant], g)
		return err
	})
	return all, err
}

func inUTC(w metering.Window) metering.Window {
	return metering.Window{Start: w.Start.UTC(), End: w.End.UTC()}
}

const linesSQL = `
SELECT l.tenant, l.period_start, l.period_end, l.key, l.rate, l.meter, l.price, l.unit, l.quantity, l.exact, l.allowance,
    l.amount, l.billed_exact, l.billed, l.share_resources, l.share_amounts, i.currency
FROM invoice_lines l
JOIN invoices i USING (tenant, seq)
`

const linesInReachSQL = linesSQL + `
JOIN unnest($1::text[], $2::integer[], $3::timestamptz[]) AS at (tenant, seq, period_start)
    ON l.tenant = at.tenant AND l.seq <= at.seq AND l.period_start >= at.period_start
ORDER BY l.tenant, l.seq, l.position`

// Lines are the lines of invoices within reach, by tenant, in order of issue.
func (s *Store) Lines(ctx context.Context, reaches []Reach) (map[metering.TenantID][]invoicing.LineItem, error) {
	var tenants []string
	var seqs []int32
	var from []time.Time
	for _, r := range reaches {
		tenants, seqs, from = append(tenants, string(r.Tenant)), append(seqs, int32(r.Seq)), append(from, r.From.UTC())
	}
	rows, err := s.pool.Query(ctx, linesInReachSQL, tenants, seqs, from)
	if err != nil {
		return nil, fmt.Errorf("invoice lines: %w", err)
	}
	lines := map[metering.TenantID][]invoicing.LineItem{}
	for rows.Next() {
		tenant, line, err := scanLine(rows)
		if err != nil {
			rows.Close()
			return nil, fmt.Errorf("invoice lines: %w", err)
		}
		lines[tenant] = append(lines[tenant], line)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("invoice lines: %w", err)
	}
	return lines, nil
}

func scanLine(row pgx.CollectableRow) (tenant metering.TenantID, l invoicing.LineItem, err error) {
	var quantity, exact, allowance, billedExact string
	var resources []metering.ResourceID
	var amounts []int64
	var currency money.Currency
	if err := row.Scan(&tenant, &l.Period.Start, &l.Period.End, &l.Key, &l.Rate, &l.Meter, &l.Price, &l.Unit, &quantity, &exact, &allowance,
		&l.Amount.Minor, &billedExact, &l.Billed.Minor, &resources, &amounts, &currency); err != nil {
		return tenant, l, err
	}
	l.Period = inUTC(l.Period)
	l.Amount.Currency, l.Billed.Currency = currency, currency
	for i, r := range resources {
		l.Shares = append(l.Shares, invoicing.Share{Resource: r, Amount: money.Amount{Minor: amounts[i], Currency: currency}})
	}
	for _, f := range []struct {
		to   *money.Fraction
		text string
	}{{&l.Quantity, quantity}, {&l.Exact, exact}, {&l.Allowance, allowance}, {&l.BilledExact, billedExact}} {
		if *f.to, err = fraction(f.text); err != nil {
			return tenant, l, fmt.Errorf("line %s: %w", l.Key, err)
		}
	}
	return tenant, l, nil
}

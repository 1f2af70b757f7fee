package planfile

import (
	"fmt"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"github.com/usance/usance/rating"
)

// measure is a unit's size in the base unit of its dimension.
type measure struct {
	names string // all its spellings
	size  uint64
}

var (
	times = []measure{
		{"s second seconds", 1},
		{"min minute minutes", 60},
		{"h hour hours", 3600},
		{"day days", 86400},
	}
	sizes = []measure{
		{"B", 1},
		{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	}
	// Over a slot of 300 seconds, in halves of a byte.
	speeds = []measure{
		{"bit/s", 75}, {"kbit/s", 75e3}, {"Mbit/s", 75e6}, {"Gbit/s", 75e9},
	}
	counts = []measure{
		{"operation operations", 1},
		{"thousand thousands", 1e3},
		{"million millions", 1e6},
	}
)

// slotBytes is the base unit of rates by percentile: bytes in a slot.
const slotBytes = "B in 5 min"

func lookup(table []measure, name string) (uint64, bool) {
	for _, m := range table {
		for spelling := range strings.FieldsSeq(m.names) {
			if spelling == name {
				return m.size, true
			}
		}
	}
	return 0, false
}

// suits says which units fit a base unit, for errors.
var suits = map[string]string{
	"s":      "s, min, hour, day and month",
	"vCPU·s": "vCPU-s, vCPU-hour, vCPU-day and vCPU-month",
	"MiB·s":  "MiB-s, GiB-hour, GiB-day and GiB-month",
	"B":      "B, kB, MB, GB, TB, KiB, MiB, GiB and TiB",
	"1":      "operation, thousand and million",

	slotBytes: "kbit/s, Mbit/s and Gbit/s",
}

// parseUnit reads a unit that fits the base unit.
func parseUnit(text, base string) (rating.Unit, error) {
	unit := rating.Unit{Name: text, Num: 1, Den: 1}
	first, second, product := strings.Cut(text, "-")
	fits := false
	switch base {
	case "s":
		fits = timeUnit(&unit, text)
	case "B":
		unit.Num, fits = lookup(sizes, text)
	case "1":
		unit.Num, fits = countUnit(text)
	case slotBytes:
		unit.Num, fits = lookup(speeds, text)
		unit.Num, unit.Den = reduce(unit.Num, 2)
	case "vCPU·s":
		fits = product && first == "vCPU" && timeUnit(&unit, second)
	case "MiB·s":
		var size uint64
		if size, fits = lookup(sizes, first); fits {
			fits = product && timeUnit(&unit, second)
			over, num := bits.Mul64(unit.Num, size)
			fits = fits && over == 0
			unit.Num, unit.Den = reduce(num, 1<<20)
		}
	}
	if !fits {
		return rating.Unit{}, fmt.Errorf("unit %q does not fit a meter in %s; %s do", text, base, suits[base])
	}
	return unit, nil
}

// timeUnit sets the unit to one of time: "hour", "month", "month(730 h)".
func timeUnit(u *rating.Unit, text string) bool {
	if inner, ok := strings.CutPrefix(text, "month("); ok {
		inner, closed := strings.CutSuffix(inner, ")")
		span, err := parseSpan(inner, "s")
		if !closed || err != nil || span.Unit.Month {
			return false
		}
		seconds, whole := mulDiv(span.Thousandths, span.Unit.Num, 1000)
		u.Num = seconds
		return whole && seconds > 0
	}
	if text == "month" || text == "months" {
		u.Month = true
		return true
	}
	size, ok := lookup(times, text)
	u.Num = size
	return ok
}

// countUnit reads "operation", "thousand", "million operations".
func countUnit(text string) (uint64, bool) {
	first, second, both := strings.Cut(text, " ")
	size, ok := lookup(counts, first)
	if both && second != "operations" && second != "operation" {
		return 0, false
	}
	return size, ok
}

// maxDigits bounds the number before a unit, so that it stays below 10^12 in thousandths of 64 bits.
const maxDigits = 12

// parseSpan reads a quantity with a unit that fits the base unit: "60 s",
// "1.5 h", "10 TiB", "1 million". A quantity of operations may stand alone.
func parseSpan(text, base string) (rating.Span, error) {
	number, name, _ := strings.Cut(text, " ")
	name = strings.TrimSpace(name)
	whole, frac, dot := strings.Cut(number, ".")
	if !allDigits(whole) || dot && !allDigits(frac) || len(frac) > 3 || len(whole) > maxDigits {
		return rating.Span{}, fmt.Errorf("%q is not a quantity with a unit; %s is, with at most 3 decimals", text, examples[base])
	}
	if name == "" && base == "1" {
		name = "operations"
	}
	if name == "" {
		return rating.Span{}, fmt.Errorf("%q has no unit; %s do", text, suits[base])
	}
	unit, err := parseUnit(name, base)
	if err != nil {
		return rating.Span{}, err
	}
	n, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 3-len(frac)), 10, 64)
	if err != nil {
		return rating.Span{}, fmt.Errorf("%q: %w", text, err)
	}
	if n == 0 {
		return rating.Span{}, fmt.Errorf("%q is nothing; a quantity above 0 must stand here", text)
	}
	return rating.Span{Thousandths: n, Unit: unit, Text: text}, nil
}

var examples = map[string]string{
	"s": "60 s", "vCPU·s": "2 vCPU-hours", "MiB·s": "10 GiB-month", "B": "500 GiB", "1": "1000 operations",
	slotBytes: "100 Mbit/s",
}

// maxNano bounds a price in billionths: a thousand million of the currency unit.
const maxNano = 1_000_000_000_000_000_000

// parseDecimal reads a price in billionths of the currency unit: at most 9 decimals.
func parseDecimal(text string) (int64, error) {
	whole, frac, dot := strings.Cut(text, ".")
	switch {
	case strings.HasPrefix(text, "-"):
		return 0, fmt.Errorf("%q is negative; a price is 0 or more", text)
	case !allDigits(whole) || dot && !allDigits(frac):
		return 0, fmt.Errorf("%q is not a decimal; 0.0075 is", text)
	case len(frac) > 9:
		return 0, fmt.Errorf("%q has %d decimals; at most 9 are kept exactly", text, len(frac))
	}
	n, err := strconv.ParseInt(whole+frac+strings.Repeat("0", 9-len(frac)), 10, 64)
	if err != nil || n > maxNano {
		return 0, fmt.Errorf("%q is too large; up to 1000000000 is read", text)
	}
	return n, nil
}

// parsePrice reads "0.0075 per hour", "0.01 per 100 operations".
func parsePrice(text, base string) (rating.Step, error) {
	number, per, ok := strings.Cut(text, " per ")
	if !ok {
		if _, err := parseDecimal(text); err != nil && strings.HasPrefix(text, "-") {
			return rating.Step{}, err
		}
		return rating.Step{}, fmt.Errorf("%q is not a price; %s is", text, priceExamples[base])
	}
	nano, err := parseDecimal(strings.TrimSpace(number))
	if err != nil {
		return rating.Step{}, err
	}
	step := rating.Step{Nano: nano, Count: 1, Text: text}
	per = strings.TrimSpace(per)
	if count, rest, ok := strings.Cut(per, " "); ok && allDigits(count) {
		per = strings.TrimSpace(rest)
		step.Count, err = parseCount(count)
	} else if allDigits(per) && base == "1" {
		step.Count, err = parseCount(per)
		step.Unit = rating.Unit{Num: 1, Den: 1}
		return step, err
	}
	if err == nil {
		step.Unit, err = parseUnit(per, base)
	}
	return step, err
}

var priceExamples = map[string]string{
	"s": "0.0075 per hour", "vCPU·s": "0.005 per vCPU-hour", "MiB·s": "0.05 per GiB-month",
	"B": "0.01 per GiB", "1": "0.01 per 100 operations", slotBytes: "2.00 per Mbit/s",
}

// maxCount bounds the number of units that a price is for.
const maxCount = 1_000_000_000

func parseCount(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 || n > maxCount {
		return 0, fmt.Errorf("a price per %s units; 1 to %d are read", text, maxCount)
	}
	return n, nil
}

func allDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

func reduce(num, den uint64) (uint64, uint64) {
	a, b := num, den
	for b != 0 {
		a, b = b, a%b
	}
	return num / a, den / a
}

// mulDiv is a × b ÷ c; whole reports whether that is a whole number of 64 bits.
func mulDiv(a, b, c uint64) (quo uint64, whole bool) {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return 0, false
	}
	quo, rem := bits.Div64(hi, lo, c)
	return quo, rem == 0
}

// spanRat is the span in thousandths of its base unit, for a month of so many seconds.
func spanRat(s rating.Span, month uint64) *big.Rat {
	n := new(big.Int).SetUint64(s.Thousandths)
	n.Mul(n, new(big.Int).SetUint64(s.Unit.Num))
	if s.Unit.Month {
		n.Mul(n, new(big.Int).SetUint64(month))
	}
	return new(big.Rat).SetFrac(n, new(big.Int).SetUint64(s.Unit.Den))
}

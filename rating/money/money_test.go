package money

import (
	"errors"
	"math"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/usance/usance/metering"
)

func TestAmountText(t *testing.T) {
	for _, tc := range []struct {
		amount Amount
		text   string
	}{
		{Amount{0, "EUR"}, "0.00"},
		{Amount{1234, "EUR"}, "12.34"},
		{Amount{-5, "EUR"}, "-0.05"},
		{Amount{5, "JPY"}, "5"},
		{Amount{-12, "JPY"}, "-12"},
		{Amount{1, "KWD"}, "0.001"},
		{Amount{math.MaxInt64, "EUR"}, "92233720368547758.07"},
		{Amount{math.MinInt64, "EUR"}, "-92233720368547758.08"},
	} {
		if got := tc.amount.String(); got != tc.text {
			t.Errorf("%d %s: got %s, want %s", tc.amount.Minor, tc.amount.Currency, got, tc.text)
		}
		if got, err := Parse(tc.text, tc.amount.Currency); err != nil || got != tc.amount {
			t.Errorf("parse %s: got %v, %v", tc.text, got, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "-", ".", "1.", ".5", "1.234", "1e3", "+1", " 1", "1,00", "92233720368547758.08", "٣"} {
		if got, err := Parse(text, "EUR"); !errors.Is(err, ErrAmount) {
			t.Errorf("%q: got %v, %v; want ErrAmount", text, got, err)
		}
	}
	if _, err := Parse("1.5", "JPY"); !errors.Is(err, ErrAmount) {
		t.Errorf("half a yen: %v", err)
	}
}

func TestParseCurrency(t *testing.T) {
	for code, digits := range map[string]int{"EUR": 2, "JPY": 0, "KWD": 3, "CLF": 4} {
		if c, err := ParseCurrency(code); err != nil || c.Digits() != digits {
			t.Errorf("%s: %d digits, %v; want %d", code, c.Digits(), err, digits)
		}
	}
	for _, code := range []string{"", "eur", "EURO", "XXQ"} {
		if _, err := ParseCurrency(code); !errors.Is(err, ErrCurrency) {
			t.Errorf("%q: %v; want ErrCurrency", code, err)
		}
	}
}

func TestAdd(t *testing.T) {
	eur := func(minor int64) Amount { return Amount{minor, "EUR"} }
	for _, tc := range []struct {
		a, b, sum Amount
		err       error
	}{
		{eur(1), eur(2), eur(3), nil},
		{eur(1), eur(-2), eur(-1), nil},
		{Amount{}, eur(2), eur(2), nil},
		{eur(2), Amount{}, eur(2), nil},
		{eur(1), Amount{1, "USD"}, Amount{}, ErrCurrency},
		{eur(math.MaxInt64), eur(1), Amount{}, ErrOverflow},
		{eur(math.MinInt64), eur(-1), Amount{}, ErrOverflow},
		{eur(math.MaxInt64), eur(math.MinInt64), eur(-1), nil},
	} {
		if sum, err := tc.a.Add(tc.b); sum != tc.sum || !errors.Is(err, tc.err) {
			t.Errorf("%v + %v: got %v, %v; want %v, %v", tc.a, tc.b, sum, err, tc.sum, tc.err)
		}
	}
	if _, err := eur(1).Sub(eur(math.MinInt64)); !errors.Is(err, ErrOverflow) {
		t.Errorf("minus the smallest: %v", err)
	}
}

func TestRound(t *testing.T) {
	for _, tc := range []struct {
		num, den                        int64
		halfAway, halfEven, up, towards int64
	}{
		{0, 1, 0, 0, 0, 0},
		{1, 1000, 0, 0, 1, 0},
		{5, 1000, 1, 0, 1, 0},
		{15, 1000, 2, 2, 2, 1},
		{25, 1000, 3, 2, 3, 2},
		{-5, 1000, -1, 0, -1, 0},
		{-15, 1000, -2, -2, -2, -1},
		{499, 100000, 0, 0, 1, 0},
		{2, 3, 67, 67, 67, 66},
		{-2, 3, -67, -67, -67, -66},
		{7, 1, 700, 700, 700, 700},
	} {
		f := Frac(tc.num, tc.den)
		for mode, want := range map[Rounding]int64{HalfAway: tc.halfAway, HalfEven: tc.halfEven, Up: tc.up, Down: tc.towards} {
			for _, form := range []Fraction{f, inLarge(f)} {
				if got, err := Round(form, "EUR", mode); err != nil || got.Minor != want {
					t.Errorf("%d/%d %s: got %d, %v; want %d", tc.num, tc.den, mode, got.Minor, err, want)
				}
			}
		}
	}
	huge := FracRat(new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), 200)))
	if _, err := Round(huge, "EUR", HalfAway); !errors.Is(err, ErrOverflow) {
		t.Errorf("2^200: %v; want ErrOverflow", err)
	}
}

// TestPriceTimes compares with big rationals, from nothing to beyond 128 bits.
func TestPriceTimes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Price{
			Nano: rapid.Int64Range(0, math.MaxInt64).Draw(t, "nano"),
			Per:  rapid.Int64Range(1, math.MaxInt64).Draw(t, "per"),
		}
		q := metering.Quantity{Hi: rapid.Uint64().Draw(t, "hi"), Lo: rapid.Uint64().Draw(t, "lo")}
		if rapid.Bool().Draw(t, "usual") {
			p.Nano %= 100_000_000_000
			p.Per = rapid.SampledFrom([]int64{1, 3600, 2_592_000, 1 << 30, 1 << 40}).Draw(t, "unit")
			q.Hi = 0
		}
		want := new(big.Rat).SetFrac(
			new(big.Int).Mul(q.Big(), big.NewInt(p.Nano)),
			new(big.Int).Mul(big.NewInt(p.Per), big.NewInt(1_000_000_000_000)))
		if got := p.Times(q).Rat(); got.Cmp(want) != 0 {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

// inLarge is the same value in the form that has no bounds.
func inLarge(f Fraction) Fraction { return Fraction{large: f.Rat()} }

func fractions() *rapid.Generator[Fraction] {
	return rapid.Custom(func(t *rapid.T) Fraction {
		f := FracOf(
			metering.Quantity{Hi: rapid.SampledFrom([]uint64{0, 0, 1, math.MaxUint64}).Draw(t, "hi"), Lo: rapid.Uint64().Draw(t, "lo")},
			rapid.SampledFrom([]uint64{1, 7, 1 << 40, math.MaxUint64}).Draw(t, "num"),
			rapid.SampledFrom([]uint64{1, 1000, 3600, 1 << 40, math.MaxUint64, 1_000_000_007}).Draw(t, "den"))
		if rapid.Bool().Draw(t, "negative") {
			return f.Neg()
		}
		return f
	})
}

// TestTextOfSmallFractions: both ways of writing agree.
func TestTextOfSmallFractions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		den := rapid.SampledFrom([]int64{1, 3, 8, 10, 25, 125, 640, 3600, 1000, 1 << 18, 1 << 19, 1 << 30, 1e18, 5e17, 7e17}).Draw(t, "den")
		f := Frac(rapid.Int64().Draw(t, "num"), den)
		if rapid.Bool().Draw(t, "small") {
			f = Frac(rapid.Int64Range(-5000, 5000).Draw(t, "num"), den)
		}
		if slow := inLarge(f).Text(); f.Text() != slow {
			t.Fatalf("%s is written %s and %s", f.Rat(), f.Text(), slow)
		}
	})
}

// TestFraction: arithmetic agrees with big rationals, whatever form carries it.
func TestFraction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, g := fractions().Draw(t, "f"), fractions().Draw(t, "g")
		q := metering.Quantity{Hi: rapid.SampledFrom([]uint64{0, 1, 1 << 49}).Draw(t, "hi"), Lo: rapid.Uint64().Draw(t, "lo")}
		for name, got := range map[string]struct {
			f    Fraction
			want *big.Rat
		}{
			"+": {f.Add(g), new(big.Rat).Add(f.Rat(), g.Rat())},
			"-": {f.Sub(g), new(big.Rat).Sub(f.Rat(), g.Rat())},
			"×": {f.Mul(g), new(big.Rat).Mul(f.Rat(), g.Rat())},
			"q": {f.Times(q), new(big.Rat).Mul(f.Rat(), new(big.Rat).SetInt(q.Big()))},
			"=": {FracRat(f.Rat()), f.Rat()},
			"m": {f.Min(g), map[bool]*big.Rat{true: f.Rat(), false: g.Rat()}[f.Rat().Cmp(g.Rat()) < 0]},
		} {
			if got.f.Rat().Cmp(got.want) != 0 {
				t.Fatalf("%s %s %s: got %s, want %s", f.Text(), name, g.Text(), got.f.Text(), got.want)
			}
		}
		// Both ways of writing agree, and what is written is the value.
		again, ok := new(big.Rat).SetString(f.Text())
		if slow := inLarge(f).Text(); !ok || again.Cmp(f.Rat()) != 0 || f.Text() != slow {
			t.Fatalf("%s is written %s and %s", f.Rat(), f.Text(), slow)
		}
		if f.Cmp(g) != f.Rat().Cmp(g.Rat()) {
			t.Fatalf("%s against %s: %d", f.Text(), g.Text(), f.Cmp(g))
		}
	})
}

func TestFractionText(t *testing.T) {
	for _, tc := range []struct {
		num, den int64
		text     string
	}{
		{0, 1, "0"}, {3, 2, "1.5"}, {-1, 8, "-0.125"}, {2, 3, "2/3"}, {10, 5, "2"},
	} {
		if got := Frac(tc.num, tc.den).Text(); got != tc.text {
			t.Errorf("%d/%d: got %s, want %s", tc.num, tc.den, got, tc.text)
		}
	}
	if got := Frac(2, 3).Decimal(4); got != "0.6667" {
		t.Errorf("2/3 with 4 decimals: %s", got)
	}
}

func TestShares(t *testing.T) {
	cents := func(thousandthsOfCents ...int64) []Fraction {
		var list []Fraction
		for _, n := range thousandthsOfCents {
			list = append(list, Frac(n, 100_000))
		}
		return list
	}
	for _, tc := range []struct {
		name  string
		parts []Fraction
		whole int64
		want  []int64
	}{
		{"thirds, the earlier first", cents(333, 333, 333), 1, []int64{1, 0, 0}},
		{"largest remainder", cents(1400, 1400, 1700), 5, []int64{2, 1, 2}},
		{"nothing gets nothing", cents(0, 600, 0), 1, []int64{0, 1, 0}},
		{"exact", cents(1000, 2000), 3, []int64{1, 2}},
		{"a negative part", cents(-1500, 3000), 2, []int64{-1, 3}},
		{"none", nil, 0, []int64{}},
	} {
		whole, shares, err := Shares(tc.parts, "EUR", HalfAway)
		if err != nil || whole.Minor != tc.whole || len(shares) != len(tc.want) {
			t.Errorf("%s: %v %v %v; want %d %v", tc.name, whole, shares, err, tc.whole, tc.want)
			continue
		}
		for i := range shares {
			if shares[i].Minor != tc.want[i] {
				t.Errorf("%s: %v; want %v", tc.name, shares, tc.want)
				break
			}
		}
	}
}

// TestSharesSumToTheWhole: always, in every mode, each within a minor unit of its part.
func TestSharesSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Fraction {
			den := rapid.OneOf(rapid.SampledFrom([]int64{1, 360, 3600, 100_000}), rapid.Int64Range(1, 100_000)).Draw(t, "den")
			low := rapid.SampledFrom([]int64{0, 0, -1_000_000}).Draw(t, "low")
			return Frac(rapid.Int64Range(low, 1_000_000).Draw(t, "num"), den)
		}), 0, 12).Draw(t, "parts")
		mode := Rounding(rapid.IntRange(0, 3).Draw(t, "mode"))
		whole, shares, err := Shares(parts, "EUR", mode)
		if err != nil {
			t.Fatal(err)
		}
		// Without the short way, the same.
		var slow []Fraction
		for _, p := range parts {
			slow = append(slow, inLarge(p))
		}
		if again, other, err := Shares(slow, "EUR", mode); err != nil || again != whole || !slices.Equal(other, shares) {
			t.Fatalf("%v %v and %v %v", whole, shares, again, other)
		}
		sum := int64(0)
		for i, s := range shares {
			sum += s.Minor
			off := s.Fraction().Sub(parts[i]).Rat()
			if off.Abs(off).Cmp(big.NewRat(1, 100)) >= 0 {
				t.Fatalf("share %s of part %s", s, parts[i].Text())
			}
		}
		if sum != whole.Minor {
			t.Fatalf("shares %v sum to %d of %d", shares, sum, whole.Minor)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"12.34", "-0.05", "1e9", "9223372036854775807", "..", "−1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := Parse(s, "EUR")
		if err != nil {
			return
		}
		if again, err := Parse(a.String(), "EUR"); err != nil || again != a {
			t.Errorf("%q reads as %v, which reads as %v, %v", s, a, again, err)
		}
	})
}

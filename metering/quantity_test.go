package metering

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseQuantity(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"0", "0"}, {"3600", "3600"}, {"0.125", "0.125"}, {"1.5", "1.5"}, {"1.500", "1.5"}, {"0.001", "0.001"}, {"007", "7"},
		{"0.0", "0"}, {"18446744073709551.615", "18446744073709551.615"}, {"18446744073709551.616", "18446744073709551.616"},
		{strings.Repeat("9", 31) + ".999", strings.Repeat("9", 31) + ".999"},
		{strings.Repeat("0", 40) + "1", "1"},
	} {
		q, err := ParseQuantity(test.in)
		if err != nil || q.String() != test.want {
			t.Errorf("ParseQuantity(%q) = %s, %v, want %s", test.in, q, err, test.want)
		}
	}
	for _, test := range []struct{ in, want string }{
		{"", "a decimal such as"}, {"-1", "is negative"}, {"-", "is negative"}, {"+1", "a decimal such as"}, {".5", "a decimal such as"},
		{"5.", "a decimal such as"}, {"1e3", "a decimal such as"}, {"1,5", "a decimal such as"}, {" 1", "a decimal such as"},
		{"1.2.3", "a decimal such as"}, {"0x10", "a decimal such as"}, {"1.0000", "more than 3 decimals"}, {"١", "a decimal such as"},
		{strings.Repeat("9", 32), "more than 31 digits"}, {"NaN", "a decimal such as"},
	} {
		if _, err := ParseQuantity(test.in); !errors.Is(err, ErrQuantity) || !strings.Contains(err.Error(), test.want) ||
			!strings.Contains(err.Error(), `"`+test.in+`"`) {
			t.Errorf("ParseQuantity(%q): got %v, want %q and the input", test.in, err, test.want)
		}
	}
}

var anyQuantity = rapid.Custom(func(t *rapid.T) Quantity {
	return Quantity{rapid.Uint64Max(math.MaxUint64/4).Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")}
})

// Quantities do what big integers do.
func TestQuantityIsAnInteger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyQuantity.Draw(t, "a"), anyQuantity.Draw(t, "b")
		if got, want := a.Add(b).Big(), new(big.Int).Add(a.Big(), b.Big()); got.Cmp(want) != 0 {
			t.Fatalf("%s + %s = %s, want %s", a.Big(), b.Big(), got, want)
		}
		want := new(big.Int).Sub(a.Big(), b.Big())
		if want.Sign() < 0 {
			want.SetInt64(0)
		}
		if got := a.Sub(b).Big(); got.Cmp(want) != 0 {
			t.Fatalf("%s − %s = %s, want %s", a.Big(), b.Big(), got, want)
		}
		if got, want := a.Cmp(b), a.Big().Cmp(b.Big()); got != want {
			t.Fatalf("%s and %s compare as %d, want %d", a.Big(), b.Big(), got, want)
		}
		if a.IsZero() != (a.Big().Sign() == 0) {
			t.Fatalf("IsZero of %s", a.Big())
		}
	})
}

func TestQuantityText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Quantity{rapid.Uint64Max(1<<48).Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")}
		back, err := ParseQuantity(q.String())
		if err != nil || back != q {
			t.Fatalf("%s comes back as %s, %v", q, back, err)
		}
	})
	if got := Thousandths(1234).String(); got != "1.234" {
		t.Errorf("1234 thousandths are %s", got)
	}
}

func TestQuantityOverflowPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a sum of more than 128 bits wrapped")
		}
	}()
	Quantity{math.MaxUint64, math.MaxUint64}.Add(Thousandths(1))
}

package metering

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var anyRegisters = rapid.Custom(func(t *rapid.T) (r Registers) {
	for i := range r {
		r[i] = rapid.Uint64Max(math.MaxInt64).Draw(t, "register")
	}
	return r
})

// The join is commutative, associative and idempotent: that is why repeating,
// delaying and reordering readings change nothing.
func TestJoin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := anyRegisters.Draw(t, "a"), anyRegisters.Draw(t, "b"), anyRegisters.Draw(t, "c")
		if a.Join(b) != b.Join(a) {
			t.Fatal("not commutative")
		}
		if a.Join(b).Join(c) != a.Join(b.Join(c)) {
			t.Fatal("not associative")
		}
		if a.Join(a) != a || a.Join(Registers{}) != a {
			t.Fatal("not idempotent")
		}
		for i, v := range a.Join(b) {
			if v < a[i] || v < b[i] || v != a[i] && v != b[i] {
				t.Fatalf("%s: %d of %d and %d", Register(i), v, a[i], b[i])
			}
		}
		if got := a.Join(b).Sub(b).Add(b); got != a.Join(b) {
			t.Fatal("what is taken off and put back differs")
		}
	})
}

func TestRegistersSub(t *testing.T) {
	a, b := Registers{RunningMS: 10, CPUNS: 5}, Registers{RunningMS: 4, CPUNS: 7}
	if got, want := a.Sub(b), (Registers{RunningMS: 6}); got != want {
		t.Errorf("got %v, want %v: never below 0", got, want)
	}
	if !a.Sub(a).IsZero() || a.IsZero() {
		t.Error("IsZero")
	}
}

// The names and numbers of registers are on the wire and in tables: they stay.
func TestRegisterNamesStay(t *testing.T) {
	want := "running_ms paused_ms bridged_ms vcpu_ms cpu_ns memory_mib_ms memory_used_mib_ms " +
		"disk_read_bytes disk_read_ops disk_write_bytes disk_write_ops " +
		"net_public_rx_bytes net_public_rx_packets net_public_tx_bytes net_public_tx_packets " +
		"net_private_rx_bytes net_private_rx_packets net_private_tx_bytes net_private_tx_packets"
	if got := strings.Join(RegisterNames(), " "); !strings.HasPrefix(got, want) {
		t.Errorf("got %s", got)
	}
	if NetPrivateTxPackets.String() != "net_private_tx_packets" {
		t.Errorf("the last register is %s", NetPrivateTxPackets)
	}
}

func TestCheckRegisters(t *testing.T) {
	if err := CheckRegisters(Registers{CPUNS: math.MaxInt64}); err != nil {
		t.Error(err)
	}
	err := CheckRegisters(Registers{CPUNS: math.MaxInt64 + 1})
	if err == nil || !strings.Contains(err.Error(), "cpu_ns: 9223372036854775808") {
		t.Errorf("got %v", err)
	}
}

// An id is the same again for the same life, and another when anything differs.
func TestDeriveEpochID(t *testing.T) {
	const instance = InstanceID("ins_0000000000000000a")
	id := DeriveEpochID(instance, "boot", 12, 34, 5)
	if len(id) != 32 || id != DeriveEpochID(instance, "boot", 12, 34, 5) {
		t.Errorf("%s is not derived", id)
	}
	for name, other := range map[string]EpochID{
		"instance":  DeriveEpochID("ins_0000000000000000b", "boot", 12, 34, 5),
		"boot":      DeriveEpochID(instance, "boot2", 12, 34, 5),
		"pid":       DeriveEpochID(instance, "boot", 1, 34, 5),
		"pid start": DeriveEpochID(instance, "boot", 12, 3, 5),
		"ordinal":   DeriveEpochID(instance, "boot", 12, 34, 6),
	} {
		if other == id {
			t.Errorf("another %s gives the same id", name)
		}
	}
}

func TestIDs(t *testing.T) {
	id := NewID(PrefixTenant)
	if err := CheckID(PrefixTenant, id); err != nil || id == NewID(PrefixTenant) {
		t.Errorf("%s: %v", id, err)
	}
	for _, bad := range []string{"", "ten_", "ten_0123456789abcdef", "ten_0123456789abcdef01", "ten_0123456789ABCDEF0", "usr_0123456789abcdef0", "ten_0123456789abcdefg", "ten_0123456789abcdef0\n"} {
		if err := CheckID(PrefixTenant, bad); err == nil {
			t.Errorf("%q passes as an id", bad)
		}
	}
}

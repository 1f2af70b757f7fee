package compute

import (
	"errors"
	"strings"
	"testing"

	"github.com/usance/usance/metering"
)

func TestQuotaCheck(t *testing.T) {
	quota := Quota{2, Capacity{4, 1000, 100}}
	for _, c := range []struct {
		name       string
		used, more Quota
		want       string // the quota that is exceeded
	}{
		{"up to the limit", Quota{1, Capacity{2, 500, 50}}, Quota{1, Capacity{2, 500, 50}}, ""},
		{"one instance too many", Quota{2, Capacity{}}, Quota{1, Capacity{}}, "instances"},
		{"vcpus", Quota{1, Capacity{3, 0, 0}}, Quota{1, Capacity{2, 0, 0}}, "vcpus"},
		{"memory", Quota{1, Capacity{0, 999, 0}}, Quota{1, Capacity{1, 2, 0}}, "memory_mib"},
		{"disk", Quota{1, Capacity{0, 0, 100}}, Quota{1, Capacity{1, 1, 1}}, "disk_mib"},
		{"what is exceeded already but not wanted more of", Quota{1, Capacity{0, 0, 200}}, Quota{1, Capacity{1, 1, 0}}, ""},
	} {
		err := quota.Check(c.used, c.more)
		var q *QuotaError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &q) || q.What != c.want || !errors.Is(err, ErrQuota)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestFlavorCheck(t *testing.T) {
	for f, ok := range map[Flavor]bool{
		{"small", 1, 1, 0}:             true,
		{"", 1, 1, 0}:                  false,
		{"small", 0, 1, 0}:             false,
		{"small", 1, 0, 0}:             false,
		{"small", 1, 1, -1}:            false,
		{"small", 1 << 20, 1, 0}:       false,
		{"small", 1, 1 << 40, 0}:       false,
		{"small", 1, 1, 1<<40 + 1}:     false,
		{"big", 1<<15 - 1, 1 << 30, 0}: true,
	} {
		if err := f.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v, want ok %v", f, err, ok)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "web-1": true, "0": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "A": false, "a.b": false, "a_b": false, "a\n": false, "ä": false, strings.Repeat("a", 64): false,
	} {
		if err := CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ok %v", name, err, ok)
		}
	}
}

func TestMACIsLocalUnicastAndDerived(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		id := metering.InstanceID(metering.NewID(metering.PrefixInstance))
		mac := MAC(id)
		if mac != MAC(id) || len(mac) != 17 || !strings.HasPrefix(mac, "02:") || seen[mac] {
			t.Errorf("MAC of %s is %s", id, mac)
		}
		seen[mac] = true
	}
}

package virt

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestChooseVirtType(t *testing.T) {
	for name, c := range map[string]struct {
		setting, kept string
		want          string // "": an error
	}{
		"set to kvm":          {"kvm", "qemu\n", "kvm"},
		"set to qemu":         {"qemu", "", "qemu"},
		"found out: kvm":      {"auto", "kvm\n", "kvm"},
		"unset, found: qemu":  {"", "qemu\n", "qemu"},
		"set to what is none": {"xen", "qemu\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "virt_type"), []byte(c.kept), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := ChooseVirtType(t.Context(), c.setting, dir, slog.New(slog.DiscardHandler))
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// TestProbe finds out what this machine can and checks that the answer is kept.
// Whether a guest of that type boots, TestLife shows for qemu alone: it must work
// everywhere.
func TestProbe(t *testing.T) {
	if testing.Short() {
		t.Skip("needs QEMU and the test guest")
	}
	if _, err := os.Stat(ProbeKernel); err != nil {
		t.Fatalf("the test guest (deploy/deps.sh builds it): %v", err)
	}
	dir := t.TempDir()
	began := time.Now()
	var log strings.Builder
	first, err := ChooseVirtType(t.Context(), "auto", dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || first != VirtKVM && first != VirtQEMU {
		t.Fatalf("got %q, %v", first, err)
	}
	if took := time.Since(began); took > probeTime+3*time.Second {
		t.Errorf("took %s, want at most %s", took, probeTime)
	}
	if !strings.Contains(log.String(), "virt_type="+first) {
		t.Errorf("not said aloud: %s", log.String())
	}
	t.Log(log.String())
	kept, err := os.ReadFile(filepath.Join(dir, "virt_type"))
	if err != nil || string(kept) != first+"\n" {
		t.Errorf("kept %q (%v), want %q", kept, err, first)
	}
}

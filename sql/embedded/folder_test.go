package embedded

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestStartRefuses(t *testing.T) {
	for _, test := range []struct {
		name    string
		prepare func(t *testing.T, cfg *Config)
		want    string
	}{
		{"relative folder", func(t *testing.T, cfg *Config) { cfg.Dir = "data" }, "must be absolute"},
		{"no command", func(t *testing.T, cfg *Config) { cfg.Command = nil }, "no command to run the shim"},
		{"long socket path", func(t *testing.T, cfg *Config) { cfg.RunDir += "/" + strings.Repeat("x", 80) }, "shorter path"},
		{"newer version", func(t *testing.T, cfg *Config) { write(t, cfg.Dir, "PG_VERSION", "99\n") }, "apt-get install postgresql-99"},
		{"older version", func(t *testing.T, cfg *Config) { write(t, cfg.Dir, "PG_VERSION", "9\n") }, "pg_upgrade"},
		{"broken version", func(t *testing.T, cfg *Config) { write(t, cfg.Dir, "PG_VERSION", "x\n") }, "no version of Postgres"},
		{"foreign folder", func(t *testing.T, cfg *Config) { write(t, cfg.Dir, "letters.txt", "dear") }, "holds letters.txt but no PG_VERSION"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t)
			cfg := config(dir)
			test.prepare(t, &cfg)
			_, err := Start(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("err = %v, want one with %q", err, test.want)
			}
			if _, err := os.Stat(filepath.Join(cfg.Dir, "base")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder was initialised: %v", err)
			}
		})
	}
}

func TestParentsMustBeSearchable(t *testing.T) {
	stranger := account{uid: uint32(os.Geteuid()) + 4321, gid: uint32(os.Getegid()) + 4321}
	dir := folder(t)
	inner := filepath.Join(dir, "closed", "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := stranger.canReach(inner); err != nil {
		t.Errorf("open folders: %v", err)
	}
	if err := os.Chmod(filepath.Dir(inner), 0o700); err != nil {
		t.Fatal(err)
	}
	want := "cannot enter " + filepath.Dir(inner)
	if err := stranger.canReach(inner); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("err = %v, want one with %q", err, want)
	}
}

func TestFindBinaries(t *testing.T) {
	root := t.TempDir()
	for _, major := range []string{"9.6", "14", "15", "17", "readme"} {
		write(t, filepath.Join(root, major, "bin"), "postgres", "")
	}
	if err := os.MkdirAll(filepath.Join(root, "18", "bin"), 0o755); err != nil { // its programs were removed
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		glob  string
		major int
		want  string // of the folder, or
		err   string
	}{
		{"highest", "*/bin", 0, "17/bin", ""},
		{"that of the folder", "*/bin", 15, "15/bin", ""},
		{"folder too old", "*/bin", 14, "", "at least 15 is needed"},
		{"not installed", "*/bin", 16, "", "apt-get install postgresql-16"},
		{"programs removed", "*/bin", 18, "", "apt-get install postgresql-18"},
		{"none", "none/*", 0, "", "apt-get install postgresql-15"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := findBinaries(filepath.Join(root, test.glob), test.major)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("err = %v, want one with %q", err, test.err)
				}
				return
			}
			if want := filepath.Join(root, test.want); got != want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
}

func TestOutputExplains(t *testing.T) {
	exit := errors.New("exit status 1")
	for _, test := range []struct {
		name, lines string
		err         error
		want        string
	}{
		{"went well", "FATAL:  terminating connection\n", nil, ""},
		{"silent", "LOG:  starting\n", exit, "the server on /d ended: exit status 1"},
		{"server", "FATAL:  no room\nHINT:  none\n", exit, "the server on /d ended: exit status 1: no room"},
		{"initdb", "initdb: error: no\n", exit, "the server on /d ended: exit status 1: no"},
		{"bootstrap", "2026-11-22 02:10:22.123 UTC [12] FATAL:  no room\n", exit, "the server on /d ended: exit status 1: no room"},
		{"last ones", "FATAL: 1\nFATAL: 2\nFATAL: 3\nFATAL: 4\n", exit, "the server on /d ended: exit status 1: 2; 3; 4"},
		{"disk", "PANIC:  could not write: No space left on device\n", exit,
			"the disk of /d is full: free some space there, then start again (could not write: No space left on device)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := &output{log: slog.New(slog.DiscardHandler)}
			o.follow(strings.NewReader(test.lines))
			got := ""
			if err := o.explain("the server", "/d", test.err); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"io"
	"strings"
	"testing"
)

func TestMigrateWithAClusterNeedsAServer(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
	}{
		{"flag", []string{"migrate", "--clickhouse-cluster", "main"}, nil},
		{"environment", []string{"migrate"}, map[string]string{"USANCE_CLICKHOUSE_CLUSTER": "main"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stderr strings.Builder
			p := program{getenv: func(key string) string { return test.env[key] }, stdout: io.Discard, stderr: &stderr}
			if code := run(t.Context(), p, test.args); code != exitUsage || !strings.Contains(stderr.String(), "needs --clickhouse,") {
				t.Errorf("code %d, %q", code, stderr.String())
			}
		})
	}
}

// The data folder may be another process's: with servers of one's own it is not touched.
func TestMigrateOfServersLeavesTheDataFolder(t *testing.T) {
	dir := t.TempDir()
	data, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	var stderr strings.Builder
	p := program{getenv: func(string) string { return "" }, stdout: io.Discard, stderr: &stderr}
	code := run(t.Context(), p, []string{"migrate", "--data", dir,
		"--postgres", "postgres://nobody@127.0.0.1:1/none", "--clickhouse", "clickhouse://127.0.0.1:1/none"})
	if code != exitError || strings.Contains(stderr.String(), "in use by process") || !strings.Contains(stderr.String(), "127.0.0.1:1") {
		t.Errorf("code %d, %q: want the server that does not answer", code, stderr.String())
	}
}

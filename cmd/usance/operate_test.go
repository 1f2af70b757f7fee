package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOperatorsFlagsAreThoseGiven(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Authorization"))
		io.WriteString(w, `{"items":[]}`)
	}))
	defer server.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, operatorTokenFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("uo_kept\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"USANCE_DATA": dir, "USANCE_SERVER": server.URL}
	for _, test := range []struct {
		name string
		args []string
		env  map[string]string
		want string
	}{
		{"the data folder's token", []string{"--data", dir, "--server", server.URL}, nil, "Bearer uo_kept"},
		{"a given token", []string{"--token", "uo_given", "--server", server.URL}, nil, "Bearer uo_given"},
		{"environment", nil, env, "Bearer uo_kept"},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked = nil
			var stderr strings.Builder
			p := program{getenv: func(key string) string { return test.env[key] }, stdout: io.Discard, stderr: &stderr}
			code := run(t.Context(), p, append([]string{"tenant", "list"}, test.args...))
			if code != exitOK || len(asked) != 1 || asked[0] != test.want {
				t.Errorf("code %d, asked with %q, %q; want %q", code, asked, stderr.String(), test.want)
			}
		})
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDataFolderIsRefused(t *testing.T) {
	dir := t.TempDir()
	d, err := openData(dir)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, want string
		prepare    func(t *testing.T) string
	}{
		{"held by another", "is in use by process", func(t *testing.T) string { return dir }},
		{"another version", `layout version "99"`, func(t *testing.T) string {
			other := t.TempDir()
			if err := os.WriteFile(filepath.Join(other, "VERSION"), []byte("99\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			return other
		}},
		{"a file in its place", "not a directory", func(t *testing.T) string {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			return file
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := openData(c.prepare(t))
			var r refusal
			if !errors.As(err, &r) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want a refusal with %q", err, c.want)
			}
		})
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openData(dir)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again.Close()
}

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	const server = "https://usance.example:8443"
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want string // part of the error; "" for none
	}{
		{"flags", []string{"--server", server, "--data", "/d"}, nil, ""},
		{"environment", nil, map[string]string{"USANCE_SERVER": server, "USANCE_MEMORY_MIB": "512"}, ""},
		{"a flag goes before the environment", []string{"--server", server}, map[string]string{"USANCE_SERVER": "ftp://x"}, ""},
		{"no server", nil, nil, "--server"},
		{"not https", []string{"--server", "http://x"}, nil, "https://"},
		{"negative capacity", []string{"--server", server, "--vcpus", "-1"}, nil, "positive"},
		{"bad environment", []string{"--server", server}, map[string]string{"USANCE_VCPUS": "many"}, `USANCE_VCPUS="many"`},
		{"unknown flag", []string{"--serve", server}, nil, "serve"},
		{"argument", []string{"--server", server, "start"}, nil, `"start"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := parse(c.args, func(k string) string { return c.env[k] }, io.Discard)
			if c.want == "" {
				if err != nil || cfg.agent.Server != server {
					t.Errorf("parse = %+v, %v; want server %s", cfg, err, server)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, new(usageError)) {
				t.Errorf("error %v, want a usage error with %q", err, c.want)
			}
		})
	}
}

func TestPrivateNetworks(t *testing.T) {
	env := map[string]string{"USANCE_SERVER": "https://usance.example:8443", "USANCE_PRIVATE_NETWORKS": "backbone, br-int"}
	getenv := func(k string) string { return env[k] }
	cfg, err := parse(nil, getenv, io.Discard)
	if want := []string{"backbone", "br-int"}; err != nil || !slices.Equal(cfg.private, want) {
		t.Errorf("got %q, %v, want %q", cfg.private, err, want)
	}
	for _, c := range []struct{ setting, want string }{
		{"backbone,,br-int", `private network ""`},
		{"default", `private network "default": it is the public one`},
	} {
		env["USANCE_PRIVATE_NETWORKS"] = c.setting
		args := []string{"--data", t.TempDir(), "--virt-type", "qemu"}
		if err := run(t.Context(), args, getenv, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want an error with %q", c.setting, err, c.want)
		}
	}
}

func TestHelpListsTheFlags(t *testing.T) {
	var out bytes.Buffer
	err := run(t.Context(), []string{"-h"}, func(string) string { return "" }, &out, io.Discard)
	if !errors.Is(err, flag.ErrHelp) || !strings.Contains(out.String(), "-virt-type") {
		t.Errorf("run -h = %v, printed %q; want the flags", err, out.String())
	}
}

func TestEndsWithItsParent(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	fd, err := syscall.Dup(int(r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	ended := make(chan struct{})
	endWith(fd, func() { close(ended) })
	select {
	case <-ended:
		t.Fatal("ended while the parent lives")
	case <-time.After(20 * time.Millisecond):
	}
	w.Close()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatal("did not end with the parent")
	}
}

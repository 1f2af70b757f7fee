package main

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// versionCommand prints what the build knows of itself.
func versionCommand(_ context.Context, p program, _ []string) int {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p.fail("version", fmt.Errorf("built without version information"))
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			version += " " + s.Value
		}
	}
	fmt.Fprintln(p.stdout, "usance", version, info.GoVersion)
	return exitOK
}

// migrateCommand brings both databases' schemas up to date and ends.
func migrateCommand(ctx context.Context, p program, args []string) int {
	cfg, code, ok := p.config("migrate", args)
	if !ok {
		return code
	}
	log := slog.New(slog.NewTextHandler(p.stderr, nil))
	s := &stack{log: log}
	defer s.unwind()
	var data *dataFolder // of private databases; servers are migrated beside a running `serve`
	if cfg.postgres == "" || cfg.clickhouse == "" {
		var err error
		if data, err = openData(cfg.data); err != nil {
			return p.fail("migrate", err)
		}
		s.push(func() { data.Close() })
	}
	if _, _, err := openDatabases(ctx, cfg, log, data, s); err != nil {
		return p.fail("migrate", err)
	}
	return exitOK
}

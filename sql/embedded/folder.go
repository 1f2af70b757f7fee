package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	binariesGlob = "/usr/lib/postgresql/*/bin" // where Debian puts each major version
	minMajor     = 15
)

// existingMajor is the major version of the server that made the data folder; 0
// when the folder is absent or empty, so that it may be initialised.
func existingMajor(dir string) (int, error) {
	version, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err == nil {
		major, err := strconv.Atoi(strings.TrimSpace(string(version)))
		if err != nil {
			return 0, fmt.Errorf("%s/PG_VERSION says %q, which is no version of Postgres; restore the folder from a backup", dir, version)
		}
		return major, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("data folder of Postgres: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("data folder of Postgres: %w", err)
	}
	if len(entries) > 0 {
		return 0, fmt.Errorf("%s holds %s but no PG_VERSION, so it is no data folder of Postgres; empty it or choose another", dir, entries[0].Name())
	}
	return 0, nil
}

// FindBinaries is the folder of the programs of the highest version installed,
// which a new data folder is made with ("/usr/lib/postgresql/15/bin").
func FindBinaries() (string, error) { return findBinaries(binariesGlob, 0) }

// findBinaries is the folder of the programs of the given major version, or of
// the highest one when major is 0.
func findBinaries(glob string, major int) (string, error) {
	dirs, err := filepath.Glob(glob)
	if err != nil {
		return "", err
	}
	best, found := 0, ""
	for _, dir := range dirs {
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil || n < minMajor || n < best || major != 0 && n != major {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err != nil {
			continue
		}
		best, found = n, dir
	}
	switch {
	case found != "":
		return found, nil
	case major != 0 && major < minMajor:
		return "", fmt.Errorf("the data folder is of Postgres %d and at least %d is needed: move it on with pg_upgrade", major, minMajor)
	case major != 0:
		return "", fmt.Errorf("the data folder is of Postgres %d, which is not installed: apt-get install postgresql-%d, or move it on with pg_upgrade", major, major)
	}
	return "", fmt.Errorf("no Postgres of version %d or later under %s: apt-get install postgresql-15, or give a Postgres DSN", minMajor, glob)
}

// initialise makes the data folder beside its place and moves it there when it
// is complete and on disk, so that a crash leaves no half-made one.
func initialise(ctx context.Context, cfg Config, account account, bin string) error {
	start := time.Now()
	unfinished := cfg.Dir + ".unfinished"
	if err := waitForHolders(ctx, unfinished, holderPatience); err != nil {
		return err
	}
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("remove a half-made Postgres folder: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("make the Postgres data folder: %w", err)
	}
	if err := account.own(unfinished); err != nil {
		return err
	}
	if err := runInitdb(ctx, cfg, account, filepath.Join(bin, "initdb"), unfinished); err != nil {
		return err
	}
	if err := os.Rename(unfinished, cfg.Dir); err != nil {
		return fmt.Errorf("move the new Postgres data folder into place: %w", err)
	}
	parent, err := os.Open(filepath.Dir(cfg.Dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := parent.Sync(); err != nil {
		return fmt.Errorf("put the new Postgres data folder on disk: %w", err)
	}
	cfg.Log.Info("postgres data folder made", "dir", cfg.Dir, "took", time.Since(start))
	return nil
}

func runInitdb(ctx context.Context, cfg Config, account account, initdb, dir string) error {
	shim, pipe, stderr, err := startShim(cfg.Command, account, initdb, []string{
		"-D", dir, "-U", role, "-E", "UTF8", "--locale=C.UTF-8",
		"--auth-local=peer", "--auth-host=reject", "--data-checksums",
	})
	if err != nil {
		return fmt.Errorf("start initdb: %w", err)
	}
	defer stderr.Close()
	defer context.AfterFunc(ctx, func() { pipe.Close() })()
	output := &output{log: cfg.Log}
	output.follow(stderr)
	waitErr := shim.Wait()
	pipe.Close()
	if err := ctx.Err(); err != nil { // whether initdb heeded it or not: it misses interrupts while it probes
		return fmt.Errorf("initdb on %s: %w", cfg.Dir, err)
	}
	return output.explain("initdb", cfg.Dir, waitErr)
}

// waitForHolders waits until no process of Postgres works on the folder: a
// server whose starter was killed takes a moment to stop, and processes of a
// killed server a moment to notice. After patience it says who is still there.
func waitForHolders(ctx context.Context, dir string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		pids := holders(dir)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another Postgres server (process %d) still runs on %s after %v: end the program that started it, or the server itself with kill -INT %d", pids[0], dir, patience, pids[0])
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for Postgres process %d to leave %s: %w", pids[0], dir, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// holders are the processes called postgres whose working directory is dir, as
// that of every process of a server is, the server itself first.
func holders(dir string) []int {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		proc := filepath.Dir(link)
		if cwd, err := os.Readlink(link); err != nil || cwd != real {
			continue
		}
		if name, err := os.ReadFile(proc + "/comm"); err != nil || string(bytes.TrimSpace(name)) != "postgres" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(proc)); err == nil {
			pids = append(pids, pid)
		}
	}
	if i := slices.Index(pids, postmasterPID(dir)); i > 0 {
		pids[0], pids[i] = pids[i], pids[0]
	}
	return pids
}

// postmasterPID is the process that the folder's lock file names, 0 if there is
// none. The file outlives a killed server.
func postmasterPID(dir string) int {
	text, _ := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	line, _, _ := strings.Cut(string(text), "\n")
	pid, _ := strconv.Atoi(line)
	return pid
}

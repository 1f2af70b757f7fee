package sqltest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// useCommand makes the test binary a test process that has a server and then
// waits to be killed.
const useCommand = "use-server"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == useCommand {
		admin, err := start()
		fmt.Println(admin, err)
		select {}
	}
	os.Exit(m.Run())
}

func TestDatabasesAreMigratedAndApart(t *testing.T) {
	one, two := Postgres(t), Postgres(t)
	if _, err := one.Exec(t.Context(), `INSERT INTO schema_migrations VALUES ('mine', '')`); err != nil {
		t.Fatal(err)
	}
	var all, mine int
	const count = `SELECT count(*), count(*) FILTER (WHERE name = 'mine') FROM schema_migrations`
	if err := two.QueryRow(t.Context(), count).Scan(&all, &mine); err != nil {
		t.Fatal(err)
	}
	if all == 0 || mine != 0 {
		t.Errorf("the other database has %d migrations, of which %d rows of mine; want some and none", all, mine)
	}
}

func TestDatabaseGoesWithItsTest(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Postgres server, and -short has none")
	}
	var dsn string
	t.Run("inner", func(t *testing.T) {
		dsn = DSN(t)
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn // left open: the database goes nevertheless
	})
	if _, err := pgx.Connect(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("err = %v, want one that the database does not exist", err)
	}
}

func TestServerGoesWithItsProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a Postgres server, and -short has none")
	}
	program := exec.Command(os.Args[0], useCommand)
	program.Env = append(os.Environ(), "TMPDIR="+folder(t))
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "postgres://") {
		t.Fatalf("the process said %q, %v", line, err)
	}
	admin, _, _ := strings.Cut(line, " ")
	config, err := pgx.ParseConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(config.Host)
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	program.Process.Kill()
	program.Wait()

	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there", dir)
		}
	}
}

// folder is a temporary folder that system user postgres can enter.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "usance-sqltest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

package sqltest

import (
	"testing"
	"time"
)

func TestPostgres(t *testing.T) {
	begin := time.Now()
	pool := Postgres(t)
	t.Log(time.Since(begin))
	begin = time.Now()
	pool2 := Postgres(t)
	t.Log(time.Since(begin))
	if _, err := pool.Exec(t.Context(), `CREATE TABLE x (y int)`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool2.Exec(t.Context(), `CREATE TABLE x (y int)`); err != nil {
		t.Fatal(err)
	}
}

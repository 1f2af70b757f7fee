package sql

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Cluster is where ClickHouse statements are to run. Its zero value is one server.
//
// The files of clickhouse/ are written for one server. For a cluster each
// statement is rendered:
//
//   - A table with a column tenant becomes x_local on every node, of the
//     Replicated form of its engine, and x over them, of engine Distributed, by
//     the tenant's hash. Queries and inserts name x either way.
//   - A table without one is whole on every node.
//   - A materialized view becomes one on every node, from its source's _local to
//     its target's _local table, so that a row is fed where it lies.
//
// Any other statement is refused. All names are written with their database: what
// runs ON CLUSTER runs on the other nodes in their default database. The paths
// in Keeper are written out too: the default ones hold an id drawn anew by each
// statement, and one repeated after half a failure would make replicas that
// know nothing of each other.
type Cluster struct {
	Name     string // as in the servers' remote_servers: letters, digits, _ and -; "" is one server
	Database string // where the tables are, of the same letters; only needed in a cluster
}

var (
	clusterNames = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	createTable  = regexp.MustCompile(`(?s)^CREATE TABLE IF NOT EXISTS (\w+)(\s*\(.*\)\s*ENGINE = )(\w*MergeTree)(\s.*)?$`)
	tenantColumn = regexp.MustCompile(`(?m)^\s*tenant\s+String\b`)
	createView   = regexp.MustCompile(`(?s)^CREATE MATERIALIZED VIEW IF NOT EXISTS (\w+) TO (\w+) (AS\s.*\sFROM) (\w+)$`)
)

// check refuses names that would need quoting.
func (c Cluster) check() error {
	switch {
	case c.Name == "":
		return nil
	case !clusterNames.MatchString(c.Name):
		return fmt.Errorf("cluster %q: its name must be of letters, digits, _ and -", c.Name)
	case !clusterNames.MatchString(c.Database):
		return fmt.Errorf("database %q in a cluster: its name must be of letters, digits, _ and -", c.Database)
	}
	return nil
}

// prepare are the statements that come before any other: on a new node not even
// the database exists.
func (c Cluster) prepare() []string {
	if c.Name == "" {
		return nil
	}
	return []string{fmt.Sprintf("CREATE DATABASE IF NOT EXISTS `%s` ON CLUSTER '%s' ENGINE = Atomic", c.Database, c.Name)}
}

// render is the statement as it runs here.
func (c Cluster) render(statement string) ([]string, error) {
	if c.Name == "" {
		return []string{statement}, nil
	}
	if m := createTable.FindStringSubmatch(statement); m != nil {
		name, columns, engine, rest := m[1], m[2], m[3], m[4]
		if !tenantColumn.MatchString(columns) {
			return []string{c.replicated(name, columns, engine, rest, "all", "{shard}-{replica}")}, nil
		}
		local := name + "_local"
		return []string{
			c.replicated(local, columns, engine, rest, "{shard}", "{replica}"),
			fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS %s\nENGINE = Distributed('%s', '%s', '%s', cityHash64(tenant))",
				c.everywhere(name), c.qualified(local), c.Name, c.Database, local),
		}, nil
	}
	if m := createView.FindStringSubmatch(statement); m != nil && strings.Count(statement, "FROM ") == 1 {
		return []string{fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS %s TO %s %s %s",
			c.everywhere(m[1]), c.qualified(m[2]+"_local"), m[3], c.qualified(m[4]+"_local"))}, nil
	}
	return nil, errors.New("this statement cannot be rendered for a cluster: " + firstLine(statement))
}

// replicated is a table of the engine's Replicated form; nodes with the same
// shard keep the same rows, each as another replica.
func (c Cluster) replicated(name, columns, engine, rest, shard, replica string) string {
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s%sReplicated%s('/clickhouse/%s/%s/%s/%s', '%s')%s",
		c.everywhere(name), columns, engine, c.Name, c.Database, name, shard, replica, rest)
}

func (c Cluster) qualified(name string) string { return fmt.Sprintf("`%s`.%s", c.Database, name) }

func (c Cluster) everywhere(name string) string {
	return fmt.Sprintf("%s ON CLUSTER '%s'", c.qualified(name), c.Name)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

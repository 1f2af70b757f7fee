// Package embedded runs ClickHouse as a child process of this program: the
// child loads libchdb and serves ClickHouse's HTTP interface on a unix socket,
// and clickhouse-go talks to that as it would to a server.
//
// It owns the child's life and the translation between HTTP and the library's
// C interface. It never listens on a network, never runs a statement that a
// tenant wrote (the engine reads any file the process can), and holds no
// knowledge of any table.
//
// Invariants:
//   - One data folder has one child. A second one waits for the first, then
//     fails saying who holds the folder.
//   - The child outlives its parent by no more than the end of its running
//     statements: it holds the read end of a pipe and ends itself at EOF.
//   - A request is exactly one statement; text that holds two is refused before
//     any of it runs.
//   - An insert that was answered with 200 is written: fsync is a setting of the
//     tables, and async_insert is off.
package embedded

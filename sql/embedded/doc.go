// Package embedded runs a private Postgres server as a child of this program,
// for an installation that was given no database.
//
// It owns the server's data folder, its socket and its life. It never opens a
// network port, never initialises a folder that holds anything, never touches a
// folder of another major version, and never ends a server it did not start.
//
// Invariants:
//   - A data folder appears under its name only when it is complete: it is made
//     beside it and renamed.
//   - The server ends with the program, however that ends: a shim process holds
//     the read end of a pipe whose write end only the program has, and at
//     end-of-file stops the server; should the shim die, the kernel does.
//   - fsync, full-page writes and synchronous commit are on, checksums too.
//
// The shim is this same program, started again with ChildCommand as its first
// argument. Access is by socket file and peer credentials alone: the file is in
// a folder that only the server's user enters, and only that user and the user
// of the program are let in. As root, the server runs as system user "postgres",
// since Postgres refuses root.
package embedded

package embedded

import (
	"context"
	"errors"
	"log/slog"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// ChildCommand is the hidden first argument under which a program must call
// ChildMain with the arguments that follow it.
const ChildCommand = "clickhouse-child"

// Config says where the engine lives. Dir and Socket are required.
type Config struct {
	Dir         string       // data folder, made when missing; one engine at a time
	Socket      string       // path of the unix socket, at most 100 bytes
	Library     string       // path of libchdb.so; "" looks it up (see Start)
	Command     []string     // what to run in front of the child's arguments; nil: this program and ChildCommand
	MemoryLimit int64        // bytes the engine may use; 0: DefaultMemoryLimit
	Log         *slog.Logger // required
}

// DefaultMemoryLimit is what the engine may use in bytes; beyond it a statement fails with
// code 241 and the engine lives on.
const DefaultMemoryLimit = 2 << 30

// Server is a running child.
type Server struct{}

// ErrNoLibrary is wrapped by Start when libchdb.so is nowhere.
var ErrNoLibrary = errors.New("libchdb.so is not installed")

// Start runs the child and returns when it answers.
func Start(ctx context.Context, cfg Config) (*Server, error) { return nil, errors.New("not built yet") }

// Options connect clickhouse-go to the server, database "usance".
func (s *Server) Options() *clickhouse.Options { return nil }

// Done is closed when the child has ended.
func (s *Server) Done() <-chan struct{} { return nil }

// Err says why the child ended: nil while it runs and after Stop.
func (s *Server) Err() error { return nil }

// Stop ends the child and waits for it; when ctx ends first it kills it.
func (s *Server) Stop(ctx context.Context) error { return nil }

// ChildMain is the child. It returns its exit code.
func ChildMain(args []string) int { return 1 }

package local

import (
	"context"
	"log/slog"
)

// Config says where a libvirtd of our own lives.
type Config struct {
	Dir string // absolute; libvirt's folders, its log and the record of its processes
	Log *slog.Logger
}

// Libvirtd is a libvirtd of our own.
type Libvirtd struct {
	cfg Config
}

// Answers reports whether a libvirtd answers at a libvirt URI, such as
// qemu:///system.
func Answers(ctx context.Context, uri string) bool { return false }

// Start goes on with the libvirtd of the folder when it is alive, else starts
// one, and waits until it answers and its network is up.
func Start(ctx context.Context, cfg Config) (*Libvirtd, error) { return nil, nil }

// URI is where it can be reached from the machine's own namespaces.
func (l *Libvirtd) URI() string { return "" }

// Run starts it again whenever it dies, until ctx ends. Then it returns nil and
// leaves libvirtd and the guests running.
func (l *Libvirtd) Run(ctx context.Context) error { return nil }

// StopGuests pulls the plug of every guest and waits until they are gone.
func (l *Libvirtd) StopGuests(ctx context.Context) error { return nil }

// Stop ends libvirtd, its network and its namespaces. It refuses while guests run.
func (l *Libvirtd) Stop(ctx context.Context) error { return nil }

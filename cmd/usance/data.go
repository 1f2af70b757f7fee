package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// dataVersion is the layout of the data folder; a folder of another one is refused.
const dataVersion = 1

// refusal is an error that a restart would only repeat: one sentence that says
// what is wrong and what to do.
type refusal struct{ error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// exitRefused is the exit code of a refusal.
const exitRefused = 3

// dataFolder is the locked data folder of one control plane:
//
//	VERSION  its layout            postgres/, clickhouse/  the embedded databases
//	lock     held while it is used keys/                   the authority, the operator's token
//	images/  bootable images       agent/, libvirt/        the local host
//	run/     sockets
type dataFolder struct {
	dir  string
	lock *os.File
}

// openData makes the folder when it is missing, and locks it.
func openData(dir string) (*dataFolder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, refuse("data folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(abs, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, refuse("data folder: %w", err)
	}
	d := &dataFolder{abs, lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(lock.Name())
		lock.Close()
		return nil, refuse("the data folder %s is in use by process %s; stop it first, or give another folder with --data", abs, strings.TrimSpace(string(holder)))
	}
	if err := d.claim(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// claim notes who holds the lock, checks the version and makes the subfolders.
func (d *dataFolder) claim() error {
	if err := d.lock.Truncate(0); err != nil {
		return diskError(d.dir, err)
	}
	if _, err := d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return diskError(d.dir, err)
	}
	version := d.path("VERSION")
	b, err := os.ReadFile(version)
	switch have := strings.TrimSpace(string(b)); {
	case errors.Is(err, os.ErrNotExist):
		if err := os.WriteFile(version, []byte(strconv.Itoa(dataVersion)+"\n"), 0o644); err != nil {
			return diskError(d.dir, err)
		}
	case err != nil:
		return refuse("data folder: %w", err)
	case have != strconv.Itoa(dataVersion):
		return refuse("the data folder %s has layout version %q and this program needs %d; use the program that wrote it, or another folder with --data", d.dir, have, dataVersion)
	}
	for sub, mode := range map[string]os.FileMode{"keys": 0o700, "images": 0o755, "agent": 0o700, "libvirt": 0o755, "run": 0o755} {
		if err := os.MkdirAll(d.path(sub), mode); err != nil {
			return diskError(d.dir, err)
		}
	}
	return nil
}

func (d *dataFolder) path(name string) string { return filepath.Join(d.dir, name) }

// Close gives the folder back.
func (d *dataFolder) Close() error { return d.lock.Close() }

// diskError names the folder whose disk is full, which is the likeliest cause.
func diskError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return refuse("the disk of %s is full: %w; free some space or give another folder with --data", dir, err)
	}
	return refuse("data folder: %w", err)
}

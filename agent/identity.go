package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/usance/usance/compute/hostapi"
)

// The files in the agent's folder that make this machine a host. The key is made
// here, before anything is asked of the control plane, and never leaves: joining
// again with the same key and token gives the same host.
const (
	keyFile      = "key.pem"
	identityFile = "host.json" // host id, certificate and the control plane's authority
)

// renewCheck is how often the certificate's age is looked at.
const renewCheck = time.Hour

// join returns the identity of this host, asking for one if it has none yet. It
// tries until the control plane answers; only a refusal is an error.
func (a *Agent) join(ctx context.Context) (hostapi.Identity, error) {
	id, err := a.loadIdentity()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if a.cfg.Token == "" {
		return id, errors.New("this host has not joined yet and has no join token: give one with --token (usance host token prints it)")
	}
	key, err := a.loadKey()
	if err != nil {
		return id, err
	}
	for failures := 0; ; failures++ {
		id, err = hostapi.Join(ctx, a.cfg.Server, a.cfg.Token, key, a.cfg.Name, a.cfg.Capacity)
		if err == nil {
			return id, a.storeIdentity(id)
		}
		if ctx.Err() != nil || errors.Is(err, hostapi.ErrToken) || errors.Is(err, hostapi.ErrVersion) {
			return id, err
		}
		a.cfg.Log.Warn("the control plane cannot be joined yet", "server", a.cfg.Server, "err", err)
		sleep(ctx, backoff(failures, minBackoff, maxBackoff))
	}
}

func (a *Agent) loadIdentity() (hostapi.Identity, error) {
	var id hostapi.Identity
	text, err := os.ReadFile(a.file(identityFile))
	if err != nil {
		return id, err
	}
	if err := json.Unmarshal(text, &id); err != nil {
		return id, fmt.Errorf("identity of this host in %s: %w", a.file(identityFile), err)
	}
	key, err := os.ReadFile(a.file(keyFile))
	if err != nil {
		return id, fmt.Errorf("key of this host: %s: %v", a.file(keyFile), err) // not ErrNotExist: it has joined
	}
	id.Key = string(key)
	return id, nil
}

func (a *Agent) storeIdentity(id hostapi.Identity) error {
	id.Key = ""
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(a.file(identityFile), text, 0o600); err != nil {
		return fmt.Errorf("keep the identity of this host: %w", err)
	}
	return nil
}

// loadKey returns the host's private key, making it if there is none.
func (a *Agent) loadKey() (string, error) {
	text, err := os.ReadFile(a.file(keyFile))
	if err == nil && strings.TrimSpace(string(text)) != "" {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("key of this host: %w", err)
	}
	key, err := hostapi.NewKey()
	if err != nil {
		return "", err
	}
	if err := replaceFile(a.file(keyFile), []byte(key), 0o600); err != nil {
		return "", fmt.Errorf("keep the key of this host: %w", err)
	}
	return key, nil
}

// renew keeps the certificate fresh until ctx ends.
func (a *Agent) renew(ctx context.Context, client *hostapi.Client) {
	for ; ctx.Err() == nil; sleep(ctx, renewCheck) {
		if time.Now().Before(client.Identity().RenewAt()) {
			continue
		}
		id, err := client.Renew(ctx)
		if err == nil {
			err = a.storeIdentity(id)
		}
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("the certificate could not be renewed", "until", client.Identity().RenewAt(), "err", err)
		}
	}
}

// file is a path in the agent's own folder.
func (a *Agent) file(name string) string { return filepath.Join(a.cfg.DataDir, "agent", name) }

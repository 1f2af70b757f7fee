package computedb

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/compute/hostapi"
	"github.com/usance/usance/metering"
)

// TokenLife is how long a join token can be used.
const TokenLife = 15 * time.Minute

// MintToken makes the secret of a join token: for one host, within TokenLife.
// Only its hash is kept. hostapi.CA.Token makes the token of it.
func (s *Store) MintToken(ctx context.Context) (secret string, err error) {
	var b [32]byte
	rand.Read(b[:])
	secret = base64.RawURLEncoding.EncodeToString(b[:])
	hash := sha256.Sum256([]byte(secret))
	now := s.now()
	_, err = s.pool.Exec(ctx, `INSERT INTO join_tokens (hash, created_at, expires_at) VALUES ($1, $2, $3)`,
		hash[:], now, now.Add(TokenLife))
	if err != nil {
		return "", fmt.Errorf("mint a join token: %w", err)
	}
	return secret, nil
}

const insertHostSQL = `
	INSERT INTO hosts (id, name, vcpus, memory_mib, disk_mib, joined_at, seen_at) VALUES ($1, $2, $3, $4, $5, $6, $6)`

// maxHostNameBytes bounds a host's name; a longer one is refused.
const maxHostNameBytes = 253

// Join spends a join token on a new host, whose key has the given hash, and
// returns its id. The same secret and key again, within TokenLife, return the
// same host: the answer may have been lost. Anything else is hostapi.ErrToken.
func (s *Store) Join(ctx context.Context, secret, keyHash, name string, offers hostapi.Capacity) (host metering.HostID, err error) {
	if name == "" || len(name) > maxHostNameBytes || !(compute.Capacity{}).Fits(offers) {
		return "", fmt.Errorf("%w: a host named %q that offers %+v", compute.ErrInvalid, name, offers)
	}
	hash := sha256.Sum256([]byte(secret))
	now := s.now()
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var spentOn *metering.HostID
		var spentBy *string
		err := tx.QueryRow(ctx, `SELECT host, key_hash FROM join_tokens WHERE hash = $1 AND expires_at > $2 FOR UPDATE`,
			hash[:], now).Scan(&spentOn, &spentBy)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return hostapi.ErrToken
		case err != nil:
			return err
		case spentOn != nil && *spentBy == keyHash:
			host = *spentOn
			return nil
		case spentOn != nil:
			return hostapi.ErrToken
		}
		host = metering.HostID(metering.NewID(metering.PrefixHost))
		_, err = tx.Exec(ctx, insertHostSQL, host, name, offers.VCPUs, offers.MemoryMiB, offers.DiskMiB, now)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE join_tokens SET host = $2, key_hash = $3 WHERE hash = $1`, hash[:], host, keyHash)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("join host %q: %w", name, err)
	}
	return host, nil
}

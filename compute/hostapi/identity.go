package hostapi

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/usance/usance/metering"
)

// ServerName is the name in the control plane's certificate that agents check,
// whatever address they reach it by: the authority signs for one control plane only.
const ServerName = "usance-control-plane"

// VersionHeader carries the protocol version in requests and answers.
const VersionHeader = "Usance-Version"

// MaxWait is the longest long poll; a longer wait is shortened to it.
const MaxWait = 60 * time.Second

// Identity is what makes a machine a host. It holds the private key: the agent
// stores it where only root reads. All three are PEM.
type Identity struct {
	Host        metering.HostID `json:"host"`
	Key         string          `json:"key"`
	Certificate string          `json:"certificate"`
	CA          string          `json:"ca"`
}

// NewKey makes a private key for Join (PEM, PKCS #8, ECDSA P-256).
func NewKey() (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	return encodePEM("PRIVATE KEY", der), nil
}

// RenewAt is when the certificate should be renewed: after two thirds of its
// life. It is the zero time, hence due, when the certificate cannot be read.
func (id Identity) RenewAt() time.Time {
	cert, err := parseCertificate(id.Certificate)
	if err != nil {
		return time.Time{}
	}
	return renewAt(cert)
}

func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

func parseKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("private key: not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key: a %T cannot sign", key)
	}
	return signer, nil
}

func parseCertificate(text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("certificate: not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// newCSR is a signing request for the key (PEM). It names nobody: the control
// plane says who the host is.
func newCSR(key string) (string, error) {
	signer, err := parseKey(key)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, signer)
	if err != nil {
		return "", fmt.Errorf("make a signing request: %w", err)
	}
	return encodePEM("CERTIFICATE REQUEST", der), nil
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// splitToken takes a join token "<hex SHA-256 of the authority's certificate>.<secret>" apart.
func splitToken(token string) (fingerprint []byte, secret string, err error) {
	head, secret, ok := strings.Cut(strings.TrimSpace(token), ".")
	fingerprint, err = hex.DecodeString(head)
	if !ok || err != nil || len(fingerprint) != sha256.Size || secret == "" {
		return nil, "", fmt.Errorf("join token: not of the form <64 hex digits>.<secret>: %w", ErrToken)
	}
	return fingerprint, secret, nil
}

// verifyByFingerprint accepts a server whose certificate is signed by the
// authority with the given fingerprint, which the server sends along.
func verifyByFingerprint(s tls.ConnectionState, fingerprint []byte) error {
	for _, cert := range s.PeerCertificates {
		sum := sha256.Sum256(cert.Raw)
		if subtle.ConstantTimeCompare(sum[:], fingerprint) != 1 {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: ServerName})
		return err
	}
	return errors.New("the server's authority is not the one the join token names")
}

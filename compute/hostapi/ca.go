package hostapi

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/usance/usance/metering"
)

// How long certificates live. A host renews after two thirds; the control
// plane's own certificate is made anew in memory; the authority's never is: when
// it ends, hosts join again.
const (
	caLife     = 30 * 365 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
	hostLife   = 30 * 24 * time.Hour
	// clockSlack backdates certificates for hosts whose clock is behind.
	clockSlack = 10 * time.Minute
)

// caFile holds the authority's certificate and key, in the folder of keys.
const caFile = "host-ca.pem"

// CA is the control plane's own certificate authority. It signs for hosts and
// for the control plane itself, for nobody else. Its methods may be called from
// several goroutines.
type CA struct {
	cert  *x509.Certificate
	key   crypto.Signer
	roots *x509.CertPool

	mu     sync.Mutex
	server *tls.Certificate // last made by serverCertificate
}

// LoadCA reads the authority from the folder of keys, or makes one there (one
// file, mode 0600, complete or absent). Only one process may do so at a time.
func LoadCA(folder string) (*CA, error) {
	path := filepath.Join(folder, caFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = makeCA(); err == nil {
			err = writeDurably(path, text)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", path, err)
	}
	ca, err := parseCA(text)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", path, err)
	}
	return ca, nil
}

func makeCA() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Usance host authority"},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return []byte(encodePEM("CERTIFICATE", cert) + encodePEM("PRIVATE KEY", der)), nil
}

func parseCA(text []byte) (*CA, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(string(rest))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &CA{cert: cert, key: key, roots: roots}, nil
}

// writeDurably makes the file appear whole or not at all, also across a power loss.
func writeDurably(path string, text []byte) error {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	b[0] &= 0x7f // positive, as the standard wants
	return new(big.Int).SetBytes(b[:])
}

// PEM is the authority's certificate.
func (ca *CA) PEM() string { return encodePEM("CERTIFICATE", ca.cert.Raw) }

// Token is the join token of a secret: it names this authority, so that the
// machine that joins knows whom it speaks to.
func (ca *CA) Token(secret string) string {
	sum := sha256.Sum256(ca.cert.Raw)
	return hex.EncodeToString(sum[:]) + "." + secret
}

// SignHost answers a host's signing request (PEM) with a certificate (PEM) for
// 30 days whose common name is the host's id, whatever the request says.
func (ca *CA) SignHost(csr string, host metering.HostID) (string, error) {
	req, err := parseCSR(csr)
	if err != nil {
		return "", err
	}
	der, err := ca.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: string(host)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, req.PublicKey, hostLife)
	if err != nil {
		return "", fmt.Errorf("sign for %s: %w", host, err)
	}
	return encodePEM("CERTIFICATE", der), nil
}

func (ca *CA) sign(template *x509.Certificate, public crypto.PublicKey, life time.Duration) ([]byte, error) {
	now := time.Now()
	template.SerialNumber = serial()
	template.NotBefore, template.NotAfter = now.Add(-clockSlack), now.Add(life)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
}

func parseCSR(text string) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("signing request: not PEM")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("signing request: %w", err)
	}
	return req, nil
}

// keyHash is the hex SHA-256 of the public key in a signing request: it tells a
// repeated join from a second machine with the same token.
func keyHash(req *x509.CertificateRequest) string {
	sum := sha256.Sum256(req.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ServerConfig is the TLS configuration of the port that hosts reach: with a
// certificate for ServerName, localhost, the loopback addresses and the given
// names and addresses, asking every client for a certificate. What a client
// showed is verified by Authenticator, not by TLS, so that it can be told why it
// is refused.
func (ca *CA) ServerConfig(names ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return ca.serverCertificate(names, time.Now())
		},
	}
}

// serverCertificate is the control plane's certificate, made anew when it is due.
func (ca *CA) serverCertificate(names []string, now time.Time) (*tls.Certificate, error) {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	if ca.server != nil && now.Before(renewAt(ca.server.Leaf)) {
		return ca.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: ServerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{ServerName, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := ca.sign(template, key.Public(), serverLife)
	if err != nil {
		return nil, fmt.Errorf("sign the control plane's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	// The authority's certificate goes along: who joins checks its fingerprint.
	ca.server = &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return ca.server, nil
}

// Authenticator says which host sent a request.
type Authenticator struct {
	CA *CA
	// Active reports nil for a present host, ErrRemoved for a removed one and
	// ErrUnauthorized for one that never joined here.
	Active func(ctx context.Context, host metering.HostID) error
}

// Authenticate returns the host whose certificate came with the request. The
// error wraps ErrUnauthorized (no certificate, a foreign or an ended one) or
// ErrRemoved; any other means that it could not be told.
func (a *Authenticator) Authenticate(r *http.Request) (metering.HostID, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", fmt.Errorf("none shown: %w", ErrUnauthorized)
	}
	cert := r.TLS.PeerCertificates[0]
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:     a.CA.roots,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	host := metering.HostID(cert.Subject.CommonName)
	if err := metering.CheckID(metering.PrefixHost, string(host)); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if err := a.Active(r.Context(), host); err != nil {
		return "", fmt.Errorf("host %s: %w", host, err)
	}
	return host, nil
}

package hostapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/usance/usance/metering"
)

// What the control plane can answer that an agent acts on. Everything else is
// worth a retry.
var (
	// ErrUnauthorized: no certificate of this control plane's authority (401).
	// The agent keeps its spool and tells its operator to join again.
	ErrUnauthorized = errors.New("no valid host certificate")
	// ErrRemoved: the host was removed (403). The agent keeps its spool.
	ErrRemoved = errors.New("the host was removed")
	// ErrToken: the join token is unknown, expired or used by another key. No
	// retry helps: a new one has to be minted.
	ErrToken = errors.New("the join token is unknown, expired or used")
	// ErrVersion: one of the two sides is too old to speak to the other (426).
	ErrVersion = errors.New("protocol version not spoken")
)

// requestTimeout ends every request but long polls (which have it added to
// their wait) and image downloads.
const requestTimeout = 30 * time.Second

// maxResponseBytes bounds a JSON answer; a longer one is an error.
const maxResponseBytes = 64 << 20

// Client is an agent's connection to its control plane. Its methods may be
// called from several goroutines. It never retries: the agent's loops do.
type Client struct {
	server   string
	http     *http.Client
	identity atomic.Pointer[clientIdentity]
}

type clientIdentity struct {
	Identity
	cert tls.Certificate
}

// Join makes this machine a host: it sends the token's secret, the key's
// signing request and what the machine offers to the server at URL (https), and
// only to one whose authority is the one the token names. Repeating it with the
// same key answers with the same host, so an agent stores the key first. The
// error is ErrToken when the token is refused.
func Join(ctx context.Context, server, token, key, name string, offers Capacity) (Identity, error) {
	fingerprint, secret, err := splitToken(token)
	if err != nil {
		return Identity{}, err
	}
	csr, err := newCSR(key)
	if err != nil {
		return Identity{}, err
	}
	c := &Client{server: strings.TrimSuffix(server, "/")}
	c.http = newHTTP(&tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         ServerName,
		InsecureSkipVerify: true, // verified by the fingerprint instead
		VerifyConnection:   func(s tls.ConnectionState) error { return verifyByFingerprint(s, fingerprint) },
	})
	defer c.http.CloseIdleConnections()
	var out JoinResponse
	err = c.call(ctx, http.MethodPost, PathJoin, requestTimeout,
		JoinRequest{Token: secret, CSR: csr, Name: name, Capacity: offers}, &out)
	if errors.Is(err, ErrUnauthorized) {
		err = ErrToken
	}
	if err != nil {
		return Identity{}, fmt.Errorf("join %s: %w", server, err)
	}
	return Identity{Host: out.Host, Key: key, Certificate: out.Certificate, CA: out.CA}, nil
}

// NewClient makes the client of a host that has joined. It connects to nothing.
func NewClient(server string, id Identity) (*Client, error) {
	if u, err := url.Parse(server); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q: not of the form https://HOST:PORT", server)
	}
	c := &Client{server: strings.TrimSuffix(server, "/")}
	if err := c.become(id); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(id.CA)) {
		return nil, fmt.Errorf("identity of %s: no certificate of an authority", id.Host)
	}
	c.http = newHTTP(&tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: ServerName,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.identity.Load().cert, nil
		},
	})
	return c, nil
}

func (c *Client) become(id Identity) error {
	cert, err := tls.X509KeyPair([]byte(id.Certificate), []byte(id.Key))
	if err != nil {
		return fmt.Errorf("identity of %s: %w", id.Host, err)
	}
	c.identity.Store(&clientIdentity{id, cert})
	return nil
}

func newHTTP(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}}
}

// Host is the id this client speaks as.
func (c *Client) Host() metering.HostID { return c.identity.Load().Host }

// Identity is the present identity, as NewClient or the last Renew gave it.
func (c *Client) Identity() Identity { return c.identity.Load().Identity }

// HTTP is the client's HTTP client, which presents the host's certificate and
// trusts only the control plane's: for sending readings to URL.
func (c *Client) HTTP() *http.Client { return c.http }

// URL is the address of a path of the control plane, such as PathReadings.
func (c *Client) URL(path string) string { return c.server + path }

// Renew gets a new certificate for the same key, uses it from now on, and
// returns the new identity for the agent to store. Due at Identity.RenewAt.
func (c *Client) Renew(ctx context.Context) (Identity, error) {
	id := c.Identity()
	csr, err := newCSR(id.Key)
	if err != nil {
		return Identity{}, err
	}
	var out RenewResponse
	if err := c.call(ctx, http.MethodPost, PathRenew, requestTimeout, RenewRequest{CSR: csr}, &out); err != nil {
		return Identity{}, fmt.Errorf("renew certificate of %s: %w", id.Host, err)
	}
	id.Certificate = out.Certificate
	if err := c.become(id); err != nil {
		return Identity{}, err
	}
	c.http.CloseIdleConnections() // they carry the old certificate
	return id, nil
}

// Desired returns what should be on this host as soon as its revision is not
// the given one, at the latest after wait (at most MaxWait), then unchanged.
// Revision 0 returns at once.
func (c *Client) Desired(ctx context.Context, revision uint64, wait time.Duration) (Desired, error) {
	wait = min(wait, MaxWait)
	query := url.Values{
		"revision": {strconv.FormatUint(revision, 10)},
		"wait":     {strconv.FormatFloat(wait.Seconds(), 'f', 3, 64)},
	}
	var out Desired
	if err := c.call(ctx, http.MethodGet, PathDesired+"?"+query.Encode(), wait+requestTimeout, nil, &out); err != nil {
		return Desired{}, fmt.Errorf("fetch desired state: %w", err)
	}
	return out, nil
}

// Status reports how the host and its instances are.
func (c *Client) Status(ctx context.Context, s Status) error {
	if err := c.call(ctx, http.MethodPost, PathStatus, requestTimeout, s, nil); err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	return nil
}

// Epochs returns what the control plane has of this host's epochs that may
// still run, with their largest readings.
func (c *Client) Epochs(ctx context.Context) ([]KnownEpoch, error) {
	var out EpochsResponse
	if err := c.call(ctx, http.MethodGet, PathEpochs, requestTimeout, nil, &out); err != nil {
		return nil, fmt.Errorf("fetch known epochs: %w", err)
	}
	return out.Epochs, nil
}

// call sends in as JSON (nil: no body) and reads the answer into out (nil: ignored).
func (c *Client) call(ctx context.Context, method, path string, timeout time.Duration, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(res.Body, maxResponseBytes)).Decode(out)
}

// do sends the request with the protocol's version and turns a refusal into an error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	req.Header.Set(VersionHeader, strconv.Itoa(Version))
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	return nil, &Error{Status: res.StatusCode, Message: strings.TrimSpace(string(said))}
}

// Error is the control plane's refusal of a request. It is ErrUnauthorized,
// ErrRemoved or ErrVersion where its status says so.
type Error struct {
	Status  int // HTTP status
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("control plane answers %d: %s", e.Status, e.Message)
}

// Is matches the sentinel of the status.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusUnauthorized:
		return target == ErrUnauthorized
	case http.StatusForbidden:
		return target == ErrRemoved
	case http.StatusUpgradeRequired:
		return target == ErrVersion
	}
	return false
}

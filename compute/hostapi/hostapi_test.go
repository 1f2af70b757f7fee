package hostapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

// plane is a control plane on a real TLS port whose store is in memory.
type plane struct {
	ca   *CA
	url  string
	log  lockedBuffer
	room string // of images

	mu      sync.Mutex
	joined  map[string]metering.HostID // by secret and key
	removed map[metering.HostID]bool
	desired Desired
	status  Status
	changed chan struct{}
	busy    bool
}

type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	ca, err := LoadCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{
		ca: ca, room: t.TempDir(),
		joined: map[string]metering.HostID{}, removed: map[metering.HostID]bool{},
		desired: Desired{Revision: 1}, changed: make(chan struct{}, 1),
	}
	server := httptest.NewUnstartedServer(Handler(Config{
		Auth: &Authenticator{CA: ca, Active: p.active},
		Join: p.join,
		Desired: func(context.Context, metering.HostID) (Desired, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.desired, nil
		},
		Watch: func(metering.HostID) (<-chan struct{}, func(), error) {
			if p.busy {
				return nil, nil, ErrBusy
			}
			return p.changed, func() {}, nil
		},
		Observe: func(_ context.Context, _ metering.HostID, s Status) error {
			p.status = s
			return nil
		},
		Epochs: func(_ context.Context, host metering.HostID) ([]KnownEpoch, error) {
			return []KnownEpoch{{Epoch: metering.Epoch{ID: metering.EpochID(host)}}}, nil
		},
		Images: Images{Roots: []string{filepath.Join(p.room, "absent"), p.room}},
		Log:    slog.New(slog.NewTextHandler(&p.log, nil)),
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.TLS = ca.ServerConfig("example.test", "192.0.2.1")
	server.StartTLS()
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *plane) active(_ context.Context, host metering.HostID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed[host] {
		return ErrRemoved
	}
	for _, h := range p.joined {
		if h == host {
			return nil
		}
	}
	return ErrUnauthorized
}

func (p *plane) join(_ context.Context, secret, key, _ string, _ Capacity) (metering.HostID, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if host, ok := p.joined[secret+key]; ok {
		return host, nil
	}
	if secret != "open" {
		return "", ErrToken
	}
	host := metering.HostID(metering.NewID(metering.PrefixHost))
	p.joined[secret+key] = host
	return host, nil
}

func (p *plane) set(d Desired) {
	p.mu.Lock()
	p.desired = d
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *plane) client(t *testing.T) *Client {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := Join(t.Context(), p.url, p.ca.Token("open"), key, "h", Capacity{VCPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(p.url, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.HTTP().CloseIdleConnections)
	return c
}

func TestJoin(t *testing.T) {
	p := newPlane(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	first, err := Join(t.Context(), p.url, p.ca.Token("open"), key, "h", Capacity{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Join(t.Context(), p.url, p.ca.Token("open"), key, "h", Capacity{})
	if err != nil || again.Host != first.Host {
		t.Errorf("joining again with the same key: %s, %v; want %s", again.Host, err, first.Host)
	}
	cert, err := parseCertificate(first.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != string(first.Host) || time.Until(cert.NotAfter) > hostLife || time.Until(cert.NotAfter) < hostLife-time.Hour {
		t.Errorf("certificate for %s until %s", cert.Subject.CommonName, cert.NotAfter)
	}
	if at := first.RenewAt(); time.Until(at) < 19*24*time.Hour || time.Until(at) > 20*24*time.Hour {
		t.Errorf("renewal at %s is not after two thirds of the life", at)
	}
	other, err := LoadCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"spent or unknown":     p.ca.Token("spent"),
		"without a secret":     p.ca.Token(""),
		"without an authority": "open",
	} {
		if _, err := Join(t.Context(), p.url, token, key, "h", Capacity{}); !errors.Is(err, ErrToken) {
			t.Errorf("token %s: %v", name, err)
		}
	}
	if _, err := Join(t.Context(), p.url, other.Token("open"), key, "h", Capacity{}); err == nil || errors.Is(err, ErrToken) {
		t.Errorf("a server of another authority than the token names: %v", err)
	}
	if strings.Contains(p.log.String(), "open") {
		t.Error("the log tells a token's secret")
	}
}

// TestCertificates shows the answer to every kind of certificate.
func TestCertificates(t *testing.T) {
	p := newPlane(t)
	ours := p.client(t)
	id := ours.Identity()
	other, err := LoadCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	csr, err := newCSR(id.Key)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.SignHost(csr, id.Host)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := p.ca.SignHost(csr, "hst_00000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := p.ca.SignHost(csr, "not an id")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, cert string
		want       error
	}{
		{"our host's", id.Certificate, nil},
		{"none", "", ErrUnauthorized},
		{"a foreign authority's with the same name", foreign, ErrUnauthorized},
		{"of a host that never joined", stranger, ErrUnauthorized},
		{"of no host", nobody, ErrUnauthorized},
		{"an ended one", endedCertificate(t, p.ca, id.Host), ErrUnauthorized},
		{"the control plane's own", serverAsClient(t, p.ca), ErrUnauthorized},
	} {
		who := id
		if c.cert != "" {
			who.Certificate = c.cert
		}
		if key := keyOf[c.cert]; key != "" {
			who.Key = key
		}
		client, err := NewClient(p.url, who)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.cert == "" {
			client.http.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = nil
		}
		if err := client.Status(t.Context(), Status{}); !errors.Is(err, c.want) {
			t.Errorf("certificate %s: %v, want %v", c.name, err, c.want)
		}
		client.HTTP().CloseIdleConnections()
	}
	p.mu.Lock()
	p.removed[id.Host] = true
	p.mu.Unlock()
	err = ours.Status(t.Context(), Status{})
	if !errors.Is(err, ErrRemoved) || !strings.Contains(p.log.String(), string(id.Host)) {
		t.Errorf("a removed host: %v; logged:\n%s", err, p.log.String())
	}
	if _, err := ours.Renew(t.Context()); !errors.Is(err, ErrRemoved) {
		t.Errorf("a removed host renews: %v", err)
	}
}

// keyOf holds the keys of certificates made with one of their own.
var keyOf = map[string]string{}

func endedCertificate(t *testing.T, ca *CA, host metering.HostID) string {
	t.Helper()
	return signFor(t, ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: string(host)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, -time.Minute)
}

func serverAsClient(t *testing.T, ca *CA) string {
	t.Helper()
	return signFor(t, ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, time.Hour)
}

func signFor(t *testing.T, ca *CA, template *x509.Certificate, life time.Duration) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.sign(template, key.Public(), life)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := encodePEM("CERTIFICATE", der)
	keyOf[cert] = encodePEM("PRIVATE KEY", pkcs8)
	return cert
}

func TestRenew(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	before := c.Identity()
	after, err := c.Renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.Certificate == before.Certificate || after.Host != before.Host || c.Identity() != after {
		t.Error("no new certificate for the same host")
	}
	if err := c.Status(t.Context(), Status{}); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	folder := t.TempDir()
	first, err := LoadCA(folder)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadCA(folder)
	if err != nil || second.Token("s") != first.Token("s") {
		t.Errorf("loaded again it is another: %v", err)
	}
	st, err := os.Stat(filepath.Join(folder, caFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", st.Mode(), err)
	}
	cert, err := first.serverCertificate([]string{"example.test", "192.0.2.1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ServerName, "localhost", "127.0.0.1", "::1", "example.test", "192.0.2.1"} {
		if err := cert.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	again, _ := first.serverCertificate(nil, time.Now())
	due, _ := first.serverCertificate(nil, renewAt(cert.Leaf))
	if again != cert || due == cert {
		t.Error("the control plane's certificate is to be made anew after two thirds of its life, not before")
	}
}

func TestDesiredWaitsForAnotherRevision(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	d, err := c.Desired(t.Context(), 0, time.Minute)
	if err != nil || d.Revision != 1 {
		t.Fatalf("at once: revision %d, %v", d.Revision, err)
	}
	d, err = c.Desired(t.Context(), 1, 50*time.Millisecond)
	if err != nil || d.Revision != 1 {
		t.Fatalf("after the wait: revision %d, %v", d.Revision, err)
	}
	got := make(chan Desired, 1)
	go func() {
		d, err := c.Desired(t.Context(), 1, time.Minute)
		if err != nil {
			t.Error(err)
		}
		got <- d
	}()
	p.changed <- struct{}{} // woken for nothing
	p.set(Desired{Revision: 2, FullReading: 7})
	select {
	case d := <-got:
		if d.Revision != 2 || d.FullReading != 7 {
			t.Errorf("%+v", d)
		}
	case <-time.After(10 * time.Second):
		t.Error("a change did not end the wait")
	}
	p.busy = true
	var refused *Error
	if _, err := c.Desired(t.Context(), 2, time.Minute); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable {
		t.Errorf("too many waits: %v", err)
	}
}

func TestStatusAndEpochs(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	cpu := 12.5
	sent := Status{
		Sent: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Revision: 3, FullReading: 4,
		Host:      HostStat{CPUPercent: &cpu},
		Instances: []ObservedInstance{{ID: "ins_1", State: compute.StateRunning, GuestOff: true}},
	}
	if err := c.Status(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	if got := p.status; got.Revision != 3 || got.FullReading != 4 || *got.Host.CPUPercent != cpu || got.Host.DiskFreeMiB != nil ||
		len(got.Instances) != 1 || got.Instances[0] != sent.Instances[0] || !got.Sent.Equal(sent.Sent) {
		t.Errorf("got %+v, want %+v", got, sent)
	}
	epochs, err := c.Epochs(t.Context())
	if err != nil || len(epochs) != 1 || string(epochs[0].Epoch.ID) != string(c.Host()) {
		t.Errorf("epochs %+v, %v", epochs, err)
	}
}

func TestVersions(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	for version, want := range map[string]int{"1": http.StatusNoContent, "2": http.StatusNoContent, "3": http.StatusUpgradeRequired, "0": http.StatusUpgradeRequired, "": http.StatusUpgradeRequired} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL(PathStatus), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(VersionHeader, version)
		res, err := c.HTTP().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want || res.Header.Get(VersionHeader) != "2" {
			t.Errorf("version %q: %d, ours %q; want %d", version, res.StatusCode, res.Header.Get(VersionHeader), want)
		}
	}
}

func TestBadBodies(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	for body, want := range map[string]int{
		"{":                                    http.StatusBadRequest,
		`{"token":"open","csr":"nonsense"}`:    http.StatusBadRequest,
		`"` + strings.Repeat("x", 9<<20) + `"`: http.StatusRequestEntityTooLarge,
	} {
		err := c.call(t.Context(), http.MethodPost, PathJoin, time.Minute, json.RawMessage(body), nil)
		if !json.Valid([]byte(body)) {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL(PathJoin), strings.NewReader(body))
			_, err = c.do(req)
		}
		var refused *Error
		if !errors.As(err, &refused) || refused.Status != want {
			t.Errorf("%.40s: %v, want %d", body, err, want)
		}
	}
}

// image writes an image of one file and returns its record.
func (p *plane) image(t *testing.T, name string, content []byte) Image {
	t.Helper()
	sum := sha256.Sum256(content)
	img := Image{Name: name, CommandLine: "quiet", Files: []ImageFile{{Name: "kernel", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}}}
	record, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(p.room, name)
	err = errors.Join(os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, "kernel"), content, 0o644),
		os.WriteFile(filepath.Join(folder, imageRecord), record, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImageIsFetchedVerifiedAndResumed(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	content := make([]byte, 1<<20)
	rand.Read(content)
	img := p.image(t, "demo", content)
	if found, err := (Images{Roots: []string{p.room}}).Find("demo"); err != nil || found.CommandLine != "quiet" || found.Files[0] != img.Files[0] {
		t.Errorf("found %+v, %v", found, err)
	}
	kept := img.Files[0].SHA256
	for name, prepare := range map[string]func(dir string) error{
		"anew": func(string) error { return nil },
		"resumed": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, kept+".part"), content[:300_000], 0o644)
		},
		"whole but unnamed": func(dir string) error { return os.WriteFile(filepath.Join(dir, kept+".part"), content, 0o644) },
	} {
		dir := t.TempDir()
		if err := prepare(dir); err != nil {
			t.Fatal(err)
		}
		paths, err := c.Image(t.Context(), img, dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := os.ReadFile(paths["kernel"]); err != nil || string(got) != string(content) {
			t.Errorf("%s: other content, %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}

	dir := t.TempDir()
	part := filepath.Join(dir, kept+".part")
	if err := os.WriteFile(part, []byte("other bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Image(t.Context(), img, dir); err == nil {
		t.Error("a file that is not what its checksum says was taken")
	}
	if _, err := c.Image(t.Context(), img, dir); err != nil {
		t.Errorf("after a broken download: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(p.room, "demo")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Image(t.Context(), img, dir); err != nil {
		t.Errorf("what is kept is fetched again: %v", err)
	}
}

func TestSizeOfAnImagesDisk(t *testing.T) {
	const mib = 1 << 20
	head := func(magic string, size uint64) []byte {
		return binary.BigEndian.AppendUint64(append([]byte(magic), make([]byte, 20)...), size)
	}
	for name, c := range map[string]struct {
		disk []byte
		want int64 // 0: refused
	}{
		"whole":       {head("QFI\xfb", 40*mib), 40},
		"rounded up":  {head("QFI\xfb", 40*mib+1), 41},
		"not a qcow2": {head("QFI\xfa", 40*mib), 0},
		"torn":        {head("QFI\xfb", 40*mib)[:31], 0},
		"absurd":      {head("QFI\xfb", 1<<63), 0},
	} {
		root := t.TempDir()
		folder := filepath.Join(root, "demo")
		sum := sha256.Sum256(c.disk)
		record := fmt.Appendf(nil, `{"name":"demo","disk_mib":7,"files":[{"name":"disk","size":%d,"sha256":"%x"}]}`, len(c.disk), sum)
		err := errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "disk"), c.disk, 0o644),
			os.WriteFile(filepath.Join(folder, imageRecord), record, 0o644))
		if err != nil {
			t.Fatal(err)
		}
		img, err := Images{Roots: []string{root}}.Find("demo")
		if img.DiskMiB != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: %d MiB, %v; want %d", name, img.DiskMiB, err, c.want)
		}
	}
}

func TestNothingOutsideTheImagesIsServed(t *testing.T) {
	p := newPlane(t)
	c := p.client(t)
	p.image(t, "demo", []byte("kernel"))
	secret := filepath.Join(t.TempDir(), "secret")
	err := errors.Join(
		os.WriteFile(secret, []byte("secret"), 0o644),
		os.WriteFile(filepath.Join(p.room, "demo", "unlisted"), []byte("secret"), 0o644),
		os.WriteFile(filepath.Join(p.room, "secret"), []byte("secret"), 0o644),
		os.Mkdir(filepath.Join(p.room, "linked"), 0o755),
		os.Symlink(secret, filepath.Join(p.room, "linked", "kernel")),
		os.WriteFile(filepath.Join(p.room, "linked", imageRecord),
			fmt.Appendf(nil, `{"name":"linked","files":[{"name":"kernel","size":6,"sha256":%q}]}`, strings.Repeat("0", 64)), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"demo/unlisted", "demo/image.json", "demo/..%2fsecret", "..%2f..%2fetc/passwd", "%2e%2e/secret", "../secret",
		"demo/%2e%2e", "linked/kernel", "absent/kernel", "demo/", ".%00/kernel", "demo%2f..%2fdemo/kernel",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.URL(PathImages)+path, nil)
		if err != nil {
			continue // no such address can be asked for
		}
		res, err := c.do(req)
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			t.Errorf("%s is served: %q", path, body)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/etc", ".hidden", "a\x00b", strings.Repeat("a", 200)} {
		if _, err := (Images{Roots: []string{p.room}}).Find(name); !errors.Is(err, compute.ErrNoImage) {
			t.Errorf("image %q: %v", name, err)
		}
	}
}

func TestClientRefusesAForeignServer(t *testing.T) {
	p, other := newPlane(t), newPlane(t)
	id := p.client(t).Identity()
	c, err := NewClient(other.url, id)
	if err != nil {
		t.Fatal(err)
	}
	var unknown *tls.CertificateVerificationError
	if err := c.Status(t.Context(), Status{}); !errors.As(err, &unknown) {
		t.Errorf("a server of another authority: %v", err)
	}
	if _, err := NewClient("http://127.0.0.1", id); err == nil {
		t.Error("a server without TLS is taken")
	}
}

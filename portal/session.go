package portal

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/usance/usance/portal/identity"
)

// sessionCookie holds a session's secret. It lasts as long as the browser does;
// the session itself ends by the server's clock.
const sessionCookie = "usance_session"

// authenticate is who sent r, as far as the route wants to know. The error wraps
// errToken or identity.ErrNoSession.
func (s *server) authenticate(r *http.Request, want access) (caller, error) {
	token, hasToken := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case want == forAnyone:
		return caller{}, nil
	case want == forOperator:
		if !hasToken || !sameSecret(token, s.OperatorToken) {
			return caller{}, errToken
		}
		return caller{}, nil
	case want == forTenant && hasToken:
		id, err := s.Identity.Token(r.Context(), token)
		return caller{tenant: id}, err
	case want == forTenant && r.Header.Get("Authorization") != "":
		return caller{}, errToken
	}
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return caller{}, identity.ErrNoSession
	}
	session, err := s.Identity.Session(r.Context(), cookie.Value, time.Now())
	return caller{session.Tenant, session.Name, session.Email}, err
}

// sameSecret compares without telling by its time how much is the same.
func sameSecret(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// setSession gives the browser a session's secret; "" takes it back.
func (s *server) setSession(w http.ResponseWriter, r *http.Request, secret string) {
	c := &http.Cookie{Name: sessionCookie, Value: secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.overTLS(r)}
	if secret == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

func (s *server) overTLS(r *http.Request) bool {
	return r.TLS != nil || s.TrustProxy && r.Header.Get("X-Forwarded-Proto") == "https"
}

// clientAddress is the address that r came from, or the /64 of an IPv6 address:
// one customer has that many.
func (s *server) clientAddress(r *http.Request) string {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		address = r.RemoteAddr
	}
	if s.TrustProxy {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if last := strings.TrimSpace(hops[len(hops)-1]); last != "" {
			address = last
		}
	}
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if ip = ip.Unmap(); ip.Is6() {
		if net, err := ip.Prefix(64); err == nil {
			return net.String()
		}
	}
	return ip.String()
}

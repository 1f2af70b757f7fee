package portal

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/usance/usance/portal/identity"
)

type loginPage struct {
	frame
	Email string
	Next  string // where to go then, a path of ours
	Error string
}

// ownPath is next if it is a path of ours, else the first page: a link must not
// send who signs in to another site.
func ownPath(next string) string {
	if u, err := url.Parse(next); err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n") {
		return "/"
	}
	return next
}

// toLogin sends who is not signed in to the sign-in page, and a page that was
// asked for, back from there.
func (s *server) toLogin(w http.ResponseWriter, r *http.Request) {
	to := "/login"
	if r.Method == http.MethodGet && r.URL.Path != "/" && !strings.HasSuffix(r.URL.Path, "/events") {
		to += "?next=" + url.QueryEscape(r.URL.RequestURI())
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (s *server) loginPage(w http.ResponseWriter, r *http.Request, _ caller) error {
	if _, err := s.authenticate(r, forSession); err == nil {
		http.Redirect(w, r, "/instances", http.StatusSeeOther)
		return nil
	}
	return s.render(w, http.StatusOK, "login.html", loginPage{frame: frame{Title: "Sign in"}, Next: ownPath(r.URL.Query().Get("next"))})
}

func (s *server) login(w http.ResponseWriter, r *http.Request, _ caller) error {
	if err := r.ParseForm(); err != nil {
		return bodyError(err)
	}
	p := loginPage{frame: frame{Title: "Sign in"}, Email: r.PostForm.Get("email"), Next: ownPath(r.PostForm.Get("next"))}
	secret, err := "", errThrottled
	if s.signIns.allow(s.clientAddress(r), time.Now()) {
		secret, err = s.Identity.SignIn(r.Context(), p.Email, r.PostForm.Get("password"), time.Now())
	}
	if errors.Is(err, identity.ErrCredentials) || errors.Is(err, errThrottled) {
		o, detail := outcomeOf(err)
		p.Error = sentence(detail)
		return s.render(w, o.status, "login.html", p)
	}
	if err != nil {
		return err
	}
	s.setSession(w, r, secret)
	http.Redirect(w, r, p.Next, http.StatusSeeOther)
	return nil
}

func (s *server) logout(w http.ResponseWriter, r *http.Request, _ caller) error {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		if err := s.Identity.SignOut(r.Context(), cookie.Value, time.Now()); err != nil {
			return err
		}
	}
	s.setSession(w, r, "")
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

func (s *server) home(w http.ResponseWriter, r *http.Request, _ caller) error {
	http.Redirect(w, r, "/instances", http.StatusSeeOther)
	return nil
}

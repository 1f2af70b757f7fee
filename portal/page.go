package portal

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/usance/usance/rating/money"
)

//go:embed templates static
var files embed.FS

// frame is what the layout shows around every page.
type frame struct {
	Title   string
	Section string // "instances" or "invoices": where the menu stands
	Tenant  string // name; "" before signing in
	Email   string
	Live    bool // the page's script is wanted
}

func (who caller) frame(section, title string) frame {
	return frame{Title: title, Section: section, Tenant: who.name, Email: who.email}
}

// pages are the parsed templates by file name, each with the layout.
type pages map[string]*template.Template

// loadPages parses every template; a broken one is a panic.
func loadPages(s static) pages {
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		panic(err)
	}
	all := pages{}
	for _, name := range names {
		base := path.Base(name)
		if base == "layout.html" {
			continue
		}
		all[base] = template.Must(template.New("layout.html").Funcs(template.FuncMap{
			"asset": s.url, "amount": amountText, "when": when, "clock": clock,
		}).ParseFS(files, "templates/layout.html", name))
	}
	return all
}

// render writes a page whole; data is the page's own struct.
func (s *server) render(w http.ResponseWriter, status int, name string, data any) error {
	html, err := s.html(name, "layout.html", data)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(html)
	return nil
}

// html is a page, or one of its blocks.
func (s *server) html(name, block string, data any) ([]byte, error) {
	t := s.pages[name]
	if t == nil {
		panic("portal: no template " + name)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, block, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// amountText is an amount with its currency.
func amountText(a money.Amount) string {
	return strings.Replace(a.String(), "-", "−", 1) + "\u00a0" + string(a.Currency)
}

// when is an instant in UTC, for people and programs.
func when(t time.Time) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05")))
}

// clock is the time of day of an instant that is near, else its day too.
func clock(t time.Time) string {
	if time.Since(t) < 12*time.Hour {
		return t.UTC().Format("15:04") + " UTC"
	}
	return t.UTC().Format("2 Jan 15:04") + " UTC"
}

// errorPage is what people see when a page could not be made.
type errorPage struct {
	frame
	Status int
	Detail string
}

func (s *server) errorPage(w http.ResponseWriter, r *http.Request, o outcome, detail string) {
	who, _ := s.authenticate(r, forSession) // for the menu alone
	p := errorPage{frame: who.frame("", http.StatusText(o.status)), Status: o.status, Detail: sentence(detail)}
	if err := s.render(w, o.status, "error.html", p); err != nil {
		s.Log.Error("error page failed", "err", err)
		http.Error(w, http.StatusText(o.status), o.status)
	}
}

// sentence is an error as people expect it.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// asset is a static file under a name that changes with its content.
type asset struct {
	name, contentType string
	content           []byte
}

// static are the static files, by the name in their URL.
type static map[string]asset

var contentTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func loadStatic() static {
	names, err := fs.Glob(files, "static/*")
	if err != nil {
		panic(err)
	}
	all := static{}
	for _, name := range names {
		content, err := files.ReadFile(name)
		contentType := contentTypes[path.Ext(name)]
		if err != nil || contentType == "" {
			panic(fmt.Sprintf("portal: static file %s: unknown type, or %v", name, err))
		}
		sum := sha256.Sum256(content)
		base, ext := strings.TrimSuffix(path.Base(name), path.Ext(name)), path.Ext(name)
		all[base+"."+hex.EncodeToString(sum[:6])+ext] = asset{path.Base(name), contentType, content}
	}
	return all
}

// url is where a static file is served. An unknown one is a broken template.
func (s static) url(name string) (string, error) {
	for hashed, a := range s {
		if a.name == name {
			return "/static/" + hashed, nil
		}
	}
	return "", fmt.Errorf("no static file %q", name)
}

func (s *server) serveStatic(w http.ResponseWriter, r *http.Request, _ caller) error {
	a, ok := s.static[mux.Vars(r)["file"]]
	if !ok {
		return errNoPage
	}
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Write(a.content)
	return nil
}

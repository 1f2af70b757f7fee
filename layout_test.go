package usance_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/usance/usance"

// forbidden lists what a folder must never reach, even through others, and why.
var forbidden = []struct{ from, to, why string }{
	{"agent", "rating", "a host must not know prices"},
	{"agent", "invoicing", "a host must not know prices"},
	{"agent", "portal", "a host serves no pages"},
	{"agent", "sql", "a host must not link a database"},
	{"agent", "metering/readingdb", "a host must not link ClickHouse"},
	{"agent", "github.com/jackc/pgx/v5", "a host must not link Postgres"},
	{"cmd/usance-agent", "rating", "a host must not know prices"},
	{"cmd/usance-agent", "metering/readingdb", "a host must not link ClickHouse"},
	{"cmd/usance-agent", "github.com/jackc/pgx/v5", "a host must not link Postgres"},
	{"cmd/usance", "agent/virt$", "the control plane builds without cgo"},
	{"cmd/usance", "libvirt.org/go/libvirt$", "the control plane builds without cgo"},
	{"invoicing", "compute", "a bill depends on charges, not on machines"},
	{"invoicing", "portal", "bills are made without pages"},
	{"compute", "invoicing", "admission is given a credit check, it knows no bills"},
	{"compute", "rating", "machines have no prices"},
	{"metering", "rating", "cores are stacked: metering, rating, invoicing"},
	{"metering", "invoicing", "cores are stacked: metering, rating, invoicing"},
	{"metering", "compute", "cores are stacked: metering, compute"},
	{"rating", "invoicing", "cores are stacked: metering, rating, invoicing"},
}

// homes lists which rooms alone may import a foreign library themselves.
var homes = []struct {
	library string
	rooms   []string
}{
	{"libvirt.org/go/libvirt", []string{"agent/virt"}},
	{"github.com/shirou/gopsutil/v3", []string{"agent/hoststat"}},
	{"github.com/ClickHouse/clickhouse-go/v2", []string{"metering/readingdb"}},
	{"github.com/ClickHouse/ch-go", []string{"metering/wire", "metering/readingdb"}},
	{"github.com/stripe/stripe-go", []string{"invoicing/payments"}},
	{"github.com/gorilla/mux", []string{"portal"}},
	{"github.com/prometheus/client_golang", []string{"cmd/metrics"}},
	{"github.com/ebitengine/purego", []string{"metering/readingdb/embedded"}},
	{"gopkg.in/yaml.v3", []string{"rating/planfile"}},
	{"database/sql", nil},
}

// cores are the rooms of types and pure functions: what they may import besides
// the standard library's parts without I/O is other cores.
var cores = []string{"metering", "rating", "rating/money", "invoicing", "invoicing/ledger", "compute"}

type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports,Deps", "./...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

// in reports whether the import path is the room or inside it; a room that ends
// in $ is meant without what is inside.
func in(importPath, room string) bool {
	if !strings.Contains(strings.Split(room, "/")[0], ".") {
		room = module + "/" + room
	}
	if exact, ok := strings.CutSuffix(room, "$"); ok {
		return importPath == exact
	}
	return importPath == room || strings.HasPrefix(importPath, room+"/")
}

func TestRoomsDoNotReachWhatTheyMustNot(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range forbidden {
			if !in(p.ImportPath, rule.from) {
				continue
			}
			for _, dep := range p.Deps {
				if in(dep, rule.to) {
					t.Errorf("%s reaches %s: %s", p.ImportPath, dep, rule.why)
				}
			}
		}
	}
}

func TestForeignLibrariesStayInTheirRooms(t *testing.T) {
	for _, p := range packages(t) {
		for _, h := range homes {
			for _, imp := range p.Imports {
				if imp != h.library && !strings.HasPrefix(imp, h.library+"/") {
					continue
				}
				if !slices.ContainsFunc(h.rooms, func(room string) bool { return in(p.ImportPath, room) }) {
					t.Errorf("%s imports %s, which belongs in %v", p.ImportPath, imp, h.rooms)
				}
			}
		}
	}
}

func TestCoresDoNoIO(t *testing.T) {
	pure := []string{"bytes", "cmp", "crypto/rand", "crypto/sha256", "encoding/hex", "encoding/json", "errors", "fmt", "hash/fnv", "iter", "maps",
		"math", "math/big", "math/bits", "regexp", "slices", "sort", "strconv", "strings", "sync", "time", "unicode", "unicode/utf8"}
	for _, p := range packages(t) {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		if !slices.Contains(cores, rel) {
			continue
		}
		for _, imp := range p.Imports {
			inCore := slices.Contains(cores, strings.TrimPrefix(imp, module+"/"))
			if !inCore && !slices.Contains(pure, imp) {
				t.Errorf("core %s imports %s", rel, imp)
			}
		}
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "Since" || s.Sel.Name == "Sleep") {
						t.Errorf("core %s asks the clock: time.%s in %s", rel, s.Sel.Name, file)
					}
				}
				return true
			})
		}
	}
}

func TestOnlyVirtUsesCgo(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s has cgo files of its own: %v", p.ImportPath, p.CgoFiles)
		}
		if slices.Contains(p.Imports, "C") {
			t.Errorf("%s imports C", p.ImportPath)
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range packages(t) {
		var commented []string
		for _, file := range append(p.GoFiles, p.CgoFiles...) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" {
				commented = append(commented, file)
			}
		}
		if len(p.GoFiles) > 0 && len(commented) != 1 {
			t.Errorf("%s has %d package comments %v, want one", p.ImportPath, len(commented), commented)
		}
	}
}

func TestTopLevel(t *testing.T) {
	allowed := []string{"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "go.mod", "go.sum", "cmd",
		"portal", "metering", "rating", "invoicing", "compute", "agent", "sql", "deploy",
		".ci", ".git", ".gitignore", ".golangci.yml"}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		ok, _ := path.Match("*_test.go", e.Name())
		if !ok && !slices.Contains(allowed, e.Name()) && !ignored(e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

// ignored reports whether git leaves the file out, as it does built programs and data.
func ignored(name string) bool { return exec.Command("git", "check-ignore", "-q", name).Run() == nil }

// Package metrics exposes numbers of a running program to Prometheus.
//
// It owns the page that a scrape reads: its names, its help texts' form, and the
// listener. It never counts anything: rooms count in plain structs, and the
// programs say at each scrape what those show, each number with its help text in
// one place. That keeps the library out of the rooms.
//
// Invariants:
//   - What is not known is left out of the page, never shown as 0.
//   - No label names a tenant or what belongs to one.
//   - A page is only served where the operator says so: whoever reaches the
//     address may read it.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// prefix begins every name.
	prefix = "usance_"
	// scrapeTimeout bounds what a source may ask of databases; what it has not said
	// by then is left out.
	scrapeTimeout = 5 * time.Second
	// readHeaderTimeout bounds how long a slow client holds a connection.
	readHeaderTimeout = 10 * time.Second
)

// Source says what a page shows at this moment. It may be called by several
// scrapes at the same time.
type Source func(ctx context.Context, p *Page)

// Page takes what one scrape shows. Names are without the prefix usance_; labels
// are names and values in turn. A name has the same help text wherever it is said.
type Page struct{ to chan<- prometheus.Metric }

// Gauge shows a number that may rise and fall.
func (p *Page) Gauge(name, help string, value float64, labels ...string) {
	p.number(prometheus.GaugeValue, name, help, value, labels)
}

// Counter shows a number that only rises, and begins at 0 when the program does.
func (p *Page) Counter(name, help string, value int64, labels ...string) {
	p.number(prometheus.CounterValue, name, help, float64(value), labels)
}

// Time shows an instant, in seconds since 1970; a zero one is left out.
func (p *Page) Time(name, help string, t time.Time, labels ...string) {
	if !t.IsZero() {
		p.Gauge(name, help, float64(t.UnixMilli())/1000, labels...)
	}
}

// Duration shows how many times something was done, and how long that took together.
func (p *Page) Duration(name, help string, times int64, sum time.Duration, labels ...string) {
	names, values := pairs(labels)
	p.to <- prometheus.MustNewConstSummary(prometheus.NewDesc(prefix+name, help, names, nil), uint64(times), sum.Seconds(), nil, values...)
}

// Truth shows a condition: 1 when it holds, 0 when it does not.
func (p *Page) Truth(name, help string, holds bool, labels ...string) {
	value := 0.0
	if holds {
		value = 1
	}
	p.Gauge(name, help, value, labels...)
}

func (p *Page) number(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	names, values := pairs(labels)
	p.to <- prometheus.MustNewConstMetric(prometheus.NewDesc(prefix+name, help, names, nil), kind, value, values...)
}

func pairs(labels []string) (names, values []string) {
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	return names, values
}

// collector makes a source a collector of the library's.
type collector Source

// Describe says nothing: what a page shows is not known before.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	c(ctx, &Page{to})
}

// Handler serves a page of what the source says, and of what the process and Go's
// runtime use, in Prometheus' text format.
func Handler(source Source, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collector(source), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.ContinueOnError})
}

// Serve listens on the address and serves the page under /metrics until ctx ends.
// It returns at once; the error is that of the address.
func Serve(ctx context.Context, address string, source Source, log *slog.Logger) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	routes := http.NewServeMux()
	routes.Handle("GET /metrics", Handler(source, log))
	server := &http.Server{Handler: routes, ReadHeaderTimeout: readHeaderTimeout}
	context.AfterFunc(ctx, func() { server.Close() })
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("metrics are served no longer", "err", err)
		}
	}()
	log.Info("metrics", "url", "http://"+l.Addr().String()+"/metrics")
	return nil
}

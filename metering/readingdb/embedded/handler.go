package embedded

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ClickHouse/ch-go/proto"
)

// maxBody is the largest statement or batch in bytes; a larger one gets 413. It is read whole.
const maxBody = 256 << 20

// hello is what clickhouse-go asks of every new connection.
const hello = "SELECT displayName(), version(), revision(), timezone()"

// handler speaks the part of ClickHouse's HTTP interface that clickhouse-go
// uses without compression, external tables and HTTP sessions.
type handler struct {
	engine *engine
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		status := http.StatusBadRequest
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "read the request: "+err.Error(), status)
		return
	}
	st, version, err := parseRequest(r.URL.Query(), body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if st.sql == hello {
		h.serveHello(r.Context(), w, st, version)
		return
	}
	out := &response{w: w, tag: rand.Text()[:16]}
	out.finish(h.engine.run(r.Context(), st, out.emit))
}

// notSettings are the URL's keys that are neither settings nor parameters.
var notSettings = map[string]bool{
	"database": true, "query": true, "query_id": true, "quota_key": true, "default_format": true, "client_protocol_version": true,
}

// parseRequest reads a statement from the URL and the body. version is the
// protocol version that the client wants its handshake in.
func parseRequest(q url.Values, body []byte) (st *statement, version int, err error) {
	st = &statement{sql: string(body), database: q.Get("database"), settings: map[string]string{}}
	if st.database == "" {
		st.database = "system" // nothing may land in the engine's `default`, which shows the file system
	}
	if sql := q.Get("query"); sql != "" {
		st.sql, st.rows, st.insert = sql, body, true
	}
	for key := range q {
		switch name, isParam := strings.CutPrefix(key, "param_"); {
		case isParam:
			st.params.add(name, q.Get(key))
		case key == "compress" || key == "decompress" || key == "session_id":
			return nil, 0, fmt.Errorf("%s is not supported by the embedded server", key)
		case !notSettings[key]:
			st.settings[key] = q.Get(key)
		}
	}
	if version, err = strconv.Atoi(q.Get("client_protocol_version")); err != nil {
		return nil, 0, fmt.Errorf("client_protocol_version: %w", err)
	}
	return st, version, nil
}

// serveHello answers the handshake at the client's protocol version and says
// that the server's is 0: from then on the client reads what the library
// writes, Native at version 0.
func (h *handler) serveHello(ctx context.Context, w http.ResponseWriter, st *statement, version int) {
	var answer bytes.Buffer
	st.sql = "SELECT version() AS v, timezone() AS z"
	if err := h.engine.run(ctx, st, func(b []byte) error { answer.Write(b); return nil }); err != nil {
		writeError(w, err)
		return
	}
	var engineVersion, zone proto.ColStr
	block := proto.Block{}
	err := block.DecodeRawBlock(proto.NewReader(&answer), 0, proto.Results{
		{Name: "v", Data: &engineVersion}, {Name: "z", Data: &zone},
	})
	if err != nil {
		writeError(w, fmt.Errorf("decode the engine's version: %w", err))
		return
	}
	var name proto.ColStr
	var revision proto.ColUInt32
	name.Append("embedded")
	revision.Append(0)
	input := proto.Input{
		{Name: "displayName()", Data: name}, {Name: "version()", Data: engineVersion},
		{Name: "revision()", Data: revision}, {Name: "timezone()", Data: zone},
	}
	var buf proto.Buffer
	out := proto.Block{Rows: 1, Columns: len(input)}
	if err := out.EncodeBlock(&buf, version, input); err != nil {
		writeError(w, err)
		return
	}
	w.Write(buf.Buf)
}

// response writes a result as it comes. The status is decided by the first part.
type response struct {
	w       http.ResponseWriter
	tag     string
	started bool
}

func (r *response) emit(native []byte) error {
	if len(native) == 0 {
		return nil
	}
	if !r.started {
		r.started = true
		r.w.Header().Set("X-ClickHouse-Exception-Tag", r.tag)
		r.w.Header().Set("Content-Type", "application/octet-stream")
	}
	_, err := r.w.Write(native)
	return err
}

// finish ends the response: an error after the first part goes into the body,
// framed as ClickHouse frames it.
func (r *response) finish(err error) {
	switch {
	case err == nil && !r.started:
		r.w.Header().Set("Content-Length", "0") // clickhouse-go's sign of an empty result
	case err != nil && !r.started:
		writeError(r.w, err)
	case err != nil:
		text := strings.TrimSpace(err.Error())
		fmt.Fprintf(r.w, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", r.tag, text, len(text)+1, r.tag)
	}
}

func writeError(w http.ResponseWriter, err error) {
	if n := errorCode(err); n != 0 {
		w.Header().Set("X-ClickHouse-Exception-Code", strconv.Itoa(n))
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

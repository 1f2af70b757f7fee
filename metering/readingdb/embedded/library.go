package embedded

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the part of libchdb's C interface (version 26.7) that is used.
// Handles are C addresses; a result's buffer belongs to C until the result is
// destroyed. A call may block and may come from any thread, but calls on one
// connection must not overlap: one connection runs one statement.
type library struct {
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv []*byte) *uintptr // nil: failed, the reason went to stderr
	closeConn         func(conn *uintptr)
	shutdown          func() int32
	classify          func(conn uintptr, sql []byte, sqlLen uintptr, database []byte, databaseLen uintptr, out *analysis) int32
	query             func(conn uintptr, sql []byte, sqlLen uintptr, format []byte, formatLen uintptr,
		names []*byte, nameLens []uintptr, values []*byte, valueLens []uintptr, params uintptr) uintptr
	stream func(conn uintptr, sql []byte, sqlLen uintptr, format []byte, formatLen uintptr,
		names []*byte, nameLens []uintptr, values []*byte, valueLens []uintptr, params uintptr) uintptr
	streamFetch   func(conn, stream uintptr) uintptr
	insert        func(conn uintptr, sql []byte, sqlLen uintptr, format []byte, formatLen uintptr) uintptr
	insertAppend  func(stream uintptr, data []byte, dataLen uintptr) int32
	insertDone    func(stream uintptr) uintptr
	insertError   func(stream uintptr) string
	insertDestroy func(stream uintptr)
	resultBuffer  func(result uintptr) *byte
	resultLength  func(result uintptr) uintptr
	resultError   func(result uintptr) string
	resultDestroy func(result uintptr)
}

// analysis is chdb_query_analysis_v1.
type analysis struct {
	size       uint32    // of this struct, set by the caller
	statements uint32    // how many the text holds; 0 when it does not parse
	_          [2]uint32 // flags and class
}

// loadLibrary loads libchdb.so and finds its functions. A library can be
// loaded once per process and is never unloaded.
func loadLibrary(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	l := new(library)
	for name, f := range map[string]any{
		"chdb_set_signal_handlers_enabled": &l.setSignalHandlers,
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_shutdown":                    &l.shutdown,
		"chdb_classify_query_n":            &l.classify,
		"chdb_query_with_params_n":         &l.query,
		"chdb_stream_query_with_params_n":  &l.stream,
		"chdb_stream_fetch_result":         &l.streamFetch,
		"chdb_stream_insert_n":             &l.insert,
		"chdb_stream_append":               &l.insertAppend,
		"chdb_stream_done":                 &l.insertDone,
		"chdb_stream_insert_error":         &l.insertError,
		"chdb_destroy_insert_stream":       &l.insertDestroy,
		"chdb_result_buffer":               &l.resultBuffer,
		"chdb_result_length":               &l.resultLength,
		"chdb_result_error":                &l.resultError,
		"chdb_destroy_query_result":        &l.resultDestroy,
	} {
		symbol, err := purego.Dlsym(handle, name)
		if err != nil {
			return nil, fmt.Errorf("%s has no %s (version 26.7 or later is needed): %w", path, name, err)
		}
		purego.RegisterFunc(f, symbol)
	}
	return l, nil
}

// connection is one session of the engine. Its methods must not overlap.
type connection struct {
	lib    *library
	owner  *uintptr
	handle uintptr
}

// open connects. The first connection of the process boots the engine and its
// server options hold until the last one is closed.
func (l *library) open(options []string) (*connection, error) {
	argv := make([]*byte, 0, len(options)+1)
	for _, s := range append([]string{"clickhouse"}, options...) {
		argv = append(argv, cBytes(s))
	}
	owner := l.connect(int32(len(argv)), argv)
	if owner == nil || *owner == 0 {
		return nil, errors.New("the engine refused to start")
	}
	return &connection{lib: l, owner: owner, handle: *owner}, nil
}

func (c *connection) close() { c.lib.closeConn(c.owner) }

// statements is how many statements the text holds; 0 when it does not parse.
func (c *connection) statements(sql string) int {
	a := analysis{size: uint32(unsafe.Sizeof(analysis{}))}
	text := []byte(sql)
	if c.lib.classify(c.handle, text, uintptr(len(text)), nil, 0, &a) != 0 {
		return 0
	}
	return int(a.statements)
}

// parameters are values for {name:Type} placeholders, in the escaped form of
// TSV that the engine reads and clickhouse-go writes.
type parameters struct {
	names, values       []*byte
	nameLens, valueLens []uintptr
}

func (p *parameters) add(name, value string) {
	p.names, p.nameLens = append(p.names, cBytes(name)), append(p.nameLens, uintptr(len(name)))
	p.values, p.valueLens = append(p.values, cBytes(value)), append(p.valueLens, uintptr(len(value)))
}

// cBytes is s as bytes that end in NUL, on the heap.
func cBytes(s string) *byte { return &append([]byte(s), 0)[0] }

var native = []byte("Native")

// query runs one statement and returns its whole result in Native format.
func (c *connection) query(sql string, p *parameters) (*result, error) {
	text := []byte(sql)
	return c.result(c.lib.query(c.handle, text, uintptr(len(text)), native, uintptr(len(native)),
		p.names, p.nameLens, p.values, p.valueLens, uintptr(len(p.names))))
}

// exec runs one statement and drops its result.
func (c *connection) exec(sql string) error {
	r, err := c.query(sql, new(parameters))
	if err != nil {
		return err
	}
	r.destroy()
	return nil
}

// stream starts a SELECT. Until the result is destroyed the connection must run
// nothing else.
func (c *connection) stream(sql string, p *parameters) (*result, error) {
	text := []byte(sql)
	return c.result(c.lib.stream(c.handle, text, uintptr(len(text)), native, uintptr(len(native)),
		p.names, p.nameLens, p.values, p.valueLens, uintptr(len(p.names))))
}

// fetch is the next part of a stream; an empty one is its end.
func (c *connection) fetch(stream *result) (*result, error) {
	return c.result(c.lib.streamFetch(c.handle, stream.handle))
}

// insert runs an INSERT without a FORMAT clause over rows in Native format.
func (c *connection) insert(sql string, rows []byte) error {
	text := []byte(sql)
	stream := c.lib.insert(c.handle, text, uintptr(len(text)), native, uintptr(len(native)))
	defer c.lib.insertDestroy(stream)
	if text := c.lib.insertError(stream); text != "" {
		return engineError(text)
	}
	if len(rows) > 0 && c.lib.insertAppend(stream, rows, uintptr(len(rows))) != 0 {
		return engineError(c.lib.insertError(stream))
	}
	r, err := c.result(c.lib.insertDone(stream))
	if err != nil {
		return err
	}
	r.destroy()
	return nil
}

// result is what a statement, or one fetch of a stream, gave.
type result struct {
	lib    *library
	handle uintptr
}

func (c *connection) result(handle uintptr) (*result, error) {
	if handle == 0 {
		return nil, engineError("Code: 49. DB::Exception: the engine returned nothing (LOGICAL_ERROR)")
	}
	r := &result{c.lib, handle}
	if text := c.lib.resultError(handle); text != "" {
		r.destroy()
		return nil, engineError(strings.Clone(text))
	}
	return r, nil
}

// bytes is valid until the result is destroyed.
func (r *result) bytes() []byte {
	n := r.lib.resultLength(r.handle)
	if n == 0 {
		return nil
	}
	return unsafe.Slice(r.lib.resultBuffer(r.handle), n)
}

func (r *result) destroy() { r.lib.resultDestroy(r.handle) }

// engineError is the engine's own text: "Code: 60. DB::Exception: …".
type engineError string

func (e engineError) Error() string { return string(e) }

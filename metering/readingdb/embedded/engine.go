package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxSessions is how many statements run at once; the next ones wait.
	maxSessions = 8
	// killEvery is how often a cancelled statement is killed again until it
	// has ended: a kill that comes before the statement's first step misses it.
	killEvery = 100 * time.Millisecond
)

// engine is the one ClickHouse of this process. Its methods may overlap.
type engine struct {
	lib     *library
	options []string // of every session

	keeper   *connection // keeps the engine up; runs nothing but KILL
	keeperMu sync.Mutex

	idle   chan *session // maxSessions of them, nil where none is open
	opened atomic.Int64  // sessions so far, for their names
}

// session is a connection with what it remembers between statements.
type session struct {
	*connection
	name     string // its log_comment, by which its statement is killed
	database string
	settings map[string]string
}

func bootEngine(lib *library, dir string, memoryLimit int64) (*engine, error) {
	lib.setSignalHandlers(0) // signals are Go's
	options := []string{
		"--path=" + dir,       // one per process: another session's must be the same
		"--async_insert=0",    // on, it would answer before the rows are written
		"--implicit_select=0", // on, a misspelt statement would run as an expression
	}
	keeper, err := lib.open(append(options, "--max_server_memory_usage="+strconv.FormatInt(memoryLimit, 10)))
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", dir, err)
	}
	e := &engine{lib: lib, options: options, keeper: keeper, idle: make(chan *session, maxSessions)}
	for range maxSessions {
		e.idle <- nil
	}
	return e, nil
}

// close ends the engine once every session is idle.
func (e *engine) close() {
	for range maxSessions {
		if s := <-e.idle; s != nil {
			s.close()
		}
	}
	e.keeper.close()
	e.lib.shutdown()
}

// statement is one request.
type statement struct {
	sql      string
	database string
	settings map[string]string
	params   parameters
	rows     []byte // of an INSERT, in Native format
	insert   bool
}

var (
	selects      = regexp.MustCompile(`(?i)^\s*(SELECT|WITH)\b`)
	insertFormat = regexp.MustCompile(`(?i)\s+FORMAT\s+Native\s*$`)
)

// run runs a statement and passes its result on, part by part, as it comes. It
// ends soon after ctx does, with the engine's error 394.
func (e *engine) run(ctx context.Context, st *statement, emit func(native []byte) error) error {
	s, err := e.acquire(ctx)
	if err != nil {
		return err
	}
	defer func() { e.idle <- s }()
	if n := s.statements(st.sql); n != 1 {
		return engineError(fmt.Sprintf("Code: 62. DB::Exception: a request is exactly one statement; this one holds %d (0: it does not parse): %.200q (SYNTAX_ERROR)", n, st.sql))
	}
	if err := s.adapt(st); err != nil {
		s.close() // some of the settings may have been taken
		s = nil
		return err
	}
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	defer e.killWhenDone(ctx, s)()
	switch {
	case st.insert:
		return s.insert(insertFormat.ReplaceAllString(st.sql, ""), st.rows)
	case selects.MatchString(st.sql):
		return s.selectRows(st, emit, abandon)
	}
	r, err := s.query(st.sql, &st.params)
	if err != nil {
		return err
	}
	defer r.destroy()
	return emit(r.bytes())
}

func (e *engine) acquire(ctx context.Context) (*session, error) {
	var s *session
	select {
	case s = <-e.idle:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if s != nil {
		return s, nil
	}
	conn, err := e.lib.open(e.options)
	if err == nil {
		s = &session{connection: conn, name: fmt.Sprintf("usance-%d", e.opened.Add(1))}
		if err = conn.exec("SET log_comment = " + quote(s.name)); err == nil {
			return s, nil
		}
		conn.close()
	}
	e.idle <- nil
	return nil, fmt.Errorf("open a session: %w", err)
}

// adapt gives the session the database and the settings of a statement,
// sending only what differs from the one before.
func (s *session) adapt(st *statement) error {
	if st.database != s.database {
		if err := s.exec("USE " + quoteName(st.database)); err != nil {
			return err
		}
		s.database = st.database
	}
	if maps.Equal(st.settings, s.settings) {
		return nil
	}
	var set []string
	for k, v := range st.settings {
		if s.settings[k] != v {
			set = append(set, quoteName(k)+" = "+quote(v))
		}
	}
	for k := range s.settings {
		if _, ok := st.settings[k]; !ok {
			set = append(set, quoteName(k)+" = DEFAULT")
		}
	}
	if err := s.exec("SET " + strings.Join(set, ", ")); err != nil {
		return err
	}
	s.settings = st.settings
	return nil
}

// selectRows passes a SELECT's rows on. A stream is always read to its end: one
// left half read would hand its cancellation to the session's next statement.
func (s *session) selectRows(st *statement, emit func([]byte) error, abandon func()) error {
	stream, err := s.stream(st.sql, &st.params)
	if err != nil {
		return err
	}
	defer stream.destroy()
	var emitErr error
	for {
		part, err := s.fetch(stream)
		if err != nil {
			return cmp.Or(emitErr, err)
		}
		rows := part.bytes()
		if len(rows) > 0 && emitErr == nil {
			if emitErr = emit(rows); emitErr != nil {
				abandon()
			}
		}
		part.destroy()
		if len(rows) == 0 {
			return emitErr
		}
	}
}

// killWhenDone kills the session's statement when ctx ends. The returned
// function must be called when the statement has ended, before the session is
// used again: it waits for a kill under way, which would hit the next one.
func (e *engine) killWhenDone(ctx context.Context, s *session) (ended func()) {
	over, idle := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(idle)
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		for {
			e.kill(s)
			select {
			case <-over:
				return
			case <-time.After(killEvery):
			}
		}
	}()
	return func() { close(over); <-idle }
}

func (e *engine) kill(s *session) {
	e.keeperMu.Lock()
	defer e.keeperMu.Unlock()
	// An error leaves the statement to its own time limit.
	_ = e.keeper.exec("KILL QUERY WHERE Settings['log_comment'] = " + quote(s.name) + " ASYNC")
}

var quoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

func quote(s string) string { return "'" + quoter.Replace(s) + "'" }

func quoteName(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}

var code = regexp.MustCompile(`^Code: (\d+)\.`)

// errorCode is the engine's number of an error, 0 when it is not the engine's.
func errorCode(err error) int {
	var text engineError
	if !errors.As(err, &text) {
		return 0
	}
	m := code.FindStringSubmatch(string(text))
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

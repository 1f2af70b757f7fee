package virt

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"libvirt.org/go/libvirt"
)

// A libvirtd that does not answer for keepAliveSeconds × keepAliveCount is taken
// for dead: its connection breaks, and the next call makes a new one.
const (
	keepAliveSeconds = 5
	keepAliveCount   = 3
)

// connection is a connection to libvirtd that is made when needed and made again
// when it broke.
type connection struct {
	uri string

	mu   sync.Mutex
	conn *libvirt.Connect
}

// get is the connection with a reference of the caller's own, who gives it back
// with Close.
func (c *connection) get() (*libvirt.Connect, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		if alive, err := c.conn.IsAlive(); err == nil && alive {
			return c.conn, c.conn.Ref()
		}
		c.conn.Close() // it broke: what Close says no longer matters
		c.conn = nil
	}
	conn, err := dial(c.uri)
	if err != nil {
		return nil, err
	}
	c.conn = conn
	return conn, conn.Ref()
}

// close gives the connection up; calls under way keep it until they end.
func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	_, err := c.conn.Close()
	c.conn = nil
	return err
}

func dial(uri string) (*libvirt.Connect, error) {
	conn, err := libvirt.NewConnect(uri)
	if err != nil {
		return nil, fmt.Errorf("connect to libvirt at %s: %w", uri, err)
	}
	if err := conn.SetKeepAlive(keepAliveSeconds, keepAliveCount); err != nil {
		conn.Close()
		return nil, fmt.Errorf("keep-alive of libvirt at %s: %w", uri, err)
	}
	return conn, nil
}

// dialUntil is dial that ends with ctx: a libvirtd that hangs holds a dial up.
func dialUntil(ctx context.Context, uri string) (*libvirt.Connect, error) {
	type result struct {
		conn *libvirt.Connect
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := dial(uri)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// call runs f on a connection and returns what it returns, or ctx's error when
// that comes first: libvirt's calls cannot be cancelled, so f then ends later, by
// itself. f returns plain values and frees what it holds. A connection that
// breaks under f is made anew and f runs once more: every f can be repeated.
func call[T any](ctx context.Context, c *connection, f func(*libvirt.Connect) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, broken, err := once(c, f)
		if broken && ctx.Err() == nil {
			value, _, err = once(c, f)
		}
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// act runs f on a connection of its own, for changes of a domain: a call that a
// hung QEMU holds up can hold up the others on its connection, too.
func act(ctx context.Context, uri string, f func(*libvirt.Connect) error) error {
	c := &connection{uri: uri}
	defer c.close()
	_, err := call(ctx, c, func(conn *libvirt.Connect) (struct{}, error) { return struct{}{}, f(conn) })
	return err
}

func once[T any](c *connection, f func(*libvirt.Connect) (T, error)) (value T, broken bool, err error) {
	conn, err := c.get()
	if err != nil {
		return value, false, err
	}
	defer conn.Close()
	value, err = f(conn)
	if err != nil {
		alive, aliveErr := conn.IsAlive()
		broken = aliveErr != nil || !alive
	}
	return value, broken, err
}

// is reports whether err is libvirt's error of that number.
func is(err error, number libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == number
}

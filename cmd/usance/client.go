package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/usance/usance/portal"
)

// responseLimit bounds what a response may hold; more is an error.
const responseLimit = 16 << 20

// apiClient calls the JSON API under /api/v1.
type apiClient struct {
	base  string // such as http://127.0.0.1:8080
	token string
	http  *http.Client
}

func newAPIClient(base, token string) *apiClient {
	return &apiClient{strings.TrimRight(base, "/"), token, &http.Client{Timeout: 30 * time.Second}}
}

// apiError is a problem that the API answered.
type apiError struct{ portal.Problem }

func (e *apiError) Error() string { return e.Detail }

// call sends body (nil, raw bytes, or a value for JSON) and decodes the answer
// into out (nil: ignored). A problem comes back as *apiError.
func (c *apiClient) call(ctx context.Context, method, path string, body, out any, header ...string) error {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(encoded)
		header = append(header, "Content-Type", "application/json")
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/v1"+path, reader)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, responseLimit+1))
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if len(answer) > responseLimit {
		return fmt.Errorf("%s %s: the answer is longer than %d bytes", method, path, responseLimit)
	}
	if resp.StatusCode >= 400 {
		var e apiError
		if json.Unmarshal(answer, &e.Problem) != nil || e.Detail == "" {
			e.Problem = portal.Problem{Status: resp.StatusCode, Detail: fmt.Sprintf("%s %s: %s", method, path, resp.Status)}
		}
		return &e
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: answer: %w", method, path, err)
	}
	return nil
}

// refused reports whether the API said no with the given status.
func refused(err error, status int) bool {
	var e *apiError
	return errors.As(err, &e) && e.Status == status
}

// operatorTokenFile is where `up` and `serve` keep the operator's token, in the data folder.
const operatorTokenFile = "keys/operator-token"

// operatorFlags are the flags of the operator's commands.
type operatorFlags struct{ data, server, token string }

// client is a client with the operator's token: the given one, else
// that of the data folder.
func (o operatorFlags) client() (*apiClient, error) {
	token := o.token
	if token == "" {
		file := filepath.Join(o.data, operatorTokenFile)
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("the operator's token: %w; give --token, or --data with the folder of a control plane that has run", err)
		}
		token = strings.TrimSpace(string(b))
	}
	return newAPIClient(o.server, token), nil
}

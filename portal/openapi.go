package portal

import (
	_ "embed"
	"net/http"
)

// openAPIDocument describes every route under apiPrefix; a test holds both together.
//
//go:embed openapi.json
var openAPIDocument []byte

func (s *server) openAPI(w http.ResponseWriter, r *http.Request, _ caller) error {
	w.Header().Set("Content-Type", "application/json")
	w.Write(openAPIDocument)
	return nil
}

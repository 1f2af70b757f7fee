package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What the commands about metering ask for, and print.
func TestMeteringCommands(t *testing.T) {
	const at = "2026-11-22T12:00:00Z"
	answers := map[string]string{
		"/api/v1/usage":                    `{"items":[{"resource":"ins_1","meter":"instance.running","start":"` + at + `","end":"` + at + `","quantity":"1.5","unit":"s"}]}`,
		"/api/v1/instances/ins_1/readings": `{"items":[{"epoch":"e1","at":"` + at + `","received":"` + at + `","registers":{"running_ms":"42"}}]}`,
		"/api/v1/operator/quarantine":      `{"items":[{"id":"7","state":"open","reason":"time","host":"hst_1","instance":"ins_1","at":"` + at + `","received":"` + at + `","detail":"2 h in 1 h"}]}`,
		"/api/v1/operator/hosts": `{"items":[{"id":"hst_1","state":"up","spool":{"limit":9,"readings":7,"oldest":"` + at + `","thinned":40,"refused":3,"aside":1}},` +
			`{"id":"hst_2","state":"silent","spool":null}]}`,
		"/api/v1/operator/quarantine/count":  `{"count":3,"through":"9","since":"` + at + `"}`,
		"/api/v1/operator/quarantine/accept": `{"decided":2,"left":[{"id":"8","why":"no lease"}]}`,
		"/api/v1/operator/epochs/e1/void":    `{"epoch":"e1","instance":"ins_1","from":"` + at + `","next":"e2","next_opened":"` + at + `"}`,
		"/api/v1/operator/leaks": `{"items":[{"kind":"unmetered","subject":"ins_1","since":"` + at + `","opened":"` + at + `","hourly":{"amount":"0.75","currency":"EUR"},` +
			`"closed":"` + at + `","why":"readings come again"}]}`,
	}
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)))
		io.WriteString(w, answers[r.URL.Path])
	}))
	defer server.Close()
	for _, test := range []struct {
		args, asked, prints string
		code                int
	}{
		{"usage --by day --from " + at, "GET /api/v1/usage?by=day&from=2026-11-22T12%3A00%3A00Z&after=", "instance.running  1.5", exitOK},
		{"usage --instance ins_1", "GET /api/v1/usage?by=resource&resource=ins_1&after=", "ins_1", exitOK},
		{"usage --instance ins_1 --readings", "GET /api/v1/instances/ins_1/readings?after=", "e1     42", exitOK},
		{"usage --readings", "", "Usage: usance usage", exitUsage},
		{"quarantine list", "GET /api/v1/operator/quarantine?state=open&after=", "2 h in 1 h", exitOK},
		{"quarantine accept --note true 7", `POST /api/v1/operator/quarantine/7/accept {"by":"ann","note":"true"}`, "", exitOK},
		{"quarantine reject --as bob 7", `POST /api/v1/operator/quarantine/7/reject {"by":"bob"}`, "", exitOK},
		{"quarantine accept --host hst_1 --reason time", "GET /api/v1/operator/quarantine/count?host=hst_1&reason=time", "3 readings wait", exitOK},
		{"quarantine accept --epoch e1 --yes", "GET /api/v1/operator/quarantine/count?epoch=e1\n" +
			`POST /api/v1/operator/quarantine/accept {"by":"ann","epoch":"e1","through":"9"}`, "8 stays: no lease\naccepted 2 readings; 1 stay open", exitOK},
		{"quarantine accept --epoch e1 7", "", "give the number of a reading", exitError},
		{"quarantine reject", "", "give the number of a reading", exitError},
		{"host list", "GET /api/v1/operator/hosts?after=", "7        " + at + "  40       3        1\nhst_2", exitOK},
		{"quarantine list 7", "", "Usage: usance quarantine list", exitUsage},
		{"epoch void --from " + at + " --reason leapt e1", `POST /api/v1/operator/epochs/e1/void {"from":"` + at + `","reason":"leapt","by":"ann"}`, "e2 continues it", exitOK},
		{"epoch void --from noon e1", "", "noon", exitUsage},
		{"instance resize ins_1 medium", `POST /api/v1/instances/ins_1/resize {"flavor":"medium"}`, "", exitOK},
		{"instance resize ins_1", "", "Usage: usance instance resize", exitUsage},
		{"instance move ins_1 hst_2", `POST /api/v1/operator/instances/ins_1/move {"host":"hst_2"}`, "", exitOK},
		{"leak list", "GET /api/v1/operator/leaks?state=open&after=", "0.75 EUR", exitOK},
		{"leak list --all", "GET /api/v1/operator/leaks?state=all&after=", "readings come again", exitOK},
	} {
		asked = nil
		var out strings.Builder
		env := map[string]string{"USANCE_SERVER": server.URL, "USANCE_TOKEN": "t", "USER": "ann"}
		code := run(t.Context(), program{getenv: func(key string) string { return env[key] }, stdout: &out, stderr: &out}, strings.Fields(test.args))
		if got := strings.Join(asked, "\n"); code != test.code || got != test.asked || !strings.Contains(out.String(), test.prints) {
			t.Errorf("%s: code %d\nasked  %s\nwant   %s\nprints %s", test.args, code, got, test.asked, out.String())
		}
	}
}

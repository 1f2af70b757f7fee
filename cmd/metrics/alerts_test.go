package metrics_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every metric that an alert asks for is on one of the pages.
func TestAlertsAskForWhatThereIs(t *testing.T) {
	alerts, err := os.ReadFile("../../deploy/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var pages string
	for _, file := range []string{"../usance/metrics.go", "../usance-agent/metrics.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pages += string(text)
	}
	asked := regexp.MustCompile(`\busance_([a-z_]+)`).FindAllStringSubmatch(string(alerts), -1)
	if len(asked) < 10 {
		t.Fatalf("only %d metrics were found in the alerts", len(asked))
	}
	for _, m := range asked {
		if !strings.Contains(pages, `"`+m[1]+`"`) {
			t.Errorf("an alert asks for %s, which no page shows", m[0])
		}
	}
}

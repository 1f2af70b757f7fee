package portal

import (
	"html/template"
	"time"

	"github.com/usance/usance/invoicing"
)

// RouteForTest is a route as tests walk it.
type RouteForTest struct {
	Method, Path                string
	Anyone, Session, IsOperator bool
}

// RoutesForTest are all routes.
func RoutesForTest() []RouteForTest {
	var all []RouteForTest
	for _, r := range routes() {
		all = append(all, RouteForTest{r.method, r.path, r.access == forAnyone, r.access == forSession, r.access == forOperator})
	}
	return all
}

// OpenAPIForTest is the document as it is served.
var OpenAPIForTest = openAPIDocument

// TemplatesForTest are the parsed pages.
func TemplatesForTest() map[string]*template.Template { return loadPages(loadStatic()) }

// The throttle, the cache and what pages write numbers with.
var (
	NewThrottleForTest  = newThrottle
	OwnPathForTest      = ownPath
	BytesTextForTest    = bytesText
	DurationTextForTest = durationText
	GroupedForTest      = grouped
	LastReadingsForTest = lastReadings
)

const (
	SignInBurstForTest  = signInBurst
	MaxAddressesForTest = maxAddresses
	MaxStreamsOfForTest = maxStreamsOf
)

// AllowForTest is allow.
func (t *throttle) AllowForTest(address string, now time.Time) bool { return t.allow(address, now) }

// InvoicePageForTest is the page of an invoice.
func InvoicePageForTest(tenant string, i *invoicing.Invoice) ([]byte, error) {
	s := &server{pages: loadPages(loadStatic())}
	return s.html("invoice.html", "content", newInvoicePage(caller{name: tenant}, i))
}

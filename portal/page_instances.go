package portal

import (
	"context"
	"net/http"
	"time"

	"github.com/usance/usance/compute/computedb"
	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating/money"
)

// instancesOnPage is how many instances a page of the list shows.
const instancesOnPage = 50

type instancesPage struct {
	frame
	Instances []metered
	Next      metering.InstanceID // the following page comes after it; "" on the last
	Total     *money.Amount       // accrued; nil when it could not be computed
	Credit    *money.Amount       // what may still be spent; nil when it could not be computed
	Unread    time.Time           // since when the readings cannot be asked; zero while they can
	Form      createForm
}

// createForm is the form for a new instance as it was filled in.
type createForm struct {
	Name, Flavor, Image, SSHKey string
	Key                         string // makes a form that is sent twice create once
	Flavors                     []FlavorJSON
	Images                      []string
	Error                       string
}

func (s *server) instancesPage(w http.ResponseWriter, r *http.Request, who caller) error {
	return s.renderInstances(w, r, who, http.StatusOK, createForm{Key: metering.NewID("form_")})
}

func (s *server) renderInstances(w http.ResponseWriter, r *http.Request, who caller, status int, form createForm) error {
	ctx := r.Context()
	p := instancesPage{frame: who.frame("instances", "Instances"), Form: form}
	var err error
	if p.Instances, p.Next, err = s.instances(ctx, who.tenant, metering.InstanceID(r.URL.Query().Get("after")), instancesOnPage); err != nil {
		return err
	}
	if len(p.Instances) > 0 {
		p.Unread = p.Instances[0].Unread
	}
	if p.Form.Flavors, err = s.Flavors(ctx, who.tenant); err != nil {
		return err
	}
	if p.Form.Images, err = s.Images(); err != nil {
		return err
	}
	p.Total, p.Credit = s.standingOf(ctx, who.tenant)
	return s.render(w, status, "instances.html", p)
}

// standingOf is what the tenant owes and may still spend; nil, logged, when it
// could not be computed.
func (s *server) standingOf(ctx context.Context, tenant metering.TenantID) (total, credit *money.Amount) {
	if a := s.accruedOf(ctx, tenant); a != nil {
		total = &money.Amount{Minor: a.Total.Minor, Currency: a.Currency}
	}
	c, err := s.Invoices.Credit(ctx, nil, tenant, time.Now())
	if err != nil {
		s.Log.Error("credit not computed", "tenant", tenant, "err", err)
		return total, nil
	}
	return total, &c.Available
}

// createFromForm creates an instance, or shows the form again and what is wrong with it.
func (s *server) createFromForm(w http.ResponseWriter, r *http.Request, who caller) error {
	if err := r.ParseForm(); err != nil {
		return bodyError(err)
	}
	f := createForm{Name: r.PostForm.Get("name"), Flavor: r.PostForm.Get("flavor"), Image: r.PostForm.Get("image"),
		SSHKey: r.PostForm.Get("ssh_key"), Key: r.PostForm.Get("key")}
	n := computedb.CreateRequest{Tenant: who.tenant, Name: f.Name, Flavor: f.Flavor, Image: f.Image, Key: f.Key}
	if f.SSHKey != "" {
		n.SSHKeys = []string{f.SSHKey}
	}
	in, err := s.Compute.Create(r.Context(), n)
	if err != nil {
		o, detail := outcomeOf(err)
		if o.code == "internal" {
			return err
		}
		f.Error = sentence(detail)
		return s.renderInstances(w, r, who, o.status, f)
	}
	http.Redirect(w, r, "/instances/"+string(in.ID), http.StatusSeeOther)
	return nil
}

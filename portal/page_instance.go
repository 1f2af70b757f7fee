package portal

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/usance/usance/compute"
	"github.com/usance/usance/metering"
)

type instancePage struct {
	frame
	metered
	Flavors []FlavorJSON // what it can be resized to, its own included; none for one that is gone
}

// StateText is the state in words; see templates for its colour.
func (m metered) StateText() string {
	if m.State == compute.StateUnknown {
		return "unknown since " + clock(m.Since)
	}
	return string(m.State)
}

// ReasonText is why the instance is wanted as it is, when its tenant did not order it.
func (m metered) ReasonText() string {
	switch m.Reason {
	case compute.ReasonGuest:
		return "The guest powered itself off."
	case compute.ReasonUnpaid:
		return "Stopped because an invoice is unpaid."
	case compute.ReasonOperator:
		return "Ordered by the hosting provider."
	}
	return ""
}

// CanStart and CanStop say which orders would change something.
func (m metered) CanStart() bool { return m.Desired == compute.PowerStopped && !m.Held() }

// CanStop: see CanStart.
func (m metered) CanStop() bool { return m.Desired == compute.PowerRunning }

// IsGone reports that the instance is deleted, or about to be.
func (m metered) IsGone() bool { return m.Desired == compute.PowerDeleted }

// registerRow is a register as the page shows it: for people, and exact.
type registerRow struct {
	Name  string // as in the API
	Label string
	Text  string
	Exact string
	Unit  string
}

// registerTexts say of each register what it is, its unit, and how people read it.
var registerTexts = [metering.RegisterCount]struct {
	label, unit string
	text        func(uint64) string
}{
	metering.RunningMS:           {"Running", "ms", durationText},
	metering.PausedMS:            {"Paused", "ms", durationText},
	metering.BridgedMS:           {"Of running, not watched", "ms", durationText},
	metering.VCPUMS:              {"vCPUs allocated", "vCPU·ms", func(v uint64) string { return scaled(v, 3_600_000, "vCPU·h") }},
	metering.CPUNS:               {"CPU time", "ns", func(v uint64) string { return durationText(v / 1e6) }},
	metering.MemoryMiBMS:         {"Memory allocated", "MiB·ms", func(v uint64) string { return scaled(v, 1024*3_600_000, "GiB·h") }},
	metering.MemoryUsedMiBMS:     {"Memory used", "MiB·ms", func(v uint64) string { return scaled(v, 1024*3_600_000, "GiB·h") }},
	metering.DiskReadBytes:       {"Disk read", "B", bytesText},
	metering.DiskReadOps:         {"Disk reads", "operations", grouped},
	metering.DiskWriteBytes:      {"Disk written", "B", bytesText},
	metering.DiskWriteOps:        {"Disk writes", "operations", grouped},
	metering.NetPublicRxBytes:    {"Public network in", "B", bytesText},
	metering.NetPublicRxPackets:  {"Public packets in", "packets", grouped},
	metering.NetPublicTxBytes:    {"Public network out", "B", bytesText},
	metering.NetPublicTxPackets:  {"Public packets out", "packets", grouped},
	metering.NetPrivateRxBytes:   {"Private network in", "B", bytesText},
	metering.NetPrivateRxPackets: {"Private packets in", "packets", grouped},
	metering.NetPrivateTxBytes:   {"Private network out", "B", bytesText},
	metering.NetPrivateTxPackets: {"Private packets out", "packets", grouped},
}

// Rows are the registers for the page.
func (m metered) Rows() []registerRow {
	rows := make([]registerRow, metering.RegisterCount)
	for i := range rows {
		t, v := registerTexts[i], m.Registers[i]
		rows[i] = registerRow{metering.Register(i).String(), t.label, t.text(v), strconv.FormatUint(v, 10), t.unit}
	}
	return rows
}

// durationText is a time in ms as hours, minutes and seconds.
func durationText(ms uint64) string {
	s := ms / 1000
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// scaled is v ÷ unit with three decimals.
func scaled(v, unit uint64, name string) string {
	return fmt.Sprintf("%d.%03d %s", v/unit, v%unit*1000/unit, name)
}

func bytesText(v uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	n, unit := 0, uint64(1)
	for v/unit >= 1024 && n < len(units)-1 {
		n, unit = n+1, unit<<10
	}
	if n == 0 {
		return fmt.Sprintf("%d B", v)
	}
	whole, rest := v/unit, v%unit
	return fmt.Sprintf("%d.%02d %s", whole, (rest>>max(0, 10*n-10))*100>>10, units[n])
}

// grouped is v in groups of three digits.
func grouped(v uint64) string {
	s := strconv.FormatUint(v, 10)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteString("\u202f")
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (s *server) instancePage(w http.ResponseWriter, r *http.Request, who caller) error {
	m, err := s.instance(r.Context(), who.tenant, instanceID(r))
	if err != nil {
		return err
	}
	p := instancePage{frame: who.frame("instances", m.Name), metered: m}
	p.Live = m.State != compute.StateDeleted
	if !m.IsGone() {
		if p.Flavors, err = s.Flavors(r.Context(), who.tenant); err != nil {
			return err
		}
	}
	return s.render(w, http.StatusOK, "instance.html", p)
}

func (s *server) startFromForm(w http.ResponseWriter, r *http.Request, who caller) error {
	return s.orderFromForm(w, r, who, compute.PowerRunning)
}

func (s *server) stopFromForm(w http.ResponseWriter, r *http.Request, who caller) error {
	return s.orderFromForm(w, r, who, compute.PowerStopped)
}

func (s *server) orderFromForm(w http.ResponseWriter, r *http.Request, who caller, power compute.Power) error {
	if err := s.order(r, who, power); err != nil {
		return err
	}
	http.Redirect(w, r, "/instances/"+string(instanceID(r)), http.StatusSeeOther)
	return nil
}

func (s *server) resizeFromForm(w http.ResponseWriter, r *http.Request, who caller) error {
	if err := r.ParseForm(); err != nil {
		return bodyError(err)
	}
	if _, err := s.Compute.Resize(r.Context(), who.tenant, instanceID(r), r.PostForm.Get("flavor")); err != nil {
		return err
	}
	http.Redirect(w, r, "/instances/"+string(instanceID(r)), http.StatusSeeOther)
	return nil
}

// deleteFromForm deletes an instance whose name was typed to confirm it.
func (s *server) deleteFromForm(w http.ResponseWriter, r *http.Request, who caller) error {
	in, err := s.Compute.Get(r.Context(), who.tenant, instanceID(r))
	if err != nil {
		return err
	}
	if err := r.ParseForm(); err != nil {
		return bodyError(err)
	}
	if typed := strings.TrimSpace(r.PostForm.Get("confirm")); typed != in.Name {
		return fmt.Errorf("%w: to delete %s, type its name; %q was typed", errBadRequest, in.Name, typed)
	}
	if err := s.order(r, who, compute.PowerDeleted); err != nil {
		return err
	}
	http.Redirect(w, r, "/instances", http.StatusSeeOther)
	return nil
}

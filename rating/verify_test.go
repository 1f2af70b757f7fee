package rating_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/usance/usance/metering"
	"github.com/usance/usance/rating"
	"github.com/usance/usance/rating/planfile"
)

// verifiedPlan has every rule that verify can compute again.
const verifiedPlan = `
plan: p
currency: EUR
rates:
  - {id: running, meter: instance.running, price: 0.01 per hour, granularity: 1 h, cap: 3.00 per month}
  - {id: paused, meter: instance.paused, price: 0.02 per hour, minimum: 1 h per resource}
  - {id: egress, meter: network.public.tx, pool: tenant, included: 10 GB, steps: [{up to: 10 GB, price: 0.1 per GB}, {price: 0.05 per GB}]}
discounts: [{name: launch, percent: 10, rates: egress}]
`

func verifiedStatement(t *testing.T) rating.Statement {
	t.Helper()
	plan, _, err := planfile.Parse("p", []byte(verifiedPlan))
	if err != nil {
		t.Fatal(err)
	}
	usage := func(resource, meter string, quantity uint64) metering.Usage {
		return metering.Usage{Resource: metering.ResourceID(resource), Meter: metering.Meter(meter), Window: november, Quantity: metering.Thousandths(quantity)}
	}
	result, err := plan.Rate(november, []metering.Usage{
		usage("a", "instance.running", 1_500_000_000), usage("b", "instance.running", 1_234_567),
		usage("b", "instance.paused", 60_000), usage("a", "network.public.tx", 35_000_000_000_000),
	})
	if err != nil {
		t.Fatal(err)
	}
	return *result.Statement(true)
}

// TestVerifyFindsWhatIsChanged changes every number of a statement, one at a
// time: each change is found, but for what was measured or agreed and so has
// nothing to be compared with.
func TestVerifyFindsWhatIsChanged(t *testing.T) {
	s := verifiedStatement(t)
	if differences, err := s.Verify(); err != nil || len(differences) > 0 {
		t.Fatalf("the statement itself: %v, %v", differences, err)
	}
	checked := 0
	for i := range s.Lines {
		for k := range s.Lines[i].Steps {
			step := reflect.ValueOf(&s.Lines[i].Steps[k]).Elem()
			for f := range step.NumField() {
				name, field := step.Type().Field(f).Name, step.Field(f)
				if strings.Contains(" Rule Resource Start Before Text Of Whole Rounding ", " "+name+" ") || field.IsZero() {
					continue
				}
				old := reflect.ValueOf(field.Interface())
				switch field.Kind() {
				case reflect.String:
					if name == "Bound" && s.Lines[i].Steps[k].Amount == "0" {
						continue // a cap that is not reached
					}
					if name == "Amount" && s.Lines[i].Steps[k].Rule == "share" {
						continue // the line's own amount is what counts
					}
					field.SetString(field.String() + "7")
					if !strings.Contains(old.String(), ".") {
						field.SetString(old.String() + ".7")
					}
				case reflect.Int64:
					field.SetInt(field.Int() + 1)
				default:
					continue
				}
				if differences, err := s.Verify(); err != nil || len(differences) == 0 {
					t.Errorf("%s of step %d (%s) of line %d: %v → %v is not found", name, k+1, s.Lines[i].Steps[k].Rule, i+1, old, field)
				}
				field.Set(old)
				checked++
			}
		}
		for _, text := range []*string{&s.Lines[i].Amount, &s.Lines[i].Quantity} {
			old := *text
			*text = "99.99"
			if differences, _ := s.Verify(); len(differences) == 0 {
				t.Errorf("line %d: %s → 99.99 is not found", i+1, old)
			}
			*text = old
		}
	}
	if checked < 30 {
		t.Errorf("only %d numbers were changed", checked)
	}
	s.Total = "0.01"
	if differences, _ := s.Verify(); len(differences) != 1 || !strings.HasPrefix(differences[0], "total: ") {
		t.Errorf("a wrong total: %v", differences)
	}
}

func TestVerifyRefuses(t *testing.T) {
	bare := verifiedStatement(t)
	bare.Lines[1].Steps = nil
	if _, err := bare.Verify(); err == nil || !strings.Contains(err.Error(), "not explained") {
		t.Errorf("a statement without derivations: %v", err)
	}
	wrong := verifiedStatement(t)
	wrong.Currency = "XXQ"
	if _, err := wrong.Verify(); err == nil {
		t.Error("an unknown currency is taken")
	}
	mixed := verifiedStatement(t)
	last := mixed.Lines[1].Steps
	last[len(last)-1].Rounding = "up"
	if _, err := mixed.Verify(); err == nil || !strings.Contains(err.Error(), "line 2 is rounded up and others half-away") {
		t.Errorf("two ways of rounding: %v", err)
	}
	for _, text := range []string{"1e999999999", "1/0", "x", "--1"} {
		s := verifiedStatement(t)
		s.Lines[0].Steps[0].Measured = text
		if differences, err := s.Verify(); err != nil || len(differences) == 0 {
			t.Errorf("%q as a number: %v, %v", text, differences, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	plain, err := json.Marshal(rating.Statement{Currency: "EUR"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add([]byte(`{"currency":"EUR","total":"1","lines":[{"rate":"a","steps":[{"rule":"price","per":1,"nano":1,"quantity":"1"},{"rule":"share","rounding":"up"}]}]}`))
	f.Fuzz(func(t *testing.T, source []byte) {
		var s rating.Statement
		if json.Unmarshal(source, &s) == nil {
			_, _ = s.Verify()
		}
	})
}

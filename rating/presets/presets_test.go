package presets

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"github.com/usance/usance/rating/planfile"
)

func TestPresets(t *testing.T) {
	if len(Names()) != 16 {
		t.Errorf("%d presets: %v", len(Names()), Names())
	}
	for _, name := range Names() {
		source, err := Source(name)
		if err != nil {
			t.Fatal(err)
		}
		plan, warnings, err := planfile.Parse(name+".yaml", source)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", name, warnings, err)
			continue
		}
		if plan.Name != name {
			t.Errorf("%s calls itself %s", name, plan.Name)
		}
		if _, err := os.Stat(name + ".txtar"); err != nil {
			t.Errorf("%s has no worked cases: %v", name, err)
		}
		if _, err := Plan(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Plan("nimbus"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a preset that does not exist: %v", err)
	}
}

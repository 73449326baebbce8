package none

import (
	"testing"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

func TestEveryCallSucceedsAndChangesNothing(t *testing.T) {
	var f Firewall
	if changes, err := f.Ensure(t.Context(), firewall.Spec{}); err != nil || len(changes) != 0 {
		t.Errorf("ensure: %v, %v", changes, err)
	}
	if err := f.Delete(t.Context(), firewall.Owner{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if exists, err := f.Exists(t.Context(), firewall.Owner{}); err != nil || exists {
		t.Errorf("exists: %v, %v", exists, err)
	}
}

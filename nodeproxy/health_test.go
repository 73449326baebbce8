package nodeproxy

import (
	"testing"
	"time"
)

func TestLivenessFailsWhenNoSyncEnds(t *testing.T) {
	start := time.Now()
	h := newHealth(start)
	if err := h.live(start.Add(59*time.Second), time.Minute); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	if err := h.live(start.Add(61*time.Second), time.Minute); err == nil {
		t.Error("a hanging loop counts as live")
	}
	h.synced(start.Add(30 * time.Second))
	if err := h.live(start.Add(61*time.Second), time.Minute); err != nil {
		t.Errorf("after a sync: %v", err)
	}
}

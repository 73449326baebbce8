package nodeproxy

import (
	"testing"
	"time"
)

func TestLivenessFailsWithoutProgress(t *testing.T) {
	start := time.Now()
	h := newHealth(start)
	if err := h.live(start.Add(59*time.Second), time.Minute); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	if err := h.live(start.Add(61*time.Second), time.Minute); err == nil {
		t.Error("a hanging loop counts as live")
	}
	h.progressed(start.Add(30 * time.Second))
	if err := h.live(start.Add(61*time.Second), time.Minute); err != nil {
		t.Errorf("after progress: %v", err)
	}
}

package events

import (
	"strings"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
)

func TestAWarningIsRecordedAgainBeforeTheAPIServerDeletesIt(t *testing.T) {
	recorder, now := record.NewFakeRecorder(10), time.Now()
	r := NewRecorder(recorder)
	r.now = func() time.Time { return now }
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{UID: "web-uid"}}
	first, other := Warning{Reason: "First", Message: "x"}, Warning{Reason: "Other", Message: "y"}
	for _, step := range []struct {
		name     string
		after    time.Duration
		warnings []Warning
		recorded int
	}{
		{"new", 0, []Warning{first}, 1},
		{"the same", time.Minute, []Warning{first}, 0},
		{"another one too", time.Minute, []Warning{first, other}, 1},
		{"a long time", RepeatInterval - 2*time.Minute, []Warning{first, other}, 1},
		{"gone", time.Minute, []Warning{other}, 0},
		{"back", 0, []Warning{first, other}, 1},
		{"nothing wrong", RepeatInterval, nil, 0},
	} {
		now = now.Add(step.after)
		r.Warn(svc, step.warnings)
		if got := len(recorder.Events); got != step.recorded {
			t.Errorf("%s: recorded %d, want %d", step.name, got, step.recorded)
		}
		for len(recorder.Events) > 0 {
			<-recorder.Events
		}
	}
	if len(r.recorded) > 0 {
		t.Errorf("it remembers %v", r.recorded)
	}
}

func TestALongMessageIsCutInEveryEvent(t *testing.T) {
	recorder := record.NewFakeRecorder(3)
	r, svc, long := NewRecorder(recorder), &v1.Service{}, strings.Repeat("x", 1<<20)
	r.Warn(svc, []Warning{{Reason: "Long", Message: long}})
	r.Normal(svc, "Long", long)
	r.Event(&v1.Node{}, v1.EventTypeNormal, "Long", long)
	for range 3 {
		_, message, _ := strings.Cut(<-recorder.Events, " Long ")
		if len(message) > MaxMessage || !strings.HasSuffix(message, "…(cut: 1024 of 1048576 bytes)") {
			t.Errorf("got %d bytes, ending in %q", len(message), message[max(0, len(message)-40):])
		}
	}
}

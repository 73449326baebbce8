package provider

import (
	"testing"
	"time"

	"k8s.io/client-go/tools/record"
)

func TestAWarningIsSentAgainBeforeTheAPIServerForgetsIt(t *testing.T) {
	recorder, now := record.NewFakeRecorder(10), time.Now()
	r := newReporter(recorder)
	r.now = func() time.Time { return now }
	held, other := warning{reason: "Held", message: "x"}, warning{reason: "Other", message: "y"}
	for _, step := range []struct {
		name  string
		after time.Duration
		wrong []warning
		sent  int
	}{
		{"new", 0, []warning{held}, 1},
		{"the same", time.Minute, []warning{held}, 0},
		{"another one too", time.Minute, []warning{held, other}, 1},
		{"a long time", retell - 2*time.Minute, []warning{held, other}, 1},
		{"gone", time.Minute, []warning{other}, 0},
		{"back", 0, []warning{held, other}, 1},
		{"nothing wrong", retell, nil, 0},
	} {
		now = now.Add(step.after)
		r.warn(service("web"), step.wrong)
		if got := len(recorder.Events); got != step.sent {
			t.Errorf("%s: sent %d, want %d", step.name, got, step.sent)
		}
		for len(recorder.Events) > 0 {
			<-recorder.Events
		}
	}
	if len(r.told) > 0 {
		t.Errorf("it remembers %v", r.told)
	}
}

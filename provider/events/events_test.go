package events

import (
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestAWarningIsRecordedAgainBeforeTheAPIServerDeletesIt(t *testing.T) {
	recorder, now := record.NewFakeRecorder(10), time.Now()
	r := NewRecorder(recorder, nil)
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
	r, svc, long := NewRecorder(recorder, nil), &v1.Service{}, strings.Repeat("x", 1<<20)
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

func TestARestartDoesNotRepeatWarnings(t *testing.T) {
	now, svc := time.Now(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-uid"}}
	event := func(name, component, reason, message string, ago time.Duration) *v1.Event {
		return &v1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, InvolvedObject: v1.ObjectReference{UID: svc.UID}, Type: v1.EventTypeWarning,
			Source: v1.EventSource{Component: component}, Reason: reason, Message: message, LastTimestamp: metav1.NewTime(now.Add(-ago)),
		}
	}
	long := strings.Repeat("x", 2*MaxMessage)
	kube := fake.NewClientset(
		event("a", "ours", "Held", "x", time.Minute), event("b", "ours", "Held", "x", time.Hour),
		event("c", "ours", "Long", options.Cut(long, MaxMessage), time.Minute), event("d", "other", "Theirs", "x", time.Minute),
		event("e", "ours", "Node", "x", time.Minute),
	)
	recorder := record.NewFakeRecorder(10)
	r := NewRecorder(recorder, ListRecent(t.Context(), kube, "ours"))
	r.now = func() time.Time { return now }
	node := &v1.ObjectReference{Kind: "Node", UID: svc.UID}
	r.Event(node, v1.EventTypeWarning, "Node", "x")
	if len(recorder.Events) > 0 {
		t.Error("a warning about a Node is repeated")
	}
	held := []Warning{{Reason: "Held", Message: "x", Key: "k"}, {Reason: "Long", Message: long}}
	for _, step := range []struct {
		name     string
		after    time.Duration
		warnings []Warning
		recorded int
	}{
		{"after the restart", 0, held, 0},
		{"another message, and another component's event", 0, append(slices.Clone(held), Warning{Reason: "Held", Message: "y"}, Warning{Reason: "Theirs", Message: "x"}), 2},
		{"when the API server is about to delete it", RepeatInterval - time.Minute, held, 2},
		{"gone", 0, nil, 0},
		{"back", 0, held, 2},
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
}

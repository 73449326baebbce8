package gce

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/gcloud"
)

// runByHand does what an administrator does who is given the commands.
func (w world) runByHand(t *testing.T, err error) {
	t.Helper()
	var byHand *firewall.ByHandError
	if !errors.As(err, &byHand) || len(byHand.Commands) == 0 {
		t.Fatalf("error %v, want commands", err)
	}
	for _, command := range byHand.Commands {
		if err := gcloud.Run(w.sim.Client(), "http://sim", command); err != nil {
			t.Fatal(err)
		}
	}
}

func reported(edit func(*firewall.Spec)) firewall.Spec {
	s := testSpec()
	s.Report = true
	if edit != nil {
		edit(&s)
	}
	return s
}

func TestInReportModeTheCommandsDoWhatManagingWould(t *testing.T) {
	w := newWorld(t, "node")
	for name, s := range map[string]firewall.Spec{
		"opening":       reported(nil),
		"another port":  reported(func(s *firewall.Spec) { s.Ports = s.Ports[:1] }),
		"another range": reported(func(s *firewall.Spec) { s.SourceRanges = s.SourceRanges[:1] }),
		"closing":       reported(func(s *firewall.Spec) { s.Ports = nil }),
	} {
		w.sim.ForgetRequests()
		changes, err := w.Ensure(t.Context(), s)
		if w.writes() != 0 || len(changes) != 0 {
			t.Fatalf("%s: %d writes, changes %v", name, w.writes(), changes)
		}
		if err != nil {
			w.runByHand(t, err)
		}
		w.wantRules(t, s, "node")
		if _, err := w.Ensure(t.Context(), s); err != nil {
			t.Errorf("%s: after the commands: %v", name, err)
		}
	}
}

func TestInReportModeAHandEditIsToldWithTheCommandThatUndoesIt(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	name := w.rules(t)[0].Name
	for _, patch := range []string{`{"disabled":true,"priority":5}`, `{"sourceTags":["x"]}`, `{"targetTags":null}`, `{"allowed":[{"IPProtocol":"icmp"}]}`} {
		w.edit(t, name, patch)
		_, err := w.Ensure(t.Context(), reported(nil))
		w.runByHand(t, err)
		w.wantRules(t, testSpec(), "node")
	}
}

func TestWithoutTheRightTheCommandsAreToldAndDoIt(t *testing.T) {
	for name, layout := range map[string]firewall.Layout{"a rule for each": firewall.PerService, "shared rules": firewall.Shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "node")
			w.Layout, w.Roster = layout, rosterOf(testSpec())
			w.forbid(t)
			_, err := w.Ensure(t.Context(), testSpec())
			w.sim.ClearFaults()
			w.runByHand(t, err)
			w.forbid(t)
			if changes, err := w.Ensure(t.Context(), testSpec()); err != nil || len(changes) != 0 {
				t.Errorf("after the commands: %v, %v", changes, err)
			}
			err = w.Delete(t.Context(), testOwner())
			w.sim.ClearFaults()
			w.runByHand(t, err)
			if err := w.Delete(t.Context(), testOwner()); err != nil || len(w.rules(t)) != 0 {
				t.Errorf("after deleting by hand: %v, %v", err, w.rules(t))
			}
		})
	}
}

// forbid takes the right to change rules away.
func (w world) forbid(t *testing.T) {
	t.Helper()
	for _, verb := range []string{"firewalls.insert", "firewalls.patch", "firewalls.delete"} {
		if err := w.sim.AddFault(gcesim.Fault{Kind: gcesim.FaultForbidden, Verb: verb}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWithoutTheRightToLookTheCommandsAreToldAllTheSame(t *testing.T) {
	w := newWorld(t, "node")
	if err := w.sim.AddFault(gcesim.Fault{Kind: gcesim.FaultForbidden}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []firewall.Spec{testSpec(), reported(nil)} {
		_, err := w.Ensure(t.Context(), s)
		if err == nil || !strings.Contains(err.Error(), "firewall-rules create") {
			t.Errorf("error %v", err)
		}
	}
	if err := w.Delete(t.Context(), testOwner()); err == nil {
		t.Error("nobody can know that nothing is open")
	}
}

func TestWhatOthersChangeIsNoticedWithOneLook(t *testing.T) {
	w := newWorld(t)
	other := portSpec("other", 22)
	w.mustEnsure(t, testSpec())
	w.mustEnsure(t, other)
	if _, err := w.Ensure(t.Context(), reported(func(s *firewall.Spec) { s.Owner.UID, s.Owner.Service.Name = "r", "r" })); err != nil {
		t.Fatal(err) // The rules of the first Service let it in.
	}
	rule := w.rules(t)[1]
	steps := []struct {
		name    string
		do      func()
		drifted []string
	}{
		{"nothing", func() {}, nil},
		{"a rule edited", func() { w.edit(t, rule.Name, `{"disabled":true}`) }, []string{"traefik"}},
		{"a tag taken from a node", func() {
			w.edit(t, rule.Name, `{"disabled":false}`)
			must(w.sim.UpdateInstance(zone, "n1", func(in *gcesim.Instance) { in.Tags = []string{"node"} }))
		}, []string{"other", "traefik"}},
	}
	for _, step := range steps {
		step.do()
		w.sim.ForgetRequests()
		w.tagger = gce.NewInstances(w.api.(*gce.Client), 0) // One that has not yet read its list.
		drifted, err := w.Drifted(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, owner := range drifted {
			if owner.Service.Name != "r" {
				names = append(names, owner.Service.Name)
			}
		}
		lists := len(slices.DeleteFunc(w.sim.Requests(), func(r gcesim.Request) bool { return r.Verb != "firewalls.list" }))
		if !slices.Equal(names, step.drifted) || lists != 1 {
			t.Errorf("%s: drifted %v, want %v; %d lists", step.name, names, step.drifted, lists)
		}
	}
}

func TestAServiceThatFailedOrIsGoneDoesNotDrift(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	if err := w.Delete(t.Context(), testOwner()); err != nil {
		t.Fatal(err)
	}
	w.sim.ForgetRequests()
	if drifted, err := w.Drifted(t.Context()); err != nil || len(drifted) != 0 || len(w.sim.Requests()) != 0 {
		t.Errorf("%v, %v after %d requests", drifted, err, len(w.sim.Requests()))
	}
}

func TestASlowRuleDelaysNoOtherService(t *testing.T) {
	w := newWorld(t, "node")
	hour := &metav1.Duration{Duration: time.Hour}
	w.sim.Set(gcesim.Settings{OperationLatency: hour})
	slow := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, err := w.Ensure(ctx, portSpec("slow", 80)); slow <- err }()
	for w.writes() == 0 {
		<-time.After(time.Millisecond) // Until the slow one has begun.
	}
	w.sim.Set(gcesim.Settings{OperationLatency: &metav1.Duration{}})
	w.mustEnsure(t, portSpec("quick", 443))
	if _, err := w.Drifted(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-slow; err == nil {
		t.Error("the slow one has ended")
	}
}

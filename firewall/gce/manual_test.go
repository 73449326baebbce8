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

// runCommands runs the commands of a ManualChangeError as an administrator would.
func (w world) runCommands(t *testing.T, err error) {
	t.Helper()
	var manual *firewall.ManualChangeError
	if !errors.As(err, &manual) || len(manual.Commands) == 0 {
		t.Fatalf("error %v, want commands", err)
	}
	for _, command := range manual.Commands {
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

func TestInReportModeTheCommandsMakeTheRulesThatAreWanted(t *testing.T) {
	w := newWorld(t, "node")
	for name, s := range map[string]firewall.Spec{
		"first time":    reported(nil),
		"another port":  reported(func(s *firewall.Spec) { s.Ports = s.Ports[:1] }),
		"another range": reported(func(s *firewall.Spec) { s.SourceRanges = s.SourceRanges[:1] }),
		"no ports":      reported(func(s *firewall.Spec) { s.Ports = nil }),
	} {
		w.sim.ForgetRequests()
		changes, err := w.Ensure(t.Context(), s)
		if w.writes() != 0 || len(changes) != 0 {
			t.Fatalf("%s: %d writes, changes %v", name, w.writes(), changes)
		}
		if err != nil {
			w.runCommands(t, err)
		}
		w.wantRules(t, s, "node")
		if _, err := w.Ensure(t.Context(), s); err != nil {
			t.Errorf("%s: after the commands: %v", name, err)
		}
	}
}

func TestInReportModeAManualChangeIsReportedWithTheCommandThatUndoesIt(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	name := w.rules(t)[0].Name
	for _, patch := range []string{`{"disabled":true,"priority":5}`, `{"sourceTags":["x"]}`, `{"targetTags":null}`, `{"allowed":[{"IPProtocol":"icmp"}]}`} {
		w.edit(t, name, patch)
		_, err := w.Ensure(t.Context(), reported(nil))
		w.runCommands(t, err)
		w.wantRules(t, testSpec(), "node")
	}
}

func TestWithoutPermissionTheCommandsAreReturned(t *testing.T) {
	for name, layout := range map[string]firewall.Layout{"a rule for each": firewall.PerService, "shared rules": firewall.Shared} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "node")
			w.options.Layout, w.cluster.Services = layout, ownersOf(testSpec())
			w.forbid(t)
			_, err := w.Ensure(t.Context(), testSpec())
			w.sim.ClearFaults()
			w.runCommands(t, err)
			w.forbid(t)
			if changes, err := w.Ensure(t.Context(), testSpec()); err != nil || len(changes) != 0 {
				t.Errorf("after the commands: %v, %v", changes, err)
			}
			err = w.Delete(t.Context(), testOwner())
			w.sim.ClearFaults()
			w.runCommands(t, err)
			if err := w.Delete(t.Context(), testOwner()); err != nil || len(w.rules(t)) != 0 {
				t.Errorf("after the commands of the deletion: %v, %v", err, w.rules(t))
			}
		})
	}
}

// forbid removes the permission to change rules.
func (w world) forbid(t *testing.T) {
	t.Helper()
	for _, verb := range []string{"firewalls.insert", "firewalls.patch", "firewalls.delete"} {
		if err := w.sim.AddFault(gcesim.Fault{Kind: gcesim.FaultForbidden, Verb: verb}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWithoutPermissionToListTheCommandsAreReturnedToo(t *testing.T) {
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
		t.Error("a deletion that cannot be verified returns no error")
	}
}

func TestDriftIsDetectedWithOneListRequest(t *testing.T) {
	w := newWorld(t)
	other := portSpec("other", 22)
	w.mustEnsure(t, testSpec())
	w.mustEnsure(t, other)
	if _, err := w.Ensure(t.Context(), reported(func(s *firewall.Spec) { s.Owner.UID, s.Owner.Service.Name = "r", "r" })); err != nil {
		t.Fatal(err) // The rules of the first Service allow its traffic.
	}
	rule := w.rules(t)[1]
	steps := []struct {
		name    string
		do      func()
		drifted []string
	}{
		{"nothing", func() {}, nil},
		{"a rule edited", func() { w.edit(t, rule.Name, `{"disabled":true}`) }, []string{"traefik"}},
		{"a tag removed from a node", func() {
			w.edit(t, rule.Name, `{"disabled":false}`)
			must(w.sim.UpdateInstance(zone, "n1", func(in *gcesim.Instance) { in.Tags = []string{"web"} }))
		}, []string{"other", "traefik"}},
	}
	for _, step := range steps {
		step.do()
		w.sim.ForgetRequests()
		w.tagger = gce.NewInstances(w.api.(*gce.Client), 0) // Without a cached list.
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

func TestAReleasedServiceDoesNotDrift(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	if _, err := w.Ensure(t.Context(), reported(nil)); err != nil {
		t.Fatal(err)
	}
	err := w.Release(t.Context(), testOwner())
	w.wantDrifted(t)
	w.runCommands(t, err)
	w.wantDrifted(t)
	if rules := w.rules(t); len(rules) != 0 {
		t.Errorf("left: %v", rules)
	}
}

func TestSharedPortsOfAServiceInReportModeStayAndNoneIsAdded(t *testing.T) {
	inReport := func(s firewall.Spec, ports ...uint16) firewall.Spec {
		s = portSpec(s.Owner.Service.Name, ports...)
		s.Report = true
		return s
	}
	a, b := portSpec("a", 80, 81), portSpec("b", 80, 443)
	for name, restarts := range map[string]bool{"one process": false, "restarted in between": true} {
		t.Run(name, func(t *testing.T) {
			w := newSharedWorld(t, a, b)
			again := func() {
				if restarts {
					w = w.restart(firewall.Shared, a, b)
				}
			}
			w.mustEnsure(t, a)
			w.mustEnsure(t, b)
			again()
			w.mustEnsure(t, inReport(a, 80, 81))
			w.wantTraffic(t, 1, a, b)
			_, err := w.Ensure(t.Context(), inReport(a, 81, 443, 8080))
			if err == nil || !strings.Contains(err.Error(), "tcp:81,tcp:443,tcp:8080") {
				t.Errorf("error %v, want a command that allows the new port", err)
			}
			again()
			if err := w.Delete(t.Context(), b.Owner); err != nil {
				t.Fatal(err)
			}
			w.wantTraffic(t, 1, a)
			w.mustEnsure(t, portSpec("a", 443))
			w.wantTraffic(t, 1, portSpec("a", 443))
		})
	}
}

func TestReleasedSharedPortsAreRemovedByCommandsUnlessOrphansAreDeleted(t *testing.T) {
	a, b := portSpec("a", 80, 443), portSpec("b", 443, 8080)
	w := newSharedWorld(t, a, b)
	w.mustEnsure(t, a)
	w.mustEnsure(t, b)
	w = w.restart(firewall.Shared, a, b)
	w.cluster.DeleteOrphans = false
	w.runCommands(t, w.Release(t.Context(), a.Owner))
	w.wantTraffic(t, 1, b)
	w.runCommands(t, w.Release(t.Context(), b.Owner))
	w.wantTraffic(t, 0)
}

func TestWithoutPermissionToDeleteOrphansDriftIsDetectedToo(t *testing.T) {
	a, gone := portSpec("a", 80), portSpec("gone", 443)
	w := newSharedWorld(t, a, gone)
	w.mustEnsure(t, a)
	w.mustEnsure(t, gone)
	w = w.restart(firewall.Shared, a)
	w.mustEnsure(t, a)
	w.wantTraffic(t, 1, a)
	w.mustEnsure(t, gone)
	w = w.restart(firewall.Shared, a)
	w.forbid(t)
	w.wantDrifted(t)
	w.wantTraffic(t, 1, a, gone)
	w.sim.ClearFaults()
	w.wantDrifted(t)
	w.wantTraffic(t, 1, a)
}

func TestASlowChangeDelaysNoOtherService(t *testing.T) {
	w := newWorld(t, "node")
	hour := &metav1.Duration{Duration: time.Hour}
	w.sim.Set(gcesim.Settings{OperationLatency: hour})
	slow := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, err := w.Ensure(ctx, portSpec("slow", 80)); slow <- err }()
	for w.writes() == 0 {
		<-time.After(time.Millisecond) // Until the slow change has begun.
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

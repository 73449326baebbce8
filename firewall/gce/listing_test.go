package gce

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// specOf returns the spec of one of many Services on these nodes.
func specOf(service int, since time.Time, nodes ...string) firewall.Spec {
	spec := testSpec()
	spec.Owner.Service.Name, spec.Owner.UID = fmt.Sprint("web", service), types.UID(fmt.Sprint("uid-", service))
	spec.Ports = []firewall.Port{{Protocol: v1.ProtocolTCP, Port: uint16(1000 + service)}}
	spec.Since, spec.Nodes, spec.Addresses = since, nil, nil
	for _, n := range nodes {
		spec.Nodes, spec.Addresses = append(spec.Nodes, node(n)), append(spec.Addresses, addresses("10.0.0."+strings.TrimPrefix(n, "n"))...)
	}
	return spec
}

func (w world) verbs(verb string) int {
	return len(slices.DeleteFunc(w.sim.Requests(), func(r gcesim.Request) bool { return r.Verb != verb }))
}

func (w world) ensureAll(t *testing.T, services int, since time.Time, nodes ...string) {
	t.Helper()
	var running sync.WaitGroup
	for i := range services {
		running.Go(func() {
			if _, err := w.Ensure(t.Context(), specOf(i, since, nodes...)); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
}

// All Services need other destinations when a node joins or leaves.
func TestANodeChangeCostsOneList(t *testing.T) {
	const services = 20
	for _, tc := range []struct {
		layout          firewall.Layout
		joined, patches int
	}{
		{firewall.PerService, services, services},
		{firewall.Shared, 1, 1},
	} {
		t.Run(string(tc.layout), func(t *testing.T) {
			w := newWorld(t, "node")
			w.options.Layout = tc.layout
			w.cluster.Services = func() (owners []firewall.Owner) {
				for i := range services {
					owners = append(owners, specOf(i, time.Time{}).Owner)
				}
				return owners
			}
			for _, step := range []struct {
				nodes   []string
				inserts int
				patches int
			}{
				{[]string{"n1"}, tc.joined, -1},
				{[]string{"n1", "n2"}, 0, tc.patches},
				{[]string{"n2"}, 0, tc.patches},
			} {
				w.sim.ForgetRequests()
				w.ensureAll(t, services, time.Now(), step.nodes...)
				if lists := w.verbs("firewalls.list"); lists != 1 {
					t.Errorf("nodes %v: %d lists", step.nodes, lists)
				}
				if inserts := w.verbs("firewalls.insert"); inserts != step.inserts {
					t.Errorf("nodes %v: %d inserts, want %d", step.nodes, inserts, step.inserts)
				}
				if patches := w.verbs("firewalls.patch"); step.patches >= 0 && patches != step.patches {
					t.Errorf("nodes %v: %d patches, want %d", step.nodes, patches, step.patches)
				}
			}
			if drifted, err := w.Drifted(t.Context()); err != nil || len(drifted) > 0 {
				t.Errorf("drifted: %v, %v", drifted, err)
			}
		})
	}
}

func TestARuleThatWasDeletedSinceTheListIsCreatedAgain(t *testing.T) {
	w := newWorld(t, "node")
	since := time.Now()
	w.mustEnsure(t, specOf(1, since, "n1"))
	w.request(t, "DELETE", "/"+w.rules(t)[0].Name, "")
	spec := specOf(1, since, "n1", "n2")
	w.mustEnsure(t, spec)
	w.wantRules(t, spec, "node")
}

// What was changed here is known without another list, also if it was changed while rules were listed.
func TestTheListingHasItsOwnChanges(t *testing.T) {
	l, since := newListing(), time.Now()
	rule := func(name string) markedRule { return markedRule{Rule: firewall.Rule{Name: name}} }
	began := l.begin()
	l.changed("created", rule("created"))
	l.changed("deleted", markedRule{})
	if got := names(l.end(began, []markedRule{rule("deleted"), rule("old")})); !slices.Equal(got, []string{"created", "old"}) {
		t.Errorf("listed %v", got)
	}
	l.changed("old", markedRule{})
	if rules, known := l.since(since); !known || !slices.Equal(names(rules), []string{"created"}) {
		t.Errorf("known %t: %v", known, names(rules))
	}
	if _, known := l.since(time.Now().Add(time.Hour)); known {
		t.Error("a list is used that is older than what it is for")
	}
	began = l.begin()
	l.forget()
	l.end(began, nil)
	if _, known := l.since(since); known {
		t.Error("a list is remembered although a change failed meanwhile")
	}
}

func names(rules []markedRule) (names []string) {
	for _, rule := range rules {
		names = append(names, rule.Name)
	}
	return names
}

package gce

import (
	"strings"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// tag gives an instance these tags, and forgets the cached list of instances.
func (w world) tag(instance string, tags ...string) {
	must(w.sim.UpdateInstance(zone, instance, func(in *gcesim.Instance) { in.Tags = tags }))
	w.tagger = gce.NewInstances(w.api.(*gce.Client), 0)
}

func TestOfTheCommonTagsTheOneOfTheFewestVMsIsChosenAndKept(t *testing.T) {
	w := newWorld(t)
	w.tag("n3", "node") // web is on n1 and n2 only.
	w.mustEnsure(t, testSpec())
	w.wantRules(t, testSpec(), "web")

	w.tag("n3", "web")
	for name, again := range map[string]world{"the same process": w, "after a restart": w.restart(firewall.PerService)} {
		w.sim.ForgetRequests()
		if changes := again.mustEnsure(t, testSpec()); len(changes) != 0 || w.writes() != 0 {
			t.Errorf("%s: the rules were changed as another VM changed: %v", name, changes)
		}
	}
	w.tag("n2", "node")
	w.mustEnsure(t, testSpec())
	w.wantRules(t, testSpec(), "node")
}

func TestSharedRulesKeepTheirTagAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.options.Layout, w.cluster.Services = firewall.Shared, ownersOf(testSpec())
	w.tag("n3", "node")
	w.mustEnsure(t, testSpec())
	w.tag("n3", "web")
	if changes := w.restart(firewall.Shared, testSpec()).mustEnsure(t, testSpec()); len(changes) != 0 {
		t.Errorf("changes %v", changes)
	}
}

func TestTheFirstByNameOfEquallyRareTagsIsChosen(t *testing.T) {
	w := newWorld(t)
	s := testSpec()
	s.Nodes = s.Nodes[:1]
	w.tag("n2", "web", "blue", "node")
	w.mustEnsure(t, s)
	w.wantRules(t, s, "blue")
}

func TestARuleWithSeveralTagsIsNarrowedInPlaceToOneOfThem(t *testing.T) {
	w := newWorld(t)
	w.tag("n1", "web", "node", "alpha")
	w.tag("n2", "web", "node", "alpha")
	w.mustEnsure(t, testSpec())
	for _, rule := range w.rules(t) {
		w.edit(t, rule.Name, `{"targetTags":["node","web"]}`)
	}
	w.sim.ForgetRequests()
	for _, change := range w.restart(firewall.PerService).mustEnsure(t, testSpec()) {
		if !strings.HasPrefix(change, "updated ") || !strings.HasSuffix(change, "targetTags [node web] -> [node]") {
			t.Errorf("change %q", change)
		}
	}
	w.wantRules(t, testSpec(), "node")
}

func TestSeveralConfiguredTagsStay(t *testing.T) {
	w := newWorld(t, "web", "node")
	w.mustEnsure(t, testSpec())
	w.wantRules(t, testSpec(), "node", "web")
}

func TestInReportModeARuleForAnyCommonTagSuffices(t *testing.T) {
	w := newWorld(t)
	for tag, missing := range map[string]bool{"web": false, "node": false, "blue": true} {
		for name, source := range map[string]string{"v4": "0.0.0.0/0", "v6": "::/0"} {
			w.request(t, "POST", "", `{"name":"`+name+`","targetTags":["`+tag+`"],"sourceRanges":["`+source+`"],"allowed":[{"IPProtocol":"all"}]}`)
		}
		if _, err := w.Ensure(t.Context(), reported(nil)); (err != nil) != missing {
			t.Errorf("tag %s: %v", tag, err)
		}
		w.request(t, "DELETE", "/v4", "")
		w.request(t, "DELETE", "/v6", "")
	}
}

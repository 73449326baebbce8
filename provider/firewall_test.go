package provider

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/googleapi"
	"k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	servicehelper "k8s.io/cloud-provider/service/helpers"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// guarded compares the firewall all the time.
func guarded(t *testing.T) *cluster {
	c := twoNodes(t)
	c.config.GCE.FirewallCheckPeriod.Duration = 10 * time.Millisecond
	return c
}

// ruleOf is the name of a Service's rule.
func ruleOf(name string) string {
	return firewall.RuleName(plan.Settings{ClusterID: "tests-" + systemUID}.Owner(service(name)), firewall.IPv4)
}

// countEvents counts the events that hold all parts.
func (c *cluster) countEvents(parts ...string) int {
	return len(slices.DeleteFunc(c.events(), func(event string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(event, part) })
	}))
}

func TestAFirewallChangedBySomebodyElseIsRepaired(t *testing.T) {
	for name, harm := range map[string]struct {
		do   func(c *cluster, rule firewall.Rule)
		told string
	}{
		"deleted": {func(c *cluster, rule firewall.Rule) { c.firewall.RemoveRule(rule.Name) }, "created firewall rule"},
		"edited":  {func(c *cluster, rule firewall.Rule) { rule.Disabled = true; c.firewall.SetRule(rule) }, "disabled [true] -> [false]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := guarded(t)
			c.start()
			c.serve(service("web"))
			c.serve(service("other", tcp(81)))
			rule := c.firewall.Rules()[ruleOf("web")]
			harm.do(c, rule)
			c.eventually("an event tells of the repair", func() bool { return c.hasEvent("Normal FirewallRepaired web:", harm.told) })
			if got := c.firewall.Rules()[rule.Name]; len(firewall.Diff(got, rule)) > 0 {
				t.Errorf("rule %+v", got)
			}
			if c.hasEvent("FirewallRepaired other:") {
				t.Errorf("a Service that nobody touched has an event: %v", c.events())
			}
		})
	}
}

func TestInReportModeTheCommandIsToldOnceAndNothingIsChanged(t *testing.T) {
	c := guarded(t)
	c.config.LoadBalancer.Firewall = options.FirewallReport
	c.start()
	c.serve(service("web"))
	create := "gcloud compute firewall-rules create " + ruleOf("web")
	c.eventually("the command is told", func() bool {
		return c.hasEvent("Warning FirewallCommand web:", create, "--allow=tcp:80 ", "--source-ranges=0.0.0.0/0", "--target-tags=node")
	})
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	if n := c.countEvents("Warning", " web:"); n != 1 || c.firewall.Writes() != 0 {
		t.Errorf("%d warnings, %d writes: %v", n, c.firewall.Writes(), c.events())
	}
	c.delete("web")
	c.eventually("the Service is gone", func() bool { return c.isGone("web") })
}

func TestInReportModeWhatSomebodyElseOpenedIsEnough(t *testing.T) {
	c := guarded(t)
	c.config.LoadBalancer.Firewall = options.FirewallReport
	c.firewall.SetRule(firewall.Rule{
		Name: "by-hand", Network: "fake", Direction: firewall.Ingress, Allowed: []firewall.Allow{{Protocol: "tcp", From: 1, To: 443}}, SourceRanges: []string{"0.0.0.0/0"},
	})
	c.start()
	c.serve(service("web"))
	c.settle()
	if c.hasEvent("FirewallCommand web:") {
		t.Errorf("the port is open already: %v", c.events())
	}
	c.firewall.RemoveRule("by-hand")
	c.eventually("the command is told", func() bool { return c.hasEvent("Warning FirewallCommand web:", "create "+ruleOf("web")) })
}

func TestAnAnnotationMayNotAskForMoreThanTheConfig(t *testing.T) {
	for _, mode := range []options.FirewallMode{options.FirewallReport, options.FirewallNone} {
		c := twoNodes(t)
		c.config.LoadBalancer.Firewall = mode
		c.start()
		c.create(service("web", withAnnotation(options.Firewall, "managed")))
		c.eventually("it is refused", func() bool {
			return c.hasEvent("Warning LoadBalancerRefused web:", `"managed" is refused`, "loadBalancer.firewall: "+string(mode))
		})
	}
}

func TestWhatComesOfAFirewallErrorIsToldByItsKind(t *testing.T) {
	refused := func(kind gce.Kind, message string) error {
		return &gce.Error{Verb: "firewalls.insert", Resource: "rule", Kind: kind, Err: &googleapi.Error{Code: http.StatusForbidden, Message: message}}
	}
	byHand := &firewall.ByHandError{Commands: []string{"gcloud a", "gcloud b"}, Cause: refused(gce.KindForbidden, "no right")}
	for name, c := range map[string]struct {
		err    error
		reason string
		failed bool
		again  time.Duration
		events int
	}{
		"all is well":            {nil, "", false, 0, 0},
		"no right":               {byHand, reasonFirewallByHand, false, recheckRights, 2},
		"report mode":            {&firewall.ByHandError{Commands: []string{"gcloud a"}}, reasonFirewallByHand, false, 0, 1},
		"no quota":               {refused(gce.KindQuota, "Quota 'FIREWALLS' exceeded"), reasonFirewallQuota, true, recheck, 1},
		"trouble at the API":     {refused(gce.KindTransient, "503"), reasonFirewallFailed, true, recheck, 1},
		"trouble somewhere else": {errors.New("no tags"), reasonFirewallFailed, true, recheck, 1},
	} {
		got := resultOf(c.err)
		if got.failed != c.failed || got.again != c.again || len(got.warnings) != c.events || c.events > 0 && got.warnings[0].reason != c.reason {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWithoutTheRightTheCommandIsToldOnceAndTheServiceServed(t *testing.T) {
	c := guarded(t)
	forbidden := &gce.Error{Verb: "firewalls.insert", Kind: gce.KindForbidden, Err: errors.New("no right")}
	c.firewall.FailWith(func(method string, owner firewall.Owner) error {
		if method == "Ensure" {
			return &firewall.ByHandError{Owner: owner, Commands: []string{"gcloud compute firewall-rules create x"}, Cause: forbidden}
		}
		return nil
	})
	c.start()
	c.serve(service("web"))
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.eventually("the command is told", func() bool {
		return c.hasEvent("Warning FirewallCommand web:", "gcloud compute firewall-rules create x")
	})
	if n := c.countEvents("Warning", " web:"); n != 1 {
		t.Errorf("%d warnings: %v", n, c.events())
	}
	c.firewall.FailWith(nil)
	c.edit("web", func(svc *v1.Service) { svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: 443}) })
	c.eventually("the port is open", func() bool { return c.isOpen("web") })
}

func TestOnlyLoadBalancersAreInTheRoster(t *testing.T) {
	memory := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	plain := func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }
	held := func(svc *v1.Service) {
		plain(svc)
		svc.Finalizers = []string{servicehelper.LoadBalancerCleanupFinalizer}
	}
	for _, svc := range []*v1.Service{service("balanced"), service("kubernetes", plain), service("leaving", held)} {
		if err := memory.Add(svc); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, owner := range roster(plan.Settings{ClusterID: "alpha"}, corelisters.NewServiceLister(memory))() {
		names = append(names, owner.Service.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"balanced", "leaving"}, names); diff != "" {
		t.Errorf("roster (-want +got):\n%s", diff)
	}
}

// A cloud takes its time: what turned bad leaves meanwhile, and nothing is added
// before the port is open.
func TestAFirewallThatIsSlowKeepsNoBadAddress(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	answer := make(chan struct{})
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Ensure" {
			<-answer
		}
		return nil
	})
	c.edit("web", tcp(443))
	c.serves("web", "443/TCP")
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	// Whose coming is seen after that status.
	c.create(service("new", tcp(81)))
	c.proxy("new", "n1", ready)
	c.proxy("web", "n2", ready)
	c.proxy("web", "n1", notReady)
	c.publishes("web", "203.0.113.1") // The last one stays, and none is added.
	c.publishes("new")
	close(answer)
	c.publishes("web", "203.0.113.2")
	c.publishes("new", "203.0.113.1")
	c.eventually("an event tells of the change", func() bool { return c.countEvents("Normal FirewallChanged web:", "443") == 1 })
	if c.hasEvent("Warning") {
		t.Errorf("warnings: %v", c.events())
	}
}

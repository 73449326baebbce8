package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/view"
)

// checkingFirewall returns a cluster that checks the firewall for manual changes every 10 ms.
func checkingFirewall(t *testing.T) *cluster {
	c := twoNodes(t)
	c.config.GCE.FirewallCheckPeriod.Duration = 10 * time.Millisecond
	return c
}

// ruleOf returns the name of a Service's IPv4 rule.
func ruleOf(name string) string {
	return firewall.RuleName(plan.Settings{ClusterID: "tests-" + systemUID}.Owner(service(name)), firewall.IPv4)
}

// countEvents counts the events that contain all parts.
func (c *cluster) countEvents(parts ...string) int {
	return len(slices.DeleteFunc(c.events(), func(event string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(event, part) })
	}))
}

func TestManualFirewallChangesAreRepaired(t *testing.T) {
	for name, change := range map[string]struct {
		do    func(c *cluster, rule firewall.Rule)
		event string
	}{
		"deleted": {func(c *cluster, rule firewall.Rule) { c.firewall.RemoveRule(rule.Name) }, "created firewall rule"},
		"edited":  {func(c *cluster, rule firewall.Rule) { rule.Disabled = true; c.firewall.SetRule(rule) }, "disabled [true] -> [false]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := checkingFirewall(t)
			c.start()
			c.serve(service("web"))
			c.serve(service("other", tcp(81)))
			rule := c.firewall.Rules()[ruleOf("web")]
			change.do(c, rule)
			c.eventually("an event reports the repair", func() bool { return c.hasEvent("Normal FirewallRepaired web:", change.event) })
			if got := c.firewall.Rules()[rule.Name]; len(firewall.Diff(got, rule)) > 0 {
				t.Errorf("rule %+v", got)
			}
			if c.hasEvent("FirewallRepaired other:") {
				t.Errorf("the other Service has an event: %v", c.events())
			}
		})
	}
}

func TestInReportModeTheCommandIsReportedOnceAndNothingIsChanged(t *testing.T) {
	c := checkingFirewall(t)
	c.config.LoadBalancer.Firewall = firewall.Report
	c.start()
	c.serve(service("web"))
	create := "gcloud compute firewall-rules create " + ruleOf("web")
	c.eventually("an event has the command", func() bool {
		return c.hasEvent("Warning LoadBalancerManualChange web:", create, "--allow=tcp:80 ", "--source-ranges=0.0.0.0/0", "--target-tags=node")
	})
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	if n := c.countEvents("Warning", " web:"); n != 1 || c.firewall.Writes() != 0 {
		t.Errorf("%d warnings, %d writes: %v", n, c.firewall.Writes(), c.events())
	}
	c.delete("web")
	c.endProxies("web")
	c.eventually("the Service is deleted", func() bool { return c.isGone("web") })
}

func TestInReportModeTrafficThatIsAlreadyAllowedNeedsNoCommand(t *testing.T) {
	c := checkingFirewall(t)
	c.config.LoadBalancer.Firewall = firewall.Report
	c.firewall.SetRule(firewall.Rule{
		Name: "by-hand", Network: "fake", Direction: firewall.Ingress, Allowed: []firewall.Allow{{Protocol: "tcp", From: 1, To: 443}}, SourceRanges: []string{"0.0.0.0/0"},
	})
	c.start()
	c.serve(service("web"))
	c.settle()
	if c.hasEvent("LoadBalancerManualChange web:") {
		t.Errorf("a command is reported although the port is already allowed: %v", c.events())
	}
	c.firewall.RemoveRule("by-hand")
	c.eventually("an event has the command", func() bool { return c.hasEvent("Warning LoadBalancerManualChange web:", "create "+ruleOf("web")) })
}

func TestAnAnnotationCannotExceedTheFirewallModeOfTheConfig(t *testing.T) {
	for _, mode := range []firewall.Mode{firewall.Report, firewall.None} {
		t.Run(string(mode), func(t *testing.T) {
			c := twoNodes(t)
			c.config.LoadBalancer.Firewall = mode
			c.start()
			c.create(service("web", withAnnotation(options.Firewall, "managed")))
			c.eventually("the annotation is refused", func() bool {
				return c.hasEvent("Warning InvalidConfiguration web:", `"managed" is refused`, "loadBalancer.firewall: "+string(mode))
			})
		})
	}
}

func TestClassifyMapsErrorsToEventsAndRetries(t *testing.T) {
	refused := func(kind firewall.Kind, message string) error {
		return &firewall.Error{Kind: kind, Err: errors.New(message)}
	}
	manual := &firewall.ManualChangeError{Commands: []string{"gcloud a", "gcloud b"}, Cause: refused(firewall.KindForbidden, "no permission")}
	for name, c := range map[string]struct {
		err    error
		reason string
		failed bool
		retry  time.Duration
		events int
	}{
		"no error":      {nil, "", false, 0, 0},
		"no permission": {manual, events.ManualChange, false, firewallPermissionRetry, 2},
		"report mode":   {&firewall.ManualChangeError{Commands: []string{"gcloud a"}}, events.ManualChange, false, 0, 1},
		"no quota":      {refused(firewall.KindQuota, "Quota 'FIREWALLS' exceeded"), events.FirewallQuotaExceeded, true, firewallRetry, 1},
		"the API fails": {refused("transient", "503"), events.FirewallUpdateFailed, true, firewallRetry, 1},
		"another error": {errors.New("no tags"), events.FirewallUpdateFailed, true, firewallRetry, 1},
	} {
		got := classify(c.err)
		if got.failed != c.failed || got.retryAfter != c.retry || len(got.warnings) != c.events || c.events > 0 && got.warnings[0].Reason != c.reason {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWithoutPermissionTheCommandIsRecordedOnceAndTheServiceServed(t *testing.T) {
	c := checkingFirewall(t)
	forbidden := &firewall.Error{Kind: firewall.KindForbidden, Err: errors.New("no permission")}
	c.firewall.FailWith(func(method string, owner firewall.Owner) error {
		if method == "Ensure" {
			return &firewall.ManualChangeError{Owner: owner, Commands: []string{"gcloud compute firewall-rules create x"}, Cause: forbidden}
		}
		return nil
	})
	c.start()
	c.serve(service("web"))
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	c.proxy("web", "n2", ready)
	c.publishes("web", "203.0.113.1", "203.0.113.2")
	c.eventually("an event has the command", func() bool {
		return c.hasEvent("Warning LoadBalancerManualChange web:", "gcloud compute firewall-rules create x")
	})
	if n := c.countEvents("Warning", " web:"); n != 1 {
		t.Errorf("%d warnings: %v", n, c.events())
	}
	c.firewall.FailWith(nil)
	c.edit("web", func(svc *v1.Service) { svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Port: 443}) })
	c.eventually("the firewall allows the port", func() bool { return c.firewallAllows("web") })
}

func TestFirewallOwnersAreLoadBalancers(t *testing.T) {
	informer := informers.NewSharedInformerFactory(fake.NewClientset(), 0).Core().V1().Services()
	services := must[*view.Services](&cluster{T: t})(view.NewServices(informer, config.ClassesBoth))
	plain := func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }
	finalized := func(svc *v1.Service) {
		plain(svc)
		svc.Finalizers = []string{view.Finalizer}
	}
	for _, svc := range []*v1.Service{service("balanced"), service("kubernetes", plain), service("deleting", finalized)} {
		if err := informer.Informer().GetIndexer().Add(svc); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, owner := range (watches{services: services}).firewallOwners(plan.Settings{ClusterID: "alpha"}) {
		names = append(names, owner.Service.Name)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"balanced", "deleting"}, names); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
}

// While a firewall operation runs, unhealthy addresses are removed, and none is added.
func TestWhileTheFirewallIsSlowAddressesAreOnlyRemoved(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	unblock := make(chan struct{})
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Ensure" {
			<-unblock
		}
		return nil
	})
	c.edit("web", func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} })
	c.eventually("the proxies have the source range", func() bool { return strings.Contains(fmt.Sprint(c.configMap("web").Data), "198.51.100.0/24") })
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1")
	// It is reconciled after that status.
	c.create(service("new", tcp(81)))
	c.proxy("new", "n1", ready)
	c.proxy("web", "n2", ready)
	c.proxy("web", "n1", notReady)
	c.publishes("web", "203.0.113.1") // The last address stays, and none is added.
	c.publishes("new")
	close(unblock)
	c.publishes("web", "203.0.113.2")
	c.publishes("new", "203.0.113.1")
	c.eventually("an event reports the change", func() bool { return c.countEvents("Normal FirewallChanged web:", "198.51.100.0/24") == 1 })
	if c.hasEvent("Warning") {
		t.Errorf("warnings: %v", c.events())
	}
}

// destinations returns the destination ranges of a Service's IPv4 rule.
func (c *cluster) destinations(name string) string {
	return strings.Join(c.firewall.Rules()[ruleOf(name)].DestinationRanges, " ")
}

func TestANewNodeIsPublishedOnceTheFirewallAllowsItsAddress(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	unblock := make(chan struct{})
	c.firewall.FailWith(func(method string, _ firewall.Owner) error {
		if method == "Ensure" {
			<-unblock
		}
		return nil
	})
	must[*v1.Node](c)(c.kube.CoreV1().Nodes().Create(t.Context(), node("n3", "203.0.113.3"), metav1.CreateOptions{}))
	c.proxy("web", "n3", ready)
	c.proxy("web", "n2", notReady)
	c.publishes("web", "203.0.113.1") // It is reconciled after the node joined.
	if got := c.destinations("web"); got != "203.0.113.1/32 203.0.113.2/32" {
		t.Errorf("destinations %s", got)
	}
	close(unblock)
	c.publishes("web", "203.0.113.1", "203.0.113.3")
	if got := c.destinations("web"); got != "203.0.113.1/32 203.0.113.2/32 203.0.113.3/32" {
		t.Errorf("destinations %s", got)
	}
}

func TestTheFirewallAllowsADeselectedNodeUntilItsProxyIsGone(t *testing.T) {
	c := twoNodes(t)
	c.start()
	c.serve(service("web"))
	c.editNode("n1", func(n *v1.Node) { n.Labels["pool"] = "a" })
	c.edit("web", withAnnotation(options.NodeSelector, "pool=a"))
	c.publishes("web", "203.0.113.1")
	c.proxy("web", "n2", func(pod *v1.Pod) {
		pod.DeletionTimestamp, pod.Finalizers = new(metav1.Now()), []string{"tests/kubelet"}
	})
	c.settle()
	if got := c.destinations("web"); got != "203.0.113.1/32 203.0.113.2/32" {
		t.Errorf("destinations %s", got)
	}
	c.removeProxy("web", "n2")
	c.eventually("the firewall allows n1 alone", func() bool { return c.destinations("web") == "203.0.113.1/32" })
}

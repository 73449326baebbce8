package provider

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// young is the age of a hold, by the clock of who began it, that leaves many seconds to
// look at it.
const young = time.Second - holdTime

// withGates is a cluster on bare metal where gates are of an age.
func withGates(t *testing.T, age time.Duration) *cluster {
	c := onMetal(t)
	c.holdsSince("create", age)
	return c
}

// holdsSince has the first mirror that holds back say that it does so for a while.
func (c *cluster) holdsSince(verb string, age time.Duration) {
	var once sync.Once
	c.kube.PrependReactor(verb, "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		// That of an update is the same.
		if svc := action.(clienttesting.CreateAction).GetObject().(*v1.Service); !plan.HeldSince(svc).IsZero() {
			once.Do(func() { *svc = *plan.HasHeld(svc, plan.HeldSince(svc).Add(-age)) })
		}
		return false, nil, nil
	})
}

// metal and onGCE are clusters in mode nftables that serve a Service directly.
func metal(t *testing.T, age time.Duration) *cluster {
	c := withGates(t, age)
	c.start()
	c.serveOnMetal()
	return c
}

func onGCE(t *testing.T, age time.Duration) *cluster {
	c := twoNatted(t)
	c.config.LoadBalancer.KubeProxyMode = config.KubeProxyNFTables
	c.holdsSince("update", age)
	c.start()
	c.serveDirectly(service("web", by(options.DatapathDirect)))
	return c
}

// onDaemonSet sees each attempt to make a Service's DaemonSet, and may have it fail.
func (c *cluster) onDaemonSet(name string, see func() error) {
	c.kube.Lock()
	defer c.kube.Unlock()
	c.kube.PrependReactor("create", "daemonsets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.(clienttesting.CreateAction).GetObject().(metav1.Object).GetName() != plan.Name(service(name)) {
			return false, nil, nil
		}
		err := see()
		return err != nil, nil, err
	})
}

// serveOnMetal has kube-proxy serve a Service.
func (c *cluster) serveOnMetal(change ...func(*v1.Service)) {
	c.Helper()
	c.create(service("web", append(change, by(options.DatapathDirect))...))
	c.publishesAs("web", vip, vip)
}

// gatesMade counts the attempts to make a gate.
func (c *cluster) gatesMade() (n int) {
	for _, action := range c.kube.Actions() {
		if create, ok := action.(clienttesting.CreateAction); ok {
			if svc, ok := create.GetObject().(*v1.Service); ok && plan.IsMirror(svc) {
				n++
			}
		}
	}
	return n
}

func (c *cluster) losesItsGate() {
	c.Helper()
	c.eventually("the gate is gone", func() bool { return c.mirror("web") == nil })
}

func TestOnBareMetalNobodyNewIsLetInWhileProxiesTakeOver(t *testing.T) {
	c := withGates(t, young)
	stop := c.start()
	c.serveOnMetal()
	c.edit("web", by(options.DatapathProxy))
	c.mirrors("web", "203.0.113.1", "203.0.113.2")
	gate := c.mirror("web")
	if diff := cmp.Diff([]string{"0.0.0.0/32"}, gate.Spec.LoadBalancerSourceRanges); diff != "" || gate.Spec.Selector != nil {
		t.Errorf("it has endpoints of %v, or lets somebody in (-want +got):\n%s", gate.Spec.Selector, diff)
	}
	c.proxy("web", "n1", ready)
	c.mirrors("web", "203.0.113.2")
	c.publishesAs("web", proxied, vip)
	stop()
	c.start()
	c.proxy("web", "n2", ready)
	c.losesItsGate()
	c.publishesAs("web", proxied, proxied)
	c.settle()
	if got := c.gatesMade(); got != 1 {
		t.Errorf("%d gates were made", got)
	}
}

func TestProxiesWaitUntilKubeProxiesHaveNoticedThatNobodyGetsIn(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, time.Duration) *cluster{"through a gate": metal, "through a mirror": onGCE} {
		t.Run(name, func(t *testing.T) {
			c := begin(t, 0)
			var wait atomic.Int64
			c.onDaemonSet("web", func() error {
				mirror, err := c.kube.Tracker().Get(v1.SchemeGroupVersion.WithResource("services"), "default", plan.Name(service("web")))
				if err == nil {
					wait.Store(int64(time.Since(plan.HeldSince(mirror.(*v1.Service)))))
				}
				return nil
			})
			c.edit("web", by(options.DatapathProxy))
			c.eventually("proxies are begun", func() bool { return c.daemonSet("web") != nil })
			if got := time.Duration(wait.Load()); got < noticeTime {
				t.Errorf("after %s", got)
			}
		})
	}
}

func TestNobodyIsHeldBackAgainAndAgainForProxiesThatCannotBeBegun(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, time.Duration) *cluster{"by a gate": metal, "by a mirror": onGCE} {
		t.Run(name, func(t *testing.T) {
			c := begin(t, holdTime-time.Second)
			var tries atomic.Int32
			var works atomic.Bool
			c.onDaemonSet("web", func() error {
				if tries.Add(1); works.Load() {
					return nil
				}
				return errors.New("no room")
			})
			c.edit("web", by(options.DatapathProxy))
			holding := func() bool {
				mirror := c.mirror("web")
				return mirror != nil && len(mirror.Status.LoadBalancer.Ingress) > 0 && len(mirror.Spec.LoadBalancerSourceRanges) > 0
			}
			c.eventually("it holds back", holding)
			c.eventually("it lets in", func() bool { return !holding() })
			for before := range int32(2) {
				c.edit("web", func(svc *v1.Service) { svc.Annotations["example.com/touched"] = fmt.Sprint(before) })
				tried := tries.Load()
				c.eventually("it is tried again", func() bool {
					if holding() {
						t.Fatal("it holds back again")
					}
					return tries.Load() > tried
				})
			}
			works.Store(true)
			c.proxy("web", "n1", ready)
			c.proxy("web", "n2", ready)
			c.losesItsGate()
		})
	}
}

func TestAMirrorHoldsBackOnEachWayToProxies(t *testing.T) {
	c := onGCE(t, -time.Hour)
	c.edit("web", by(options.DatapathProxy))
	c.eventually("the first is over", func() bool {
		return c.daemonSet("web") != nil && len(c.mirror("web").Spec.LoadBalancerSourceRanges) == 0
	})
	c.edit("web", by(options.DatapathDirect))
	c.eventually("the proxies are gone", func() bool { return c.daemonSet("web") == nil && plan.HeldSince(c.mirror("web")).IsZero() })
	c.edit("web", by(options.DatapathProxy))
	c.eventually("it holds back", func() bool { return len(c.mirror("web").Spec.LoadBalancerSourceRanges) > 0 })
}

func TestAGateDoesNotStay(t *testing.T) {
	for name, tc := range map[string]struct {
		age    time.Duration
		change func(*v1.Service)
	}{
		"when its time is over":             {holdTime - 2*time.Second, func(*v1.Service) {}},
		"where clocks differ":               {-time.Hour, func(*v1.Service) {}},
		"at a Service that is not accepted": {young, by("nonsense")},
		"at one that goes back":             {young, by(options.DatapathDirect)},
		"at one that gains source ranges":   {young, func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} }},
		"at one that leaves":                {young, func(svc *v1.Service) { svc.Spec.Type = v1.ServiceTypeClusterIP }},
	} {
		t.Run(name, func(t *testing.T) {
			c := withGates(t, tc.age)
			c.start()
			c.serveOnMetal()
			c.edit("web", by(options.DatapathProxy))
			c.eventually("proxies are begun", func() bool { return c.daemonSet("web") != nil })
			c.edit("web", tc.change)
			if c.settle(); tc.age == young && c.mirror("web") != nil {
				t.Error("it is there until its time is over")
			}
			c.losesItsGate()
			if svc := c.service("web"); svc.Spec.Type == v1.ServiceTypeLoadBalancer {
				c.publishesAs("web", vip, vip)
			}
			c.settle()
			if got := c.gatesMade(); got != 1 {
				t.Errorf("%d gates were made", got)
			}
		})
	}
}

// holdingBack is a cluster where a Service has a gate for both nodes.
func holdingBack(t *testing.T) *cluster {
	c := metal(t, young)
	c.edit("web", by(options.DatapathProxy))
	c.mirrors("web", "203.0.113.1", "203.0.113.2")
	return c
}

func TestAGateThatCannotBeToldGoes(t *testing.T) {
	c := holdingBack(t)
	c.forbid("patch", "no")
	c.proxy("web", "n1", ready)
	c.settle()
	if c.mirror("web") != nil {
		t.Error("it holds back who could be served")
	}
}

func TestAGateGoesWithItsService(t *testing.T) {
	c := holdingBack(t)
	c.delete("web")
	c.eventually("the Service is gone", func() bool { return c.isGone("web") })
	c.nothingLeft("web")
}

func TestProxiesTakeOverWithoutAGate(t *testing.T) {
	ranges := func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"} }
	for name, tc := range map[string]struct {
		prepare func(c *cluster)
		change  []func(*v1.Service)
		tried   int
	}{
		"without the right to make one": {func(c *cluster) { c.forbid("create", `User "x" cannot create resource "services"`) }, nil, 1},
		"in mode iptables":              {func(c *cluster) { c.config.LoadBalancer.KubeProxyMode = config.KubeProxyIPTables }, nil, 0},
		"with source ranges":            {func(*cluster) {}, []func(*v1.Service){ranges}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := withGates(t, young)
			tc.prepare(c)
			c.start()
			c.serveOnMetal(tc.change...)
			c.passesToProxies()
			c.settle()
			if got := c.gatesMade(); got != tc.tried || c.mirror("web") != nil || len(c.warnings("web")) > 0 {
				t.Errorf("%d gates were tried, there is %v, warnings: %q", got, c.mirror("web"), c.warnings("web"))
			}
		})
	}
}

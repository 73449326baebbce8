package reachability

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
)

var (
	v4TCP = group{v1.IPv4Protocol, v1.ProtocolTCP}
	v6TCP = group{v1.IPv6Protocol, v1.ProtocolTCP}
	v4UDP = group{v1.IPv4Protocol, v1.ProtocolUDP}
)

// within is how long an address that fails may stay published.
const within = 30 * time.Second

func TestANodeWithoutItsRulesLeavesAndIsRepaired(t *testing.T) {
	w := newWorld(3, tcp(80))
	w.run(t, 20*time.Second)
	w.flush("n2")
	left, back := time.Duration(0), time.Duration(0)
	began := w.time
	w.runWith(t.Context(), time.Minute, func() {
		others := slices.Contains(w.published(), "203.0.113.1") && slices.Contains(w.published(), "203.0.113.3")
		if !others {
			t.Fatalf("published are %v", w.published())
		}
		switch published := slices.Contains(w.published(), "203.0.113.2"); {
		case !published && left == 0:
			left = w.time.Sub(began)
		case published && left > 0 && back == 0:
			back = w.time.Sub(began)
		}
	})
	if left == 0 || left > within || back == 0 || back > within+15*time.Second {
		t.Errorf("the address left after %s and returned after %s", left, back)
	}
	if diff := cmp.Diff([]string{"n2"}, w.deleted); diff != "" {
		t.Errorf("replaced proxies (-want +got):\n%s", diff)
	}
	if !w.hasEvent("Warning AddressNotReachable", "node n2: port 80/TCP over IPv4 is refused", "withdrawn") || !w.hasEvent("Normal ProxyReplaced", "node n2") {
		t.Errorf("events: %q", w.recorded)
	}
}

func TestAllNodesWithoutTheirRulesAreRepairedOneByOne(t *testing.T) {
	w := newWorld(3, tcp(80))
	w.run(t, 20*time.Second)
	w.flush("n1", "n2", "n3")
	w.runWith(t.Context(), 3*time.Minute, func() {
		if len(w.published()) == 0 {
			t.Fatal("no address is published")
		}
		if w.draining() > 1 {
			t.Fatal("two proxies are replaced at a time")
		}
	})
	if len(w.published()) != 3 || len(w.deleted) != 3 || !w.hasEvent("AddressNotReachable", "stay published") {
		t.Errorf("published are %v, replaced were %v, events: %q", w.published(), w.deleted, w.recorded)
	}
}

func TestANetworkWithoutHostPortsIsReportedAfterOneReplacement(t *testing.T) {
	w := newWorld(3, tcp(80))
	w.hostPorts = nil
	w.flush("n1", "n2", "n3")
	w.runWith(t.Context(), 3*time.Hour, func() {
		if len(w.published()) < 3-w.draining() {
			t.Fatalf("published are %v", w.published())
		}
	})
	if len(w.deleted) != 1 || !w.hasEvent("AddressNotReachable", "stay published") || !w.hasEvent("did not help") {
		t.Errorf("replaced were %v, events: %q", w.deleted, w.recorded)
	}
}

func TestHostPortsForIPv4OnlyWithdrawIPv6AndReplaceNothing(t *testing.T) {
	w := newWorld(2, tcp(80)).dualStack()
	w.run(t, 20*time.Second)
	for _, p := range w.proxies {
		p.rules[v6TCP] = false
	}
	w.run(t, within)
	if diff := cmp.Diff([]string{"203.0.113.1", "203.0.113.2"}, w.published()); diff != "" || len(w.deleted) > 0 || !w.hasEvent("port 80/TCP over IPv6 is refused") {
		t.Errorf("replaced were %v, events: %q, published (-want +got):\n%s", w.deleted, w.recorded, diff)
	}
}

func TestTheRulesOfOneFamilyAreRepairedWhileAnotherNodeHasBoth(t *testing.T) {
	w := newWorld(2, tcp(80)).dualStack()
	w.run(t, 20*time.Second)
	w.proxies["n1"].rules[v6TCP] = false
	w.run(t, time.Minute)
	if len(w.published()) != 4 || !slices.Equal(w.deleted, []string{"n1"}) {
		t.Errorf("published are %v, replaced were %v", w.published(), w.deleted)
	}
}

func TestTrafficAloneProvesThatPacketsArrive(t *testing.T) {
	w := newWorld(2, tcp(80))
	p := port{v4TCP, 80}
	w.run(t, period+syncPeriod)
	w.probes = map[port]int{}
	w.runWith(t.Context(), time.Minute, func() {
		w.client("n1", p)
		w.client("n2", p)
	})
	if w.probes[p] > 0 || len(w.Unreachable(w.svc)) > 0 {
		t.Errorf("%d probes of ports that have traffic, unreachable are %v", w.probes[p], w.Unreachable(w.svc))
	}
}

func TestProbesAreFewAndEachPortHasItsTurn(t *testing.T) {
	w := newWorld(1, tcp(80), tcp(443), v1.ServicePort{Protocol: v1.ProtocolUDP, Port: 53}, v1.ServicePort{Protocol: v1.ProtocolSCTP, Port: 7})
	w.run(t, 10*period)
	want := map[port]int{{v4TCP, 80}: 5, {v4TCP, 443}: 5, {v4UDP, 53}: 10}
	if diff := cmp.Diff(want, w.probes, cmp.AllowUnexported(port{}, group{})); diff != "" {
		t.Errorf("probes in %s (-want +got):\n%s", 10*period, diff)
	}
}

func TestNoMoreThanTenProxiesAreCheckedInASecond(t *testing.T) {
	w := newWorld(100, tcp(80))
	w.runWith(t.Context(), 30*time.Second, func() {
		if w.requests > maxChecks {
			t.Fatalf("%d checks in a second", w.requests)
		}
		w.requests = 0
	})
	w.flush("n77")
	w.run(t, 10*time.Second+4*period)
	if len(w.deleted) == 0 {
		t.Error("the node without rules is not found among many")
	}
}

func TestAUDPServiceIsCheckedByItsRefusals(t *testing.T) {
	w := newWorld(2, v1.ServicePort{Protocol: v1.ProtocolUDP, Port: 53})
	w.run(t, time.Minute)
	if len(w.Unreachable(w.svc)) > 0 {
		t.Error("no answer is taken for a failure")
	}
	w.flush("n2")
	w.run(t, within)
	if !slices.Equal(w.deleted, []string{"n2"}) || !w.hasEvent("port 53/UDP over IPv4 is refused") {
		t.Errorf("replaced were %v, events: %q", w.deleted, w.recorded)
	}
}

func TestWhatHasAnotherCauseThanTheNodeIsNoEvidence(t *testing.T) {
	all := []string{"n1", "n2", "n3"}
	for name, change := range map[string]func(*world){
		"all packets of the prober to other nodes are dropped": func(w *world) {
			w.denies = func(node string, _ port) outcome { return map[bool]outcome{true: silent}[node != "n1"] }
		},
		"the prober has no route": func(w *world) { w.denies = func(string, port) outcome { return aborted } },
		"the prober is cut off from the nodes and the pods": func(w *world) {
			w.denies = func(string, port) outcome { return refused }
			w.cutOff = map[string]bool{"n1": true, "n2": true, "n3": true}
		},
		"proxies do not read their counters": func(w *world) {
			for _, node := range all {
				w.proxies[node].stuck = true
			}
		},
		"two probes of three fail": func(w *world) {
			n := map[string]int{}
			w.denies = func(node string, _ port) outcome {
				n[node]++
				return map[bool]outcome{true: refused}[n[node]%3 > 0]
			}
		},
		"the Service has other ports now": func(w *world) { w.svc.Spec.Ports = []v1.ServicePort{tcp(81)}; w.flush(all...) },
		"kube-proxy serves the Service":   func(w *world) { w.cluster.Direct = func(*v1.Service) bool { return true }; w.flush(all...) },
	} {
		w := newWorld(3, tcp(80))
		w.run(t, 20*time.Second)
		change(w)
		w.runWith(t.Context(), 5*time.Minute, func() {
			if len(w.published()) != 3 || len(w.deleted) > 0 {
				t.Fatalf("%s: published are %v, replaced were %v", name, w.published(), w.deleted)
			}
		})
		if len(w.recorded) > 0 {
			t.Errorf("%s: events %q", name, w.recorded)
		}
	}
}

func TestARefusingFirewallBeforeTheProberCostsOneReplacementAndNoAddress(t *testing.T) {
	w := newWorld(3, tcp(80))
	w.run(t, 20*time.Second)
	w.denies = func(string, port) outcome { return refused }
	began := w.time
	w.runWith(t.Context(), time.Hour, func() {
		w.proxies["n3"].stuck = w.time.Sub(began) < period // So the decision about n3 is the last.
		if len(w.published()) < 3-w.draining() {
			t.Fatalf("published are %v", w.published())
		}
	})
	if len(w.deleted) > 1 {
		t.Errorf("replaced were %v", w.deleted)
	}
}

func TestNoAnswerIsEvidenceOnlyBesideANodeThatAnswers(t *testing.T) {
	w := newWorld(3, tcp(80))
	w.run(t, 20*time.Second)
	w.denies = func(node string, _ port) outcome { return map[bool]outcome{true: silent}[node == "n2"] }
	w.run(t, within+period)
	if !slices.Equal(w.deleted, []string{"n2"}) || !w.hasEvent("port 80/TCP over IPv4 is not answered") {
		t.Errorf("replaced were %v, events: %q", w.deleted, w.recorded)
	}
}

func TestAProcessThatTakesThePortIsReported(t *testing.T) {
	w := newWorld(2, tcp(80))
	w.run(t, 20*time.Second)
	w.denies = func(node string, _ port) outcome { return map[bool]outcome{true: answered}[node == "n2"] }
	w.run(t, within+period)
	if !w.hasEvent("port 80/TCP over IPv4 is answered by something else") {
		t.Errorf("events: %q", w.recorded)
	}
	w.run(t, 10*time.Minute)
	if len(w.deleted) != 1 || !w.hasEvent("did not help") {
		t.Errorf("replaced were %v, events: %q", w.deleted, w.recorded)
	}
}

func TestAWarningNamesFiveNodes(t *testing.T) {
	w := newWorld(8, tcp(80))
	w.run(t, 20*time.Second)
	w.flush("n2", "n3", "n4", "n5", "n6", "n7", "n8")
	w.run(t, within)
	if !w.hasEvent("AddressNotReachable", "node n6: port 80/TCP over IPv4 is refused; and 2 more nodes", "withdrawn") || w.hasEvent("AddressNotReachable", "node n2", "node n7") {
		t.Errorf("events: %q", w.recorded)
	}
	if i := slices.IndexFunc(w.recorded, func(event string) bool { return len(event) > events.MaxMessage }); i >= 0 {
		t.Errorf("a message is too long: %s", w.recorded[i])
	}
}

func TestAProxyThatCannotBeReplacedIsTriedAgainAfterAnHour(t *testing.T) {
	w := newWorld(2, tcp(80))
	w.run(t, 20*time.Second)
	w.refuse = true
	w.flush("n1")
	w.run(t, within)
	w.refuse = false
	w.run(t, again-2*within)
	if len(w.deleted) > 0 {
		t.Error("it is tried again soon")
	}
	if w.run(t, 3*within); len(w.deleted) != 1 {
		t.Error("it is not tried again")
	}
}

func TestAServiceWithoutProxiesIsForgotten(t *testing.T) {
	w := newWorld(1, tcp(80))
	w.flush("n1")
	w.run(t, within)
	w.svc = &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "other", UID: "v"}}
	w.run(t, memory+time.Second)
	if len(w.detector.places) > 0 || len(w.warned) > 0 || w.repairs.current != nil {
		t.Errorf("remembered are %v, %v and %v", w.detector.places, w.warned, w.repairs.current)
	}
}

func TestAProxyThatIsNotReadyForLongIsReportedInItsOwnWords(t *testing.T) {
	w := newWorld(2, tcp(80))
	w.reasons = `"no forwarding"`
	w.proxies["n2"].pod.Status.Conditions[0] = v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: metav1.Time{Time: w.time}}
	w.run(t, startTime-time.Second)
	if len(w.recorded) > 0 {
		t.Errorf("reported early: %q", w.recorded)
	}
	w.run(t, time.Second)
	want := `Warning ProxyNotReady proxy pod hostport-system/proxy-2 on node n2 has not been Ready for more than 30 s: it answers "no forwarding"`
	if diff := cmp.Diff([]string{want}, w.recorded); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	w.reasons = `"other words"`
	w.run(t, 10*time.Minute)
	if len(w.recorded) > 1 {
		t.Errorf("repeated: %q", w.recorded[1:])
	}
}

func TestAProxyThatDoesNotSayWhyItIsNotReadyIsReportedToo(t *testing.T) {
	w := newWorld(2, tcp(80))
	for _, p := range w.proxies {
		p.pod.Status.Conditions[0] = v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: metav1.Time{Time: w.time}}
	}
	w.run(t, startTime)
	if !w.hasEvent("ProxyNotReady", "kubectl logs -n hostport-system proxy-") {
		t.Errorf("events: %q", w.recorded)
	}
}

func TestOnlyRunningProxiesOnReadyNodesWithoutAKnownProblemAreAsked(t *testing.T) {
	for name, change := range map[string]func(*world, *v1.Pod){
		"pending":     func(_ *world, p *v1.Pod) { p.Status.Phase = v1.PodPending },
		"failed":      func(_ *world, p *v1.Pod) { p.Status.Phase = v1.PodFailed },
		"terminating": func(w *world, p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: w.time} },
		"crashing": func(_ *world, p *v1.Pod) {
			p.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
		},
		"on a node that is down": func(w *world, _ *v1.Pod) { w.nodes[0].Status.Conditions[0].Status = v1.ConditionUnknown },
	} {
		w := newWorld(1, tcp(80))
		pod := w.proxies["n1"].pod
		pod.Status.Conditions[0].Status = v1.ConditionFalse
		change(w, pod)
		w.run(t, 2*startTime)
		if w.requests > 0 || len(w.recorded) > 0 {
			t.Errorf("%s: %d requests, events %q", name, w.requests, w.recorded)
		}
	}
}

// Whatever happens to rules, prober and traffic: no two proxies are replaced at a time, none twice in
// an hour, an address leaves only after several failed probes, and the last one stays.
func TestTheMonitorDoesNoHarm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 4).Draw(t, "nodes"), tcp(80), v1.ServicePort{Protocol: v1.ProtocolUDP, Port: 53})
		nodes := slices.Sorted(maps.Keys(w.proxies))
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			node := rapid.SampledFrom(nodes).Draw(t, "node")
			switch rapid.SampledFrom([]string{"flush", "cut off", "deny", "stuck", "restore", "traffic"}).Draw(t, "change") {
			case "flush":
				w.flush(node)
			case "cut off":
				w.cutOff[node] = !w.cutOff[node]
			case "deny":
				o := rapid.SampledFrom([]outcome{"", refused, silent, aborted, answered}).Draw(t, "outcome")
				w.denies = func(n string, _ port) outcome { return map[bool]outcome{true: o}[n == node] }
			case "stuck":
				w.proxies[node].stuck = !w.proxies[node].stuck
			case "restore":
				w.create(node)
			case "traffic":
				w.client(node, port{v4TCP, 80})
			}
			w.runWith(context.Background(), time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds"))*time.Second, func() {
				if w.draining() > 1 {
					t.Fatal("two proxies are replaced at a time")
				}
				if len(w.published()) == 0 && w.draining() < len(nodes) {
					t.Fatal("no address is published")
				}
			})
		}
		if twice := slices.Compact(slices.Sorted(slices.Values(w.deleted))); len(twice) < len(w.deleted) {
			t.Fatal(fmt.Sprint("replaced twice within an hour: ", w.deleted))
		}
	})
}

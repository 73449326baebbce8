//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/chaos"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// chaosFault is a kind of fault.
type chaosFault struct {
	name string
	// alone is true if no other fault is injected at the same time, as the documentation promises
	// nothing for two such faults.
	alone bool
	// hold is how long the fault may last. Zero: it has happened when it was injected.
	hold  time.Duration
	limit chaos.Limit
	// possible reports whether it can be injected now. Nil: always.
	possible func() bool
	// inject returns what exactly it did, and a function that ends the fault.
	inject func(t *testing.T) (what string, undo func())
}

func (f chaosFault) isPossible() bool { return f.possible == nil || f.possible() }

func allChaosFaults(r *chaosRun) []chaosFault {
	none := chaos.Limit{}
	return []chaosFault{
		{name: "leader killed", limit: none, inject: r.killLeader},
		{name: "proxy killed", limit: none, inject: r.killProxy},
		{name: "proxy deleted", limit: chaos.Limit{Proxy: 3 * time.Second, Ends: chaos.ProxiedConnections, Source: "datapath-proxy.md"}, inject: r.deleteProxy},
		{name: "node powered off", alone: true, hold: 70 * time.Second, inject: r.powerOff,
			limit: chaos.Limit{Proxy: 12 * time.Second, Direct: 12 * time.Second, Ends: chaos.AnyConnection, Source: "failover.md"}},
		{name: "node cut off from the API server", alone: true, hold: 80 * time.Second, limit: none, inject: r.cutNode},
		{name: "API server cut off from all nodes", alone: true, hold: 25 * time.Second, limit: none, inject: r.cutAllNodes},
		{name: "proxy's rules deleted", limit: chaos.Limit{Proxy: 2 * time.Second, Source: "datapath-proxy.md"}, inject: r.flushProxy},
		{name: "node's rules deleted", alone: true, inject: r.flushNode, possible: func() bool { return len(r.unflushedNodes()) > 0 },
			limit: chaos.Limit{Proxy: 25 * time.Second, Direct: 30 * time.Second, Ends: chaos.AnyConnection, Source: "reachability.md"}},
		{name: "DaemonSet deleted", limit: chaos.Limit{Proxy: 5 * time.Second, Ends: chaos.ProxiedConnections, Source: "datapath-proxy.md"}, inject: r.deleteDaemonSet},
		{name: "ConfigMap deleted", limit: none, inject: r.deleteConfigMap},
		{name: "mirror deleted", limit: chaos.Limit{Direct: 2 * time.Second, Source: "datapath-direct.md"}, inject: r.deleteMirror},
		{name: "mirror's status emptied", limit: chaos.Limit{Direct: 2 * time.Second, Source: "datapath-direct.md"}, inject: r.emptyMirror},
		{name: "firewall rule deleted", alone: true, inject: r.deleteRule,
			limit: chaos.Limit{Proxy: time.Minute, Direct: time.Minute, Ends: chaos.AnyConnection, Source: "firewall.md"}},
		{name: "Compute API fails", hold: 30 * time.Second, limit: none, inject: r.failCompute},
		{name: "firewall quota filled", hold: 15 * time.Second, limit: none, inject: r.fillQuota},
		{name: "kubelet restarted", limit: none, inject: r.restart(cluster.Kubelet)},
		{name: "containerd restarted", limit: none, inject: r.restart(cluster.Containerd)},
		{name: "kube-proxy restarted", limit: none, inject: r.restart(cluster.KubeProxy)},
	}
}

func (r *chaosRun) randomNode() cluster.Node {
	nodes := cluster.Nodes(cluster.GCE)
	return nodes[r.random.Rand.IntN(len(nodes))]
}

// randomService returns one of the Services of a datapath.
func (r *chaosRun) randomService(direct bool) chaosService {
	for {
		if s := r.services[r.random.Rand.IntN(len(r.services))]; s.direct == direct {
			return s
		}
	}
}

func (r *chaosRun) killLeader(t *testing.T) (string, func()) {
	t.Helper()
	eventually(t, time.Minute, "somebody leads", func(ctx context.Context) error { return leadsInsteadOf(ctx, "") })
	kill, name := leadersKiller(t), leadersPod(t).Name
	kill()
	return name, func() {}
}

// randomProxy returns a proxy, when it is ready.
func (r *chaosRun) randomProxy(t *testing.T) (found proxy) {
	t.Helper()
	svc, node := r.randomService(false), r.randomNode()
	eventually(t, time.Minute, "the proxy on "+node.Name+" is ready", func(ctx context.Context) error {
		ready, err := proxiesOf(ctx, svc.Service)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(ready, func(p proxy) bool { return p.node == node.Name })
		if i < 0 {
			return errors.New("it is not")
		}
		found = ready[i]
		return nil
	})
	return found
}

// killProxy kills a proxy's process, which is restarted in the same pod.
func (r *chaosRun) killProxy(t *testing.T) (string, func()) {
	t.Helper()
	p := r.randomProxy(t)
	pid, err := p.pid()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "kill", "-KILL", pid).CombinedOutput(); err != nil {
		t.Fatalf("kill %s: %v: %s", p.name, err, out)
	}
	return p.name + " on " + p.node, func() {}
}

func (r *chaosRun) deleteProxy(t *testing.T) (string, func()) {
	t.Helper()
	p, options, how := r.randomProxy(t), metav1.DeleteOptions{}, ""
	if r.random.Rand.IntN(2) == 0 {
		options.GracePeriodSeconds, how = ptr.To[int64](0), ", by force"
	}
	if err := client.CoreV1().Pods(cluster.ProductNamespace).Delete(t.Context(), p.name, options); err != nil {
		t.Fatal(err)
	}
	return p.name + " on " + p.node + how, func() {}
}

// powerOff powers a node off without a backend on it.
func (r *chaosRun) powerOff(t *testing.T) (string, func()) {
	t.Helper()
	node := r.randomNode()
	r.stopBackend(t, node.Name)
	t.Cleanup(func() { _ = sandbox.StartNode(context.WithoutCancel(t.Context()), node.Name) }) // It is on unless the test failed.
	if err := sandbox.StopNode(t.Context(), node.Name); err != nil {
		t.Fatal(err)
	}
	return node.Name, func() {
		if err := sandbox.StartNode(t.Context(), node.Name); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Minute, node.Name+" is Ready", allNodesReady)
		r.startBackend(t, node.Name)
	}
}

func (r *chaosRun) cutNode(t *testing.T) (string, func()) {
	t.Helper()
	node := r.randomNode()
	return node.Name, cutOff(t, node)
}

func (r *chaosRun) cutAllNodes(t *testing.T) (string, func()) {
	t.Helper()
	return "", cutOff(t, cluster.Nodes(cluster.GCE)...)
}

// cutOff makes the API server's host drop packets of nodes to the API server. The returned function ends
// that, and fails the test if there were none.
func cutOff(t *testing.T, nodes ...cluster.Node) (undo func()) {
	t.Helper()
	nft := func(rules string) string {
		out, err := sandbox.Exec(context.WithoutCancel(t.Context()), cluster.Control, "nft", rules)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	nft(fmt.Sprintf("add table inet cutoff; add chain inet cutoff in { type filter hook input priority 0; }; add rule inet cutoff in ip saddr { %s } tcp dport 6443 counter drop",
		strings.Join(ips(nodes, internalIP), ", ")))
	done := false
	undo = func() {
		if done {
			return
		}
		done = true
		if match := packetsCounted.FindStringSubmatch(nft("list table inet cutoff")); match == nil || match[1] == "0" {
			t.Errorf("no packet to the API server was dropped: %v", match)
		}
		nft("delete table inet cutoff")
	}
	t.Cleanup(undo)
	return undo
}

func (r *chaosRun) flushProxy(t *testing.T) (string, func()) {
	t.Helper()
	p := r.randomProxy(t)
	program, table := []string{"iptables-nft", "ip6tables-nft"}[r.random.Rand.IntN(2)], []string{"nat", "filter"}[r.random.Rand.IntN(2)]
	if out, err := p.inNamespace(t.Context(), program, "-t", table, "-F"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return fmt.Sprintf("%s -t %s -F in %s on %s", program, table, p.name, p.node), func() {}
}

// flushNode deletes all rules of a node, as the reload of a firewall does: those of kube-proxy and those
// of the network plugin.
func (r *chaosRun) flushNode(t *testing.T) (string, func()) {
	t.Helper()
	nodes := r.unflushedNodes()
	node := nodes[r.random.Rand.IntN(len(nodes))]
	r.flushed[node.Name] = true
	if _, err := sandbox.Exec(t.Context(), node.Name, "nft", "flush", "ruleset"); err != nil {
		t.Fatal(err)
	}
	return node.Name, func() {}
}

// unflushedNodes returns the nodes whose rules were not deleted yet. No proxy is replaced twice within an
// hour, so a second time would not be repaired.
func (r *chaosRun) unflushedNodes() []cluster.Node {
	return slices.DeleteFunc(cluster.Nodes(cluster.GCE), func(n cluster.Node) bool { return r.flushed[n.Name] })
}

func (r *chaosRun) deleteDaemonSet(t *testing.T) (string, func()) {
	t.Helper()
	propagation := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan}[r.random.Rand.IntN(2)]
	name := r.objectOf(t, "DaemonSet")
	options := metav1.DeleteOptions{PropagationPolicy: &propagation}
	if err := client.AppsV1().DaemonSets(cluster.ProductNamespace).Delete(t.Context(), name, options); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s, propagation %s", name, propagation), func() {}
}

func (r *chaosRun) deleteConfigMap(t *testing.T) (string, func()) {
	t.Helper()
	name := r.objectOf(t, "ConfigMap")
	if err := client.CoreV1().ConfigMaps(cluster.ProductNamespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return name, func() {}
}

// objectOf waits for an object of a kind that was made for a Service with proxies, and returns its name.
func (r *chaosRun) objectOf(t *testing.T, kind string) (name string) {
	t.Helper()
	svc := r.randomService(false)
	eventually(t, time.Minute, svc.Name+" has a "+kind, func(ctx context.Context) error {
		all, err := orphansOf(ctx, svc.Service)
		if err != nil {
			return err
		}
		for _, object := range all {
			if of, found := strings.CutPrefix(object, kind+" "); found {
				name = of
				return nil
			}
		}
		return fmt.Errorf("it has %v", all)
	})
	return name
}

func (r *chaosRun) randomMirror(t *testing.T) (mirror *v1.Service) {
	t.Helper()
	svc := r.randomService(true)
	eventually(t, time.Minute, "there is a mirror of "+svc.Name, func(ctx context.Context) (err error) {
		mirror, err = mirrorOf(ctx, svc.Service)
		return err
	})
	return mirror
}

func (r *chaosRun) deleteMirror(t *testing.T) (string, func()) {
	t.Helper()
	mirror := r.randomMirror(t)
	err := asHostportCCM(t).CoreV1().Services(mirror.Namespace).Delete(t.Context(), mirror.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return mirror.Name, func() {}
}

func (r *chaosRun) emptyMirror(t *testing.T) (string, func()) {
	t.Helper()
	mirror := r.randomMirror(t)
	emptyStatus(t, mirror)
	return mirror.Name, func() {}
}

func (r *chaosRun) deleteRule(t *testing.T) (string, func()) {
	t.Helper()
	svc := r.services[r.random.Rand.IntN(len(r.services))]
	rules := ruleNames(t, svc.Service)
	if len(rules) == 0 {
		t.Fatalf("Service %s has no rule", svc.Name)
	}
	rule := rules[r.random.Rand.IntN(len(rules))]
	deleteRule(t, rule)
	return rule + " of Service " + svc.Name, func() {}
}

// failCompute makes every change of the firewall fail, slow or lie.
func (r *chaosRun) failCompute(t *testing.T) (string, func()) {
	t.Helper()
	fault := gcesim.Fault{Kind: gcesim.FaultKinds[r.random.Rand.IntN(len(gcesim.FaultKinds))]}
	if fault.Kind == gcesim.FaultLatency {
		fault.Latency = metav1.Duration{Duration: 5 * time.Second}
	}
	// Instances that are not found are nodes that were deleted.
	fault.Verb = "firewalls.*"
	if err := sim.AddFault(t.Context(), fault); err != nil {
		t.Fatal(err)
	}
	undo := func() {
		if err := sim.ClearFaults(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(undo)
	return string(fault.Kind), undo
}

// fillQuota leaves no room for firewall rules beyond those that there are.
func (r *chaosRun) fillQuota(t *testing.T) (string, func()) {
	t.Helper()
	set := func(n int) {
		if err := sim.Set(context.WithoutCancel(t.Context()), gcesim.Settings{FirewallQuota: &n}); err != nil {
			t.Error(err)
		}
	}
	state, err := sim.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	set(len(state.Firewalls))
	undo := func() { set(100) }
	t.Cleanup(undo)
	return fmt.Sprintf("%d rules", len(state.Firewalls)), undo
}

func (r *chaosRun) restart(program cluster.Program) func(t *testing.T) (string, func()) {
	return func(t *testing.T) (string, func()) {
		t.Helper()
		node := r.randomNode()
		if err := sandbox.Restart(t.Context(), node.Name, program); err != nil {
			t.Fatal(err)
		}
		return node.Name, func() {}
	}
}

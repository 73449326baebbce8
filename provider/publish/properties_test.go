package publish

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// drawInput draws the input of a cluster with up to five nodes.
func drawInput(t *rapid.T) Input {
	in := Input{
		Addresses: rapid.SampledFrom([]options.Addresses{options.External, options.Internal, options.ExternalOrInternal}).Draw(t, "addresses"),
		MaxNodes:  rapid.IntRange(0, 4).Draw(t, "max"),
		Families:  rapid.SampledFrom([][]v1.IPFamily{nil, {v1.IPv4Protocol}, {v1.IPv6Protocol}, {v1.IPv6Protocol, v1.IPv4Protocol}}).Draw(t, "families"),
		IPMode:    modes,
		Local:     rapid.Bool().Draw(t, "local"),
		Endpoints: map[string]bool{},
		Direct:    map[string]bool{},
		Now:       now,

		ServingEndpoints: map[string]bool{},
		Unreached:        map[string][]v1.IPFamily{},
	}
	for range rapid.IntRange(1, 2).Draw(t, "sets") {
		in.Sets = append(in.Sets, ProxySet{Ports: []snapshot.Port{web}, Created: rapid.SampledFrom([]time.Time{{}, now}).Draw(t, "since")})
	}
	for n := range rapid.IntRange(0, 5).Draw(t, "nodes") {
		changes := []func(*v1.Node){inZone(rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "zone"))}
		if rapid.Bool().Draw(t, "v6") {
			changes = append(changes, func(node *v1.Node) {
				node.Status.Addresses = append(node.Status.Addresses, external(fmt.Sprint("2001:db8::", n+1)))
			})
		}
		if rapid.IntRange(0, 3).Draw(t, "down") == 0 {
			changes = append(changes, notReady)
		}
		if taint := rapid.SampledFrom([]string{"", "", servicecontroller.ToBeDeletedTaint, v1.TaintNodeOutOfService}).Draw(t, "taint"); taint != "" {
			changes = append(changes, withTaint(taint))
		}
		in.Nodes = append(in.Nodes, node(n+1, changes...))
		endpoint := rapid.IntRange(0, 2).Draw(t, "endpoint") // None, one that serves, one that is ready.
		in.ServingEndpoints[fmt.Sprint("n", n+1)], in.Endpoints[fmt.Sprint("n", n+1)] = endpoint > 0, endpoint > 1
		if rapid.IntRange(0, 2).Draw(t, "unreachable") == 0 {
			in.Unreached[fmt.Sprint("n", n+1)] = rapid.SampledFrom([][]v1.IPFamily{{v1.IPv4Protocol}, {v1.IPv6Protocol}, {v1.IPv4Protocol, v1.IPv6Protocol}}).Draw(t, "in")
		}
		in.Direct[fmt.Sprint("n", n+1)] = rapid.IntRange(0, 3).Draw(t, "direct") == 0
		for i := range in.Sets {
			if rapid.IntRange(0, 3).Draw(t, "pod") > 0 {
				in.Sets[i].Pods = append(in.Sets[i].Pods, pod(n+1, rapid.IntRange(0, 3).Draw(t, "ready") > 0, withPort(rapid.SampledFrom([]int32{web.Number, web.Number, 81}).Draw(t, "port"))))
			}
		}
		if rapid.Bool().Draw(t, "published") {
			in.Previous.Ingress = append(in.Previous.Ingress, v1.LoadBalancerIngress{IP: fmt.Sprint("203.0.113.", n+1)})
		}
	}
	return in
}

func TestStatusInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		got := Status(in)
		if serving := nodesOf(in, got); in.MaxNodes > 0 && len(serving) > in.MaxNodes {
			t.Fatalf("published %d nodes, want at most %d", len(serving), in.MaxNodes)
		}
		for i, entry := range got.Ingress {
			if entry.IP == "" || entry.IPMode == nil || *entry.IPMode == "" {
				t.Fatalf("incomplete entry %+v", entry)
			}
			if slices.ContainsFunc(got.Ingress[:i], func(e v1.LoadBalancerIngress) bool { return e.IP == entry.IP }) {
				t.Fatalf("%s is published twice", entry.IP)
			}
		}
		// What is published counts in what is published next, so the first status may change once.
		again := in
		again.Previous = *got
		second := Status(again)
		again.Previous = *second
		if diff := cmp.Diff(second, Status(again)); diff != "" {
			t.Fatalf("the status is not stable (-second +third):\n%s", diff)
		}
		kept := filter(in.Previous.Ingress, func(p v1.LoadBalancerIngress) bool { return slices.Contains(ips(got), p.IP) })
		for i, entry := range kept {
			if got.Ingress[i].IP != entry.IP {
				t.Fatalf("%v is not at the place that it has in %v", entry.IP, ips(&in.Previous))
			}
		}
		shuffled := in
		shuffled.Nodes = rapid.Permutation(in.Nodes).Draw(t, "order")
		if diff := cmp.Diff(got, Status(shuffled)); diff != "" {
			t.Fatalf("the status depends on the order of nodes (-want +got):\n%s", diff)
		}
	})
}

func nodesOf(in Input, s *v1.LoadBalancerStatus) []string {
	var names []string
	for _, n := range in.Nodes {
		for _, a := range n.Status.Addresses {
			if slices.Contains(ips(s), a.Address) && !slices.Contains(names, n.Name) {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

func TestNoUnhealthyNodeIsPublishedBesideAHealthyOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t).Indexed()
		usable := func(node *v1.Node) bool {
			return healthy(node) && (in.serves(node) || in.awaitsNewPorts(node)) && len(in.addresses(node)) > 0
		}
		if len(filter(in.Nodes, usable)) == 0 {
			return
		}
		for _, name := range nodesOf(in, Status(in)) {
			i := slices.IndexFunc(in.Nodes, func(n *v1.Node) bool { return n.Name == name })
			if !usable(in.Nodes[i]) {
				t.Fatalf("node %s is published and does not serve", name)
			}
		}
	})
}

// The status does not become empty while any node may still serve, for any change of the input.
func TestTheLastAddressStaysWhileAnyNodeMayServe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := drawInput(t)
		in := drawInput(t)
		in.Addresses, in.Families, in.Previous = before.Addresses, before.Families, *Status(before)
		in = in.Indexed()
		mayServe := func(node *v1.Node) bool {
			lives := in.isPublished(node) && !leaving(node)
			serving := NodeReady(node) && !tainted(node, v1.TaintNodeOutOfService) && in.servesSome(node)
			return len(in.addresses(node)) > 0 && (lives || serving)
		}
		if candidates := filter(in.Nodes, mayServe); len(candidates) > 0 && len(in.Previous.Ingress) > 0 && len(Status(in).Ingress) == 0 {
			t.Fatalf("nothing is published although %s may serve", candidates[0].Name)
		}
	})
}

// Observations of a prober can be wrong, so they withdraw addresses only in favour of others.
func TestUnreachableNodesLeaveOnlyWhileOthersStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t).Indexed()
		without := in
		without.Unreached = nil
		got, all := Status(in), Status(without)
		if len(got.Ingress) == 0 && len(all.Ingress) > 0 {
			t.Fatalf("unreachable nodes leave no address of %v", ips(all))
		}
		answers := func(entry v1.LoadBalancerIngress) bool {
			return slices.ContainsFunc(in.Nodes, func(node *v1.Node) bool {
				return slices.ContainsFunc(in.addresses(node), func(a address) bool {
					return a.ip.String() == entry.IP && in.reaches(node, family(a.ip))
				})
			})
		}
		if reached := filter(got.Ingress, answers); len(reached) > 0 && len(reached) < len(got.Ingress) {
			t.Fatalf("of %v only %d are reachable", ips(got), len(reached))
		}
	})
}

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	nodeutil "k8s.io/component-helpers/node/util"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// published has the addresses of each Service, in order.
type published map[types.NamespacedName][]string

func publishedBy(services []*v1.Service) published {
	all := published{}
	for _, svc := range services {
		addresses := []string{}
		for _, entry := range svc.Status.LoadBalancer.Ingress {
			addresses = append(addresses, entry.IP)
		}
		all[keyOf(svc)] = addresses
	}
	return all
}

// changed returns how many Services have other addresses than before.
func (p published) changed(before published) int {
	count := 0
	for key, addresses := range p {
		if !slices.Equal(addresses, before[key]) {
			count++
		}
	}
	return count
}

// wrongAddresses returns a line for each Service of a scene whose addresses are not what the nodes
// demand, at most ten. With proxies these are the external addresses of all Ready nodes. With
// datapath direct they are those of maxNodes Ready nodes: of nodes that were published before, as
// long as these are good, and of the others so that zones are shared evenly.
func (s scene) wrongAddresses(services []*v1.Service, nodes []*v1.Node, before published) []string {
	good := goodNodes(nodes)
	var wrong []string
	if len(services) != s.services() {
		wrong = append(wrong, fmt.Sprintf("there are %d Services", len(services)))
	}
	for _, svc := range services {
		if reason := wrongAddressesOf(svc, good, before[keyOf(svc)]); reason != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %s", keyOf(svc), reason))
		}
		if len(wrong) == 10 {
			return wrong
		}
	}
	return wrong
}

// goodNodes returns the zone of each Ready node's external address.
func goodNodes(nodes []*v1.Node) map[string]string {
	good := map[string]string{}
	for _, n := range nodes {
		if _, ready := nodeutil.GetNodeCondition(&n.Status, v1.NodeReady); ready == nil || ready.Status != v1.ConditionTrue {
			continue
		}
		if ip := addressOf(n, v1.NodeExternalIP); ip != "" {
			good[ip] = n.Labels[v1.LabelTopologyZone]
		}
	}
	return good
}

func addressOf(n *v1.Node, kind v1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return ""
}

func wrongAddressesOf(svc *v1.Service, good map[string]string, before []string) string {
	want := len(good)
	if isDirect(svc) {
		want = min(want, maxNodes)
	}
	seen, perZone := map[string]bool{}, map[string]int{}
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		zone, ok := good[entry.IP]
		if !ok || seen[entry.IP] {
			return fmt.Sprintf("address %s is not of a Ready node, or is there twice", entry.IP)
		}
		if entry.IPMode == nil || *entry.IPMode != v1.LoadBalancerIPModeVIP {
			return fmt.Sprintf("address %s does not have ipMode VIP", entry.IP)
		}
		seen[entry.IP] = true
		perZone[zone]++
	}
	if len(seen) != want {
		return fmt.Sprintf("%d addresses instead of %d", len(seen), want)
	}
	kept := 0
	for _, ip := range before {
		if _, ok := good[ip]; ok && !seen[ip] {
			return fmt.Sprintf("address %s has left although its node is good", ip)
		} else if ok {
			kept++
		}
	}
	if counts := slices.Collect(maps.Values(perZone)); isDirect(svc) && kept == 0 && slices.Max(counts) > 1 {
		return fmt.Sprintf("addresses of %d zones instead of %d", len(counts), maxNodes)
	}
	return ""
}

// wrongMirror returns what is wrong with the mirror of a Service: it lists the internal addresses of
// nodes, of all published ones among them, and of at most twice maxNodes.
func wrongMirror(mirror, svc *v1.Service, nodes []*v1.Node) string {
	internal := map[string]string{}
	for _, n := range nodes {
		internal[addressOf(n, v1.NodeInternalIP)] = addressOf(n, v1.NodeExternalIP)
	}
	served := map[string]bool{}
	for _, entry := range mirror.Status.LoadBalancer.Ingress {
		external, ok := internal[entry.IP]
		if !ok {
			return fmt.Sprintf("the mirror of %s has address %s, which no node has", keyOf(svc), entry.IP)
		}
		served[external] = true
	}
	if len(served) > 2*maxNodes {
		return fmt.Sprintf("the mirror of %s has %d nodes, want at most %d", keyOf(svc), len(served), 2*maxNodes)
	}
	for _, entry := range svc.Status.LoadBalancer.Ingress {
		if !served[entry.IP] {
			return fmt.Sprintf("the mirror of %s does not serve the node with address %s", keyOf(svc), entry.IP)
		}
	}
	return ""
}

// wrongPorts compares the ports that firewall rules allow with those of the Services.
func wrongPorts(rules []gcesim.Firewall, services []*v1.Service) (string, error) {
	allowed, err := allowedPorts(rules)
	if err != nil {
		return "", err
	}
	want := map[int]bool{}
	for _, svc := range services {
		want[int(svc.Spec.Ports[0].Port)] = true
	}
	if !maps.Equal(allowed, want) {
		return fmt.Sprintf("the firewall allows %d ports; the Services have %d", len(allowed), len(want)), nil
	}
	return "", nil
}

func allowedPorts(rules []gcesim.Firewall) (map[int]bool, error) {
	ports := map[int]bool{}
	for _, rule := range rules {
		for _, match := range rule.Allowed {
			for _, written := range match.Ports {
				first, last, isRange := strings.Cut(written, "-")
				if !isRange {
					last = first
				}
				from, err1 := strconv.Atoi(first)
				to, err2 := strconv.Atoi(last)
				if err1 != nil || err2 != nil {
					return nil, fmt.Errorf("firewall rule %s has ports %q", rule.Name, written)
				}
				for port := from; port <= to; port++ {
					ports[port] = true
				}
			}
		}
	}
	return ports, nil
}

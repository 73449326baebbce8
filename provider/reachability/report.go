package reachability

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
)

// Reasons of events.
const (
	ReasonUnreachable = "AddressNotReachable"
	ReasonReplaced    = "ProxyReplaced"
	ReasonNotReady    = "ProxyNotReady"
)

const (
	// maxNodes is how many nodes an event names.
	maxNodes = 5
	// guide is where the documentation says what to do.
	guide = "docs/how-to/troubleshoot.md, \"A node's rules are gone\""
)

// warn records the warnings about all Services with proxies.
func (m *Monitor) warn(services map[types.UID][]target) {
	findings, warned := m.detector.findings(), map[types.UID]*v1.Service{}
	for uid, targets := range services {
		svc := targets[0].svc
		delete(m.warned, uid)
		warned[uid] = svc
		var warnings []events.Warning
		if message := m.notReadyMessage(targets); message != "" {
			// A proxy that repeats itself in other words is no news.
			warnings = append(warnings, events.Warning{Reason: ReasonNotReady, Message: message, Key: "not ready"})
		}
		if w, found := unreachableWarning(targets, findings, m.repairs.useless[uid]); found {
			warnings = append(warnings, w)
		}
		m.events.Warn(svc, warnings)
	}
	for _, svc := range m.warned { // They have no proxies any more.
		m.events.Warn(svc, nil)
	}
	m.warned = warned
}

// unreachableWarning returns the warning about the nodes of a Service whose addresses have left its
// status, or that stay because no other node serves.
func unreachableWarning(targets []target, findings map[place][]finding, useless bool) (events.Warning, bool) {
	var left, staying []target
	answers := false
	for _, t := range targets {
		switch found := findings[t.place]; {
		case len(found) == 0:
			answers = true
		case withdrawn(t.svc, t.node, familiesOf(found)):
			left = append(left, t)
		default:
			staying = append(staying, t)
		}
	}
	affected, consequence := left, "These addresses are withdrawn until they do"
	if len(left) == 0 {
		affected, consequence = staying, "The addresses stay published, because no other node serves"
	}
	if len(affected) == 0 || len(left) == 0 && answers { // In the second case, the status is about to change.
		return events.Warning{}, false
	}
	var nodes, lost []string
	for _, t := range affected {
		nodes = append(nodes, t.node.Name)
		lost = append(lost, fmt.Sprintf("node %s: %s", t.node.Name, describe(findings[t.place])))
	}
	more := ""
	if n := len(lost) - maxNodes; n > 0 {
		lost, more = lost[:maxNodes], fmt.Sprintf("; and %d more nodes", n)
	}
	cause := "The nodes' rules for host ports are lost (by a reload of a firewall, nft flush ruleset or iptables -F), or the network plugin does not support host ports"
	if useless {
		cause = "Replacing a proxy did not help: check that the network plugin supports host ports in all IP families of the Service, and what else has the port"
	}
	return events.Warning{
		Reason:  ReasonUnreachable,
		Message: fmt.Sprintf("Packets do not reach proxies that are Ready (%s%s). %s. %s: see %s", strings.Join(lost, "; "), more, consequence, cause, guide),
		Key:     fmt.Sprint(nodes, consequence, useless),
	}, true
}

// describe describes what was seen at the ports of a node.
func describe(findings []finding) string {
	var list []string
	for _, f := range findings {
		seen := map[outcome]string{
			refused: "is refused", silent: "is not answered", answered: "is answered by something else",
		}[f.last]
		list = append(list, fmt.Sprintf("port %d/%s over %s %s", f.port.number, f.port.protocol, f.port.family, seen))
	}
	return strings.Join(list, ", ")
}

func replacedMessage(t target, findings []finding) string {
	return fmt.Sprintf("proxy pod %s/%s is replaced, so that node %s gets its rules for host ports again: packets did not reach it (%s)",
		t.pod.Namespace, t.pod.Name, t.node.Name, describe(findings))
}

func familiesOf(findings []finding) []v1.IPFamily {
	var families []v1.IPFamily
	for _, f := range findings {
		families = append(families, f.port.family)
	}
	slices.Sort(families)
	return slices.Compact(families)
}

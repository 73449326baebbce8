// Package options reads what a Service's annotations ask of us. It knows how
// they are written, not what follows from them: see packages plan and publish.
package options

import (
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Prefix is in front of every name of ours: annotations, labels, finalizer.
const Prefix = "hostport-ccm.io/"

// The annotations of a Service. They are annotations and not labels because
// the service controller does not notice edits of labels.
const (
	// NodeSelector restricts the nodes that serve the Service, by a label
	// selector as kubectl takes it: "pool=edge,!slow". Default: all nodes.
	// Those excluded from load balancers never serve.
	NodeSelector = Prefix + "node-selector"

	// MaxNodes publishes the addresses of at most this many nodes, spread
	// over zones. A node that is published stays as long as it serves. All
	// selected nodes run a proxy, so that one can step in at once.
	// Default: no limit.
	MaxNodes = Prefix + "max-nodes"

	// NodeAddresses chooses which of a node's addresses are published:
	// "external", "internal", or "external-or-internal", which takes the
	// internal one where a node has no external one. An IPv6 address that is
	// internal by name but public counts as external where there is no other.
	// Default: by the cloud config.
	NodeAddresses = Prefix + "addresses"

	// Tolerations lets tainted nodes serve, with a proxy or directly: a JSON or
	// YAML list as in a pod's spec. It replaces the list in the cloud config.
	Tolerations = Prefix + "tolerations"

	// PriorityClassName is the priority class of the proxy pods.
	// Default: by the cloud config.
	PriorityClassName = Prefix + "priority-class-name"

	// Firewall says what happens at the cloud's firewall: "managed" opens
	// the ports, "report" changes nothing and tells the gcloud commands that
	// somebody has to run, "none" opens nothing and removes what was opened
	// for this Service before. It may not ask for more than the cloud config
	// does, whose "none" leaves rules made earlier to you. Default: by the cloud config.
	Firewall = Prefix + "firewall"

	// Datapath is how packets reach the Service: "proxy" by a hostPort pod on
	// every node; "direct" by kube-proxy alone, which preserves the client's
	// address if externalTrafficPolicy is Local; "auto" by direct for policy
	// Local and by proxy for Cluster. Where direct is not possible, a Service
	// that asks for it is refused, and auto takes proxy; an event says why. It
	// may be changed at any time. Default: by the cloud config.
	Datapath = Prefix + "datapath"

	// DrainSeconds is how long a proxy that is to stop, because it is replaced
	// or deleted, goes on serving while its address leaves the status: 0 to
	// 3600. Connections through it live that long; then those in use are reset.
	// Make it longer than the DNS records live. It may be changed at any time.
	// Default: 3.
	DrainSeconds = Prefix + "drain-seconds"
)

// Addresses is a choice among a node's addresses.
type Addresses string

// The values of annotation NodeAddresses.
const (
	External           Addresses = "external"
	Internal           Addresses = "internal"
	ExternalOrInternal Addresses = "external-or-internal"
)

// FirewallMode says who opens the ports at the edge.
type FirewallMode string

// The values of annotation Firewall.
const (
	FirewallManaged FirewallMode = "managed"
	FirewallReport  FirewallMode = "report"
	FirewallNone    FirewallMode = "none"
)

// Exceeds says whether a mode does more than another.
func (m FirewallMode) Exceeds(other FirewallMode) bool {
	rank := map[FirewallMode]int{FirewallNone: 0, FirewallReport: 1, FirewallManaged: 2}
	return rank[m] > rank[other]
}

// DatapathChoice is which datapath is wanted.
type DatapathChoice string

// The values of annotation Datapath.
const (
	DatapathProxy  DatapathChoice = "proxy"
	DatapathDirect DatapathChoice = "direct"
	DatapathAuto   DatapathChoice = "auto"
)

// Options is what a Service asks for, defaults filled in.
type Options struct {
	// NodeSelector selects nodes by their labels; empty selects all. Nil is
	// not valid.
	NodeSelector labels.Selector
	// MaxNodes bounds the number of nodes published; 0 is no bound.
	MaxNodes          int
	Addresses         Addresses
	Tolerations       []v1.Toleration
	PriorityClassName string
	Firewall          FirewallMode
	Datapath          DatapathChoice
	// DrainSeconds is how long a proxy serves on after it was told to stop.
	DrainSeconds int
}

// defaultDrainSeconds is enough for an address to leave the status before its
// proxy stops serving.
const defaultDrainSeconds = 3

// Default is what holds if neither Service nor cloud config says anything.
func Default() Options {
	return Options{NodeSelector: labels.Everything(), Addresses: External, Firewall: FirewallManaged, Datapath: DatapathProxy, DrainSeconds: defaultDrainSeconds}
}

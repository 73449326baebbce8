// Package options parses the annotations of a Service. Packages plan and publish apply them. The
// comments of the annotations are the text of docs/reference/annotations.md.
package options

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Prefix begins the names of all annotations, labels and finalizers of hostport-ccm.
const Prefix = "hostport-ccm.io/"

// The annotations of a Service. They are not labels because the service controller ignores changes
// of labels.
const (
	// NodeSelector restricts the nodes that serve the Service with a label selector in the syntax of
	// kubectl: "pool=edge,!slow". Nodes excluded from load balancers never serve. Default: all nodes.
	NodeSelector = Prefix + "node-selector"

	// MaxNodes limits the number of nodes whose addresses are published. They are spread over zones. A
	// published node stays published as long as it serves. All selected nodes run a proxy, so that
	// another can replace it at once; with datapath direct, twice as many nodes serve. Default: no limit.
	MaxNodes = Prefix + "max-nodes"

	// NodeAddresses selects which addresses of a node are published: "external", "internal", or
	// "external-or-internal", which is the internal one of a node without an external one. A public
	// IPv6 address that the Node lists as internal counts as external if the Node has no external IPv6
	// address. With "internal", a Service without source ranges of its own allows clients in
	// loadBalancer.internalRanges of the cloud config alone. Default: as in the cloud config.
	NodeAddresses = Prefix + "addresses"

	// Tolerations allows nodes with these taints to serve, with a proxy or directly. It is a JSON or
	// YAML list as in a pod's spec, and replaces the list in the cloud config. Each has to name a key.
	Tolerations = Prefix + "tolerations"

	// PriorityClassName is the priority class of the proxy pods. One that begins with "system-" has to
	// be allowed in the cloud config. Default: as in the cloud config.
	PriorityClassName = Prefix + "priority-class-name"

	// Firewall selects how the cloud's firewall is configured: "managed" creates rules, "report" only
	// records events with the gcloud commands that you have to run, "none" creates no rules and
	// deletes those created for this Service before. It cannot exceed the setting of the cloud config,
	// where "none" also keeps rules created before. Default: as in the cloud config.
	Firewall = Prefix + "firewall"

	// Datapath selects how packets reach the Service: "proxy" by a proxy pod with hostPorts on every
	// node; "direct" by kube-proxy alone, which preserves the client's address if
	// externalTrafficPolicy is Local; "auto" is direct for policy Local and proxy for policy Cluster.
	// Where direct is not possible, "direct" is rejected and "auto" falls back to proxy; an event
	// gives the reason. It can be changed at any time. Default: as in the cloud config.
	Datapath = Prefix + "datapath"

	// DrainSeconds is how long a proxy that is replaced or deleted continues to serve after its
	// address is withdrawn: 0 to 300 seconds, or as far as the cloud config allows. After that,
	// connections through it that are in use are reset. Set it longer than the TTL of the DNS records.
	// It can be changed at any time. Default: 3.
	DrainSeconds = Prefix + "drain-seconds"

	// MaxConnectionsPerClient limits how many connections, UDP flows and SCTP associations a client
	// address may have at a time through each proxy: 1 to 64512. The first packets of further ones are
	// dropped. Clients behind one NAT gateway share an address. An IPv6 client is a /64 network. This
	// needs datapath proxy, and the kernel module xt_connlimit on the nodes; a proxy on a node without
	// it is not ready. It can be changed at any time. Each change of a proxy's rules begins the count
	// anew, without the connections that exist then. Default: no limit.
	MaxConnectionsPerClient = Prefix + "max-connections-per-client"
)

// Addresses selects the addresses of a node that are published.
type Addresses string

// The values of annotation NodeAddresses.
const (
	External           Addresses = "external"
	Internal           Addresses = "internal"
	ExternalOrInternal Addresses = "external-or-internal"
)

// DatapathChoice selects a datapath.
type DatapathChoice string

// The values of annotation Datapath.
const (
	DatapathProxy  DatapathChoice = "proxy"
	DatapathDirect DatapathChoice = "direct"
	DatapathAuto   DatapathChoice = "auto"
)

// Options are the options of a Service, with defaults.
type Options struct {
	// NodeSelector selects nodes by their labels. It is never nil.
	NodeSelector labels.Selector
	MaxNodes     int // 0: no limit.
	Addresses    Addresses
	// InternalRanges are the clients that a Service with Addresses Internal allows by default.
	InternalRanges    []netip.Prefix
	Tolerations       []v1.Toleration
	PriorityClassName string
	Firewall          firewall.Mode
	Datapath          DatapathChoice
	DrainSeconds      int
	// MaxConnectionsPerClient is 0 if there is no limit.
	MaxConnectionsPerClient int
}

// defaultDrainSeconds is long enough to withdraw an address before its proxy stops serving.
const defaultDrainSeconds = 3

// Default returns the options of a Service where neither annotations nor the cloud config set any.
func Default() Options {
	return Options{
		NodeSelector: labels.Everything(), Addresses: External, InternalRanges: privateRanges, Firewall: firewall.Managed,
		Datapath: DatapathProxy, DrainSeconds: defaultDrainSeconds,
	}
}

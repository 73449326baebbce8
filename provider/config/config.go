// Package config reads the cloud config, the file named by --cloud-config: its fields, their
// defaults and their validation. The comments of the fields are the text of
// docs/reference/cloud-config.md.
package config

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// The apiVersion and kind of a cloud config.
const (
	APIVersion = "hostport-ccm.io/v1alpha1"
	Kind       = "CloudConfig"
)

// LoadBalancerClass is the load balancer class of hostport-ccm.
const LoadBalancerClass = "hostport-ccm.io/hostport"

// CloudConfig is the content of the file.
type CloudConfig struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// ClusterID names the cluster in the ownership mark of every object and firewall rule. The mark
	// also has the UID of the namespace kube-system, which is unique. Whatever has this mark and
	// belongs to no Service is deleted. It is a DNS label of at most 26 characters and must never
	// change. Required.
	ClusterID string `json:"clusterID"`
	// Provider is the cloud of the nodes: gce or none. Required.
	Provider     Provider     `json:"provider"`
	LoadBalancer LoadBalancer `json:"loadBalancer"`
	// GCE has the settings of provider gce.
	GCE GCE `json:"gce,omitempty"`
}

// Provider is the cloud of the nodes.
type Provider string

// The providers.
const (
	// ProviderGCE is Google Compute Engine: the nodes are its VMs, and its firewall is managed.
	ProviderGCE Provider = "gce"
	// ProviderNone is bare metal, or a cloud whose API is not used: the addresses come from the Nodes,
	// and no firewall is managed.
	ProviderNone Provider = "none"
)

// LoadBalancer configures how Services are served. A Service's annotations override it.
type LoadBalancer struct {
	// ProxyImage is the image of hostport-nodeproxy. Required.
	ProxyImage string `json:"proxyImage"`
	// ImagePullPolicy of the proxy pods. Default: IfNotPresent.
	ImagePullPolicy v1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// Namespace is the namespace of the proxies. It must exist, with the roles, the label and the
	// network policy that the manifests create for hostport-system. Default: hostport-system.
	Namespace string `json:"namespace,omitempty"`
	// Classes selects the Services that are served: "class" those of load balancer class
	// hostport-ccm.io/hostport, "none" those without a class, "both" all of these. Default: both.
	Classes Classes `json:"classes,omitempty"`
	// PriorityClassName of the proxy pods. Default: none.
	PriorityClassName string `json:"priorityClassName,omitempty"`
	// Tolerations of the proxy pods, in addition to those of every DaemonSet. Default: none.
	Tolerations []v1.Toleration `json:"tolerations,omitempty"`
	// UserNamespaces runs the proxies in user namespaces of their pods: root in a proxy is nobody on the
	// node, and no container is privileged. All nodes that serve need Kubernetes 1.33, Linux 6.3,
	// containerd 2.0 or CRI-O 1.25, and runc 1.2 or crun 1.9, and nothing may be mounted over parts of
	// their /proc, as on nodes that are containers. A change replaces the proxies. Default: false.
	UserNamespaces bool `json:"userNamespaces,omitempty"`
	// Addresses selects which addresses of a node are published: external, internal, or
	// external-or-internal; see the annotation of that name. Default: external for provider gce,
	// external-or-internal for provider none.
	Addresses options.Addresses `json:"addresses,omitempty"`
	// InternalRanges are the clients, as CIDR ranges, to whom a Service is open that has addresses
	// internal and no source ranges of its own. Everybody else gets no answer, also at external
	// addresses of the nodes. With external-or-internal, where clients are anywhere, they do not apply.
	// Default: the private ranges 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and fc00::/7.
	InternalRanges []string `json:"internalRanges,omitempty"`
	// Firewall is managed, report or none; see the annotation of that name.
	// Default: managed.
	Firewall firewall.Mode `json:"firewall,omitempty"`
	// ReservedPorts are ports that no Service gets, as the nodes need them. Each is a quoted string, a
	// port or a range of all protocols, such as "53", or of one, such as "8472/UDP" or
	// "2379-2380/TCP". The list replaces the default, and an empty list reserves none. Default: the
	// ports below.
	ReservedPorts []string `json:"reservedPorts,omitempty"`
	// NodePortRange is the range of node ports, as in the API server's flag --service-node-port-range.
	// No Service gets a port from it, of any protocol, as the API server may give it to another
	// Service as a node port. With none, these ports are not reserved. Default: 30000-32767.
	NodePortRange string `json:"nodePortRange,omitempty"`
	// Datapath is proxy, direct or auto; see the annotation of that name.
	// Default: proxy.
	Datapath options.DatapathChoice `json:"datapath,omitempty"`
	// KubeProxyMode is the mode of kube-proxy on the nodes: iptables, nftables or ipvs, or none if
	// something else replaces kube-proxy. Datapath direct needs iptables or nftables. Default: the
	// mode in ConfigMap kube-system/kube-proxy, which kubeadm creates; without that ConfigMap the mode
	// is unknown, and no Service is served directly.
	KubeProxyMode KubeProxyMode `json:"kubeProxyMode,omitempty"`
	// IPMode is the ipMode of the published addresses. With VIP, kube-proxy serves clients inside the
	// cluster on their own node; with Proxy, their packets go to the address. An address that a node
	// has on an interface must be Proxy, unless kube-proxy serves it in place of a proxy. In IPVS mode
	// all addresses are Proxy, whatever is set here. Default: VIP for external IPv4 addresses of
	// provider gce, which no interface has, and for Services of datapath direct with provider none;
	// else Proxy.
	IPMode v1.LoadBalancerIPMode `json:"ipMode,omitempty"`
	// Failover selects when the addresses of a dead node are withdrawn: "fast" within 10 s, detected
	// by connection attempts to port 10256 of the nodes and by their Leases; "kubernetes" when
	// Kubernetes sets the node NotReady, after 40 to 50 s. Default: fast.
	Failover Failover `json:"failover,omitempty"`
	Policy   Policy   `json:"policy,omitzero"`
}

// Policy limits what those who write Services may ask for. It does not limit the defaults in the
// cloud config.
type Policy struct {
	// PriorityClassNames are the priority classes that the annotation may name. Default: all that do
	// not begin with "system-".
	PriorityClassNames []string `json:"priorityClassNames,omitempty"`
	// TolerationKeys are the keys of taints that the annotation may tolerate. A toleration without a
	// key, which tolerates all taints, is always refused. Default: all keys.
	TolerationKeys []string `json:"tolerationKeys,omitempty"`
	// MaxDrainSeconds is the longest drain that the annotation may set, at most 3600. Default: 300.
	MaxDrainSeconds int `json:"maxDrainSeconds,omitempty"`
	// MaxPorts is the largest number of ports of a Service. With many, proxies start late and hold up
	// other pods on their nodes. Default: 100.
	MaxPorts int `json:"maxPorts,omitempty"`
	// MaxSourceRanges is how many source ranges a Service may have, at most 5000, which is what a
	// firewall rule of GCE can have. They are counted as written. Default: 1000.
	MaxSourceRanges int `json:"maxSourceRanges,omitempty"`
	// MaxServicesPerNamespace is how many Services of a namespace are served; the oldest count first.
	// Default: no limit.
	MaxServicesPerNamespace int `json:"maxServicesPerNamespace,omitempty"`
	// Ports restricts ports to namespaces. A port that is in several entries is for the namespaces of
	// all of them, and one that is in none for all namespaces. Default: no restriction.
	Ports []NamespacePorts `json:"ports,omitempty"`
	// DirectNamespaces are the namespaces whose Services may set the annotation datapath to direct or
	// auto. Default: all.
	DirectNamespaces []string `json:"directNamespaces,omitempty"`
	// FirewallNamespaces are the namespaces whose Services may have the annotation firewall. Default:
	// all.
	FirewallNamespaces []string `json:"firewallNamespaces,omitempty"`
}

// NamespacePorts are ports that only Services of some namespaces get.
type NamespacePorts struct {
	// Ports are written as in loadBalancer.reservedPorts. Required.
	Ports []string `json:"ports"`
	// Namespaces are those whose Services may have these ports. An empty list is for none.
	Namespaces []string `json:"namespaces"`
}

// Failover selects how dead nodes are detected.
type Failover string

// The values of Failover.
const (
	FailoverFast       Failover = "fast"
	FailoverKubernetes Failover = "kubernetes"
)

// KubeProxyMode is the mode of kube-proxy on the nodes.
type KubeProxyMode string

// The values of KubeProxyMode.
const (
	KubeProxyIPTables KubeProxyMode = "iptables"
	KubeProxyNFTables KubeProxyMode = "nftables"
	KubeProxyIPVS     KubeProxyMode = "ipvs"
	KubeProxyNone     KubeProxyMode = "none"
)

// Classes selects the Services that are served.
type Classes string

// The values of Classes.
const (
	ClassesBoth  Classes = "both"
	ClassesClass Classes = "class"
	ClassesNone  Classes = "none"
)

// Serves reports whether a Service of this load balancer class, or of none if nil, is served.
func (c Classes) Serves(class *string) bool {
	if class == nil {
		return c != ClassesClass
	}
	return *class == LoadBalancerClass && c != ClassesNone
}

// GCE configures the access to Google Compute Engine. The metadata server supplies Project and
// Network where they are empty.
type GCE struct {
	// Project is the project of the VMs. Default: the project of hostport-ccm's own VM.
	Project string `json:"project,omitempty"`
	// NetworkProject is the project of the network and its firewall rules. With a shared VPC it
	// differs from the project of the VMs. Default: the network's project.
	NetworkProject string `json:"networkProject,omitempty"`
	// Network is the name or the URL of the VPC network. Addresses of interfaces in other networks are
	// ignored. Default: the network of hostport-ccm's own VM.
	Network string `json:"network,omitempty"`
	// NodeTags are the target tags of the firewall rules; a rule applies to VMs that have one of them.
	// Default: one network tag that all nodes of a Service have in common. It is the one that the
	// Service's rules have already, else the one that the fewest VMs of the project have, else the
	// first by name.
	NodeTags []string `json:"nodeTags,omitempty"`
	// APIEndpoint is the URL of the Compute API. With http:// requests are not authenticated, which is
	// for tests. Default: Google's.
	APIEndpoint string `json:"apiEndpoint,omitempty"`
	// InstanceCacheTTL is how long a list of the VMs is cached. Default: 10 s.
	InstanceCacheTTL metav1.Duration `json:"instanceCacheTTL,omitzero"`
	// FirewallLayout is per-service, with firewall rules for each Service, or shared, where Services
	// with the same source ranges, target tags and node selection share rules, for many Services and a
	// small quota. It can be changed at any time. Default: per-service.
	FirewallLayout firewall.Layout `json:"firewallLayout,omitempty"`
	// FirewallCheckPeriod is the interval in which all firewall rules are checked for manual changes,
	// with one list request. Default: 30 s.
	FirewallCheckPeriod metav1.Duration `json:"firewallCheckPeriod,omitzero"`
}

// Options returns the options of a Service without annotations.
func (c *CloudConfig) Options() options.Options {
	defaults := options.Default()
	defaults.Addresses = c.LoadBalancer.Addresses
	if written := c.LoadBalancer.InternalRanges; len(written) > 0 {
		defaults.InternalRanges = make([]netip.Prefix, len(written))
		for i, text := range written {
			defaults.InternalRanges[i], _ = options.ParseRange(text) // It is valid.
		}
	}
	defaults.Tolerations = c.LoadBalancer.Tolerations
	defaults.PriorityClassName = c.LoadBalancer.PriorityClassName
	defaults.Firewall = c.LoadBalancer.Firewall
	defaults.Datapath = c.LoadBalancer.Datapath
	return defaults
}

// setDefaults sets the fields that the file leaves empty.
func (c *CloudConfig) setDefaults() {
	lb := &c.LoadBalancer
	setDefault(&lb.ImagePullPolicy, v1.PullIfNotPresent)
	setDefault(&lb.Namespace, "hostport-system")
	setDefault(&lb.Classes, ClassesBoth)
	setDefault(&lb.Firewall, firewall.Managed)
	setDefault(&lb.Datapath, options.DatapathProxy)
	setDefault(&lb.Failover, FailoverFast)
	setDefault(&lb.NodePortRange, defaultNodePortRange)
	setDefault(&lb.Policy.MaxDrainSeconds, 300)
	setDefault(&lb.Policy.MaxPorts, 100)
	setDefault(&lb.Policy.MaxSourceRanges, 1000)
	if lb.ReservedPorts == nil {
		for _, entry := range DefaultReservedPorts {
			lb.ReservedPorts = append(lb.ReservedPorts, entry.Ports)
		}
	}
	if c.Provider == ProviderNone {
		setDefault(&lb.Addresses, options.ExternalOrInternal)
	}
	setDefault(&lb.Addresses, options.External)
}

func setDefault[T comparable](field *T, value T) {
	var empty T
	if *field == empty {
		*field = value
	}
}

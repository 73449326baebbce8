// Package config is the cloud config: the file named by --cloud-config. It
// knows how the file is written, what it may say, and what holds where it says
// nothing. It opens nothing but that file.
package config

import (
	"slices"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// What a cloud config file has to call itself.
const (
	APIVersion = "hostport-ccm.io/v1alpha1"
	Kind       = "CloudConfig"
)

// LoadBalancerClass is the class of Services that are meant for us.
const LoadBalancerClass = "hostport-ccm.io/hostport"

// CloudConfig is the whole file. A field it does not know is an error.
type CloudConfig struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// ClusterID tells people for which cluster something was made: it is in
	// the mark of everything, together with the UID of the namespace
	// kube-system, which keeps clusters apart. What bears this mark and belongs
	// to no Service is removed. A DNS label of at most 26 characters; it must
	// never change. Required.
	ClusterID string `json:"clusterID"`
	// Provider is where the nodes run: gce or none. Required.
	Provider     Provider     `json:"provider"`
	LoadBalancer LoadBalancer `json:"loadBalancer"`
	// GCE is for provider gce only.
	GCE GCE `json:"gce,omitempty"`
}

// Provider names a cloud.
type Provider string

// The providers.
const (
	// ProviderGCE is Google Compute Engine: nodes are its VMs, ports are
	// opened in its firewall.
	ProviderGCE Provider = "gce"
	// ProviderNone is bare metal, or any cloud whose interface is not used:
	// nodes describe themselves, no firewall is touched.
	ProviderNone Provider = "none"
)

// LoadBalancer is how Services are served. A Service's annotations go before
// what is said here.
type LoadBalancer struct {
	// ProxyImage is the image of hostport-nodeproxy. Required.
	ProxyImage string `json:"proxyImage"`
	// ImagePullPolicy of the proxy pods. Default: IfNotPresent.
	ImagePullPolicy v1.PullPolicy `json:"imagePullPolicy,omitempty"`
	// Namespace holds the proxies. It must exist, with the rights, the label and
	// the network policy that the manifests give hostport-system. Default: hostport-system.
	Namespace string `json:"namespace,omitempty"`
	// Classes are the Services served: "class" for those of class
	// hostport-ccm.io/hostport, "none" for those without a class, "both".
	// Default: both.
	Classes Classes `json:"classes,omitempty"`
	// PriorityClassName of the proxy pods. Default: none.
	PriorityClassName string `json:"priorityClassName,omitempty"`
	// Tolerations of the proxy pods. Default: none beyond those that every
	// DaemonSet has.
	Tolerations []v1.Toleration `json:"tolerations,omitempty"`
	// Addresses of a node that are published: external, internal, or
	// external-or-internal. Default: external for provider gce,
	// external-or-internal for provider none.
	Addresses options.Addresses `json:"addresses,omitempty"`
	// Firewall is managed, report or none; see the annotation of that name.
	// Default: managed.
	Firewall options.FirewallMode `json:"firewall,omitempty"`
	// ReservedPorts are never given to a Service, as nodes need them
	// themselves: ports, and ranges such as "2379-2380", each as a quoted
	// string. An empty list reserves none. Default: "22" (SSH), "2379-2380"
	// (etcd), "6443" (API server), "9100" (node-exporter), "10248-10260"
	// (kubelet, kube-proxy, controllers).
	ReservedPorts []string `json:"reservedPorts,omitempty"`
	// Datapath is proxy, direct or auto; see the annotation of that name.
	// Default: proxy.
	Datapath options.DatapathChoice `json:"datapath,omitempty"`
	// KubeProxyMode is how kube-proxy runs on the nodes: iptables, nftables,
	// ipvs, or none if something else does its work. Datapath direct is for
	// iptables and nftables only. Default: what ConfigMap kube-system/kube-proxy
	// says, which kubeadm makes; without it the mode is unknown, and nothing is
	// served directly.
	KubeProxyMode KubeProxyMode `json:"kubeProxyMode,omitempty"`
	// IPMode of the published addresses: VIP lets kube-proxy serve clients
	// inside the cluster without leaving the node, Proxy sends them out to
	// the address. An address that a node itself bears has to be Proxy unless
	// kube-proxy is to serve it in place of a proxy; in IPVS mode all are
	// Proxy, whatever is set here. Default: VIP for external IPv4 addresses of
	// provider gce, which exist outside the nodes only, and with provider none
	// for Services of datapath direct, else Proxy.
	IPMode v1.LoadBalancerIPMode `json:"ipMode,omitempty"`
	// Failover says when the addresses of a node that dies leave: "fast"
	// within 10 s, by connection attempts to the nodes' port 10256 and by their
	// Leases; "kubernetes" when Kubernetes says NotReady, after 40 to 50 s.
	// Default: fast.
	Failover Failover `json:"failover,omitempty"`
}

// Failover says whose word about a node's death counts.
type Failover string

// The values of Failover.
const (
	FailoverFast       Failover = "fast"
	FailoverKubernetes Failover = "kubernetes"
)

// KubeProxyMode is how the nodes' kube-proxies run.
type KubeProxyMode string

// The values of KubeProxyMode.
const (
	KubeProxyIPTables KubeProxyMode = "iptables"
	KubeProxyNFTables KubeProxyMode = "nftables"
	KubeProxyIPVS     KubeProxyMode = "ipvs"
	KubeProxyNone     KubeProxyMode = "none"
)

// Classes says which Services are served.
type Classes string

// The values of Classes.
const (
	ClassesBoth  Classes = "both"
	ClassesClass Classes = "class"
	ClassesNone  Classes = "none"
)

// Serves says whether a Service of this load balancer class is ours.
func (c Classes) Serves(class *string) bool {
	if class == nil {
		return c != ClassesClass
	}
	return *class == LoadBalancerClass && c != ClassesNone
}

// GCE is how Google Compute Engine is reached. What is left empty is asked of
// the metadata server.
type GCE struct {
	// Project of the VMs.
	Project string `json:"project,omitempty"`
	// NetworkProject owns the network and its firewall rules. Default: the
	// network's project; with a shared VPC it is not Project.
	NetworkProject string `json:"networkProject,omitempty"`
	// Network is the VPC's name, or its URL. Addresses of interfaces in other
	// networks are not shown.
	Network string `json:"network,omitempty"`
	// NodeTags are the network tags that firewall rules apply to. Default:
	// the tags that all of a Service's nodes have in common.
	NodeTags []string `json:"nodeTags,omitempty"`
	// APIEndpoint is the Compute API's URL. With http:// there is no
	// authentication, which is for tests. Default: Google's.
	APIEndpoint string `json:"apiEndpoint,omitempty"`
	// InstanceCacheTTL is how long a list of the VMs is believed. Default:
	// 10 s.
	InstanceCacheTTL metav1.Duration `json:"instanceCacheTTL,omitzero"`
	// FirewallLayout is per-service, which gives each Service firewall rules of
	// its own, or shared: Services with the same source ranges and target tags
	// share rules, for many Services and a small quota. It can be changed at
	// any time. Default: per-service.
	FirewallLayout firewall.Layout `json:"firewallLayout,omitempty"`
	// FirewallCheckPeriod is how often all firewall rules are compared with
	// what is wanted, with one list. Default: 30 s.
	FirewallCheckPeriod metav1.Duration `json:"firewallCheckPeriod,omitzero"`
}

// Options returns what holds for a Service without annotations.
func (c *CloudConfig) Options() options.Options {
	defaults := options.Default()
	defaults.Addresses = c.LoadBalancer.Addresses
	defaults.Tolerations = c.LoadBalancer.Tolerations
	defaults.PriorityClassName = c.LoadBalancer.PriorityClassName
	defaults.Firewall = c.LoadBalancer.Firewall
	defaults.Datapath = c.LoadBalancer.Datapath
	return defaults
}

// defaultReserved are the ports of what runs on nodes of most clusters:
// https://kubernetes.io/docs/reference/networking/ports-and-protocols/.
var defaultReserved = []string{"22", "2379-2380", "6443", "9100", "10248-10260"}

// Reserved returns the reserved ports.
func (lb *LoadBalancer) Reserved() []options.PortRange {
	var list []options.PortRange
	for _, text := range lb.ReservedPorts {
		if r, err := options.ParsePortRange(text); err == nil { // Validated.
			list = append(list, r)
		}
	}
	return list
}

// setDefaults fills in what the file left empty.
func (c *CloudConfig) setDefaults() {
	lb := &c.LoadBalancer
	setDefault(&lb.ImagePullPolicy, v1.PullIfNotPresent)
	setDefault(&lb.Namespace, "hostport-system")
	setDefault(&lb.Classes, ClassesBoth)
	setDefault(&lb.Firewall, options.FirewallManaged)
	setDefault(&lb.Datapath, options.DatapathProxy)
	setDefault(&lb.Failover, FailoverFast)
	if lb.ReservedPorts == nil {
		lb.ReservedPorts = slices.Clone(defaultReserved)
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

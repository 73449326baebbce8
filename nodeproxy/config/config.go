// Package config defines the config of a proxy pod: what the pod forwards. The
// controller manager writes it into a ConfigMap, and the node proxy reads it
// from a mounted file. It can change while the pod runs.
package config

// FileName is the key in the ConfigMap and the name of the file in the pod.
const FileName = "config.json"

// DefaultFile is the default path of the file. The ConfigMap is mounted as a
// directory, because a file that is mounted by itself is never updated.
const DefaultFile = "/etc/hostport/" + FileName

// The default ports of /metrics, and of /readyz and /healthz. They must not be TCP
// ports of the Service, whose packets go to the cluster IP.
const (
	DefaultMetricsPort = 10270
	DefaultHealthPort  = 10271
)

// BearerPrefix precedes the token in the header Authorization of a request for health.
const BearerPrefix = "Bearer "

// NotReadyPrefix precedes the reasons why a proxy is not ready in its answer.
const NotReadyPrefix = "not ready: "

// MaxDrainSeconds is the longest drain time. The grace period of all proxy pods
// is longer. It is the same for all, since a change of it would replace the pods.
const MaxDrainSeconds = 3600

// MaxConnections is how many connections to one port of the Service a proxy can have, per protocol
// and IP family: masqueraded, they differ in the source port alone, for which the kernel takes 1024
// to 65535 (nf_nat_l4proto_unique_tuple in net/netfilter/nf_nat_core.c).
const MaxConnections = 65536 - 1024

// WithoutIPv6 is the flag of proxies of a Service without IPv6. When the Service
// gains IPv6, they serve only IPv4 until other pods replace them, which can
// forward both.
const WithoutIPv6 = "--ipv6=false"

// Config is what one proxy pod forwards.
type Config struct {
	// Service is the Service as namespace/name, for messages only.
	Service string `json:"service"`
	// Ports are forwarded to the same port of the Service's cluster IP.
	Ports []Port `json:"ports"`
	// ClusterIPs are the Service's cluster IPs, at most one per IP family.
	ClusterIPs []string `json:"clusterIPs"`
	// SourceRanges are the CIDR ranges of the clients that are allowed, of both IP
	// families. If there are none, no client is allowed.
	SourceRanges []string `json:"sourceRanges"`
	// DrainSeconds is how long the proxy serves after SIGTERM, 0 to
	// MaxDrainSeconds.
	DrainSeconds int `json:"drainSeconds"`
	// MaxConnectionsPerClient is how many connections a client address, or an IPv6 /64 network, may
	// have at a time, up to MaxConnections. 0 means no limit.
	MaxConnectionsPerClient int `json:"maxConnectionsPerClient,omitempty"`
}

// Port is one forwarded port.
type Port struct {
	// Protocol is TCP, UDP or SCTP. Empty means TCP, as in a Service.
	Protocol string `json:"protocol"`
	// Port is the container port that packets reach the pod on, and also the
	// Service port that they are sent to.
	Port uint16 `json:"port"`
}

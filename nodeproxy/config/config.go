// Package config is the contract between the controller manager, which writes
// it into a ConfigMap, and the node proxy, which reads it from a mounted file:
// what one proxy pod forwards. It may change while the pod runs.
package config

// FileName is the key in the ConfigMap, and so the file's name in the pod.
const FileName = "config.json"

// DefaultFile is where the proxy looks for its config when not told otherwise:
// the place where the ConfigMap is mounted. The directory is what must be
// mounted, not the one file, since a mounted file never changes.
const DefaultFile = "/etc/hostport/" + FileName

// DefaultHealthPort is where the proxy answers /readyz, /healthz and /metrics
// when not told otherwise. It must not be one of the Service's TCP ports, whose
// packets go to the cluster IP.
const DefaultHealthPort = 10270

// MaxDrainSeconds is the longest drain time. A pod's grace period must be longer,
// and is the same for all, since a change of it would replace the pods.
const MaxDrainSeconds = 3600

// WithoutIPv6 is the flag of proxies of a Service without IPv6. If it takes on
// IPv6, they go on with IPv4 until they are replaced by others, whose pods can
// forward both.
const WithoutIPv6 = "--ipv6=false"

// Config is what one proxy pod forwards.
type Config struct {
	// Service is the Service served, as namespace/name; for messages only.
	Service string `json:"service"`
	// Ports are forwarded to the same port of the Service's cluster IP.
	Ports []Port `json:"ports"`
	// ClusterIPs are the Service's cluster IPs, at most one per IP family.
	ClusterIPs []string `json:"clusterIPs"`
	// SourceRanges are the client ranges (CIDR) let in, IPv4 and IPv6 mixed.
	// Empty means nobody.
	SourceRanges []string `json:"sourceRanges"`
	// DrainSeconds is how long to go on serving after SIGTERM, 0 to
	// MaxDrainSeconds.
	DrainSeconds int `json:"drainSeconds"`
}

// Port is one forwarded port.
type Port struct {
	// Protocol is TCP, UDP or SCTP; empty means TCP, as in a Service.
	Protocol string `json:"protocol"`
	// Port is both the container port on which packets reach the pod and the
	// Service port to which they are sent.
	Port uint16 `json:"port"`
}

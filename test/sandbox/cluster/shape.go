package cluster

import (
	"flag"
	"fmt"
	"slices"
	"strings"
)

// Shape is what one sandbox may differ in from another. It stays the same while
// the cluster runs.
type Shape struct {
	Profile       Profile       `json:"profile"`
	KubeProxyMode KubeProxyMode `json:"kubeProxyMode"`
	IPFamily      IPFamily      `json:"ipFamily"`
}

// Profile says in what surroundings the cluster runs.
type Profile string

const (
	// GCE puts the nodes behind a 1:1 NAT with a firewall, both driven by the
	// GCE simulator.
	GCE Profile = "gce"
	// GKE is the same beside the cloud controller manager of somebody else, which
	// initialises the nodes and serves Services without a class.
	GKE Profile = "gke"
	// BareMetal has node addresses that the internet host reaches directly, and
	// no cloud API.
	BareMetal Profile = "baremetal"
)

// OnGCE says whether there is a Compute API.
func (p Profile) OnGCE() bool { return p != BareMetal }

// KubeProxyMode is the part of the kernel that kube-proxy programs.
type KubeProxyMode string

// The modes of kube-proxy that the sandbox knows.
const (
	IPTables KubeProxyMode = "iptables"
	NFTables KubeProxyMode = "nftables"
)

// IPFamily says which addresses there are.
type IPFamily string

const (
	IPv4Only IPFamily = "ipv4"
	// DualStack gives every host, node, pod and Service an IPv6 address beside
	// the IPv4 one. A node's is external and its own: on GCE too, external IPv6
	// addresses are not translated.
	DualStack IPFamily = "dual"
)

// both is an address, or a range of them, in each IP family.
type both struct{ v4, v6 string }

// of returns what of it there is in a cluster of that shape, IPv4 first.
func (s Shape) of(b both) []string {
	if s.IPFamily == DualStack {
		return []string{b.v4, b.v6}
	}
	return []string{b.v4}
}

// list writes the same as most programs take it.
func (s Shape) list(b both) string { return strings.Join(s.of(b), ",") }

// AddFlags adds a flag for each property, with its default.
func (s *Shape) AddFlags(flags *flag.FlagSet) {
	addFlag(flags, &s.Profile, "profile", GCE, GKE, BareMetal)
	addFlag(flags, &s.KubeProxyMode, "kube-proxy-mode", IPTables, NFTables)
	addFlag(flags, &s.IPFamily, "ip-family", IPv4Only, DualStack)
}

// addFlag adds a flag that takes one of the values; the first is the default.
func addFlag[T ~string](flags *flag.FlagSet, value *T, name string, values ...T) {
	*value = values[0]
	flags.Func(name, fmt.Sprintf("one of %v (default %s)", values, values[0]), func(written string) error {
		if !slices.Contains(values, T(written)) {
			return fmt.Errorf("choose one of %v", values)
		}
		*value = T(written)
		return nil
	})
}

// String describes the cluster in words that follow "with".
func (s Shape) String() string {
	return fmt.Sprintf("profile %s, kube-proxy in %s mode, IP family %s", s.Profile, s.KubeProxyMode, s.IPFamily)
}

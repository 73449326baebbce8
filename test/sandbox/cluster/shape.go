package cluster

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// Shape is the configurable properties of a sandbox. They cannot change while it runs.
type Shape struct {
	Profile       Profile       `json:"profile"`
	KubeProxyMode KubeProxyMode `json:"kubeProxyMode"`
	IPFamily      IPFamily      `json:"ipFamily"`
	// Kubernetes is the version of the control plane and the nodes, such as v1.37.2. Empty: that of
	// package tools.
	Kubernetes string `json:"kubernetes,omitempty"`
}

// kubernetes returns the version of Kubernetes.
func (s Shape) kubernetes() string { return cmp.Or(s.Kubernetes, tools.KubernetesVersion) }

// Profile is the environment of the cluster.
type Profile string

const (
	// GCE puts the nodes behind a 1:1 NAT with a firewall, both driven by the
	// GCE simulator.
	GCE Profile = "gce"
	// GKE is GCE with another provider's cloud controller manager, which initialises
	// the nodes and serves Services without a class.
	GKE Profile = "gke"
	// BareMetal has node addresses that the internet host reaches directly, and
	// no cloud API.
	BareMetal Profile = "baremetal"
	// Simulated has the control plane, the GCE simulator and kwok, which simulates the kubelet of
	// every Node that a test creates. There are no images; hostport-ccm runs as a process.
	Simulated Profile = "simulated"
)

// OnGCE reports whether there is a Compute API.
func (p Profile) OnGCE() bool { return p != BareMetal }

// KubeProxyMode is the part of the kernel that kube-proxy programs.
type KubeProxyMode string

// The modes of kube-proxy that the sandbox knows.
const (
	IPTables KubeProxyMode = "iptables"
	NFTables KubeProxyMode = "nftables"
)

// IPFamily is the IP families of the cluster.
type IPFamily string

const (
	IPv4Only IPFamily = "ipv4"
	// DualStack gives every host, node, pod and Service an IPv6 address in addition to
	// the IPv4 one. A node's IPv6 address is external and on its interface: GCE does
	// not translate external IPv6 addresses either.
	DualStack IPFamily = "dual"
)

// list returns the same as a comma-separated list.
func (s Shape) list(b both) string { return strings.Join(s.of(b), ",") }

// both is an address or a range in each IP family.
type both struct{ v4, v6 string }

// AddFlags adds a flag for each property, with its default.
func (s *Shape) AddFlags(flags *flag.FlagSet) {
	addFlag(flags, &s.Profile, "profile", GCE, GKE, BareMetal)
	addFlag(flags, &s.KubeProxyMode, "kube-proxy-mode", IPTables, NFTables)
	addFlag(flags, &s.IPFamily, "ip-family", IPv4Only, DualStack)
	flags.Func("kubernetes", "the version of Kubernetes, such as 1.36.3 (default "+tools.KubernetesVersion+")", func(written string) error {
		s.Kubernetes = "v" + strings.TrimPrefix(written, "v")
		if !release.MatchString(s.Kubernetes) {
			return errors.New("want a release, such as 1.36.3")
		}
		return nil
	})
}

var release = regexp.MustCompile(`^v1\.[0-9]+\.[0-9]+$`)

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

// String describes the shape in words that can follow "with".
func (s Shape) String() string {
	return fmt.Sprintf("profile %s, kube-proxy in %s mode, IP family %s, Kubernetes %s", s.Profile, s.KubeProxyMode, s.IPFamily, s.kubernetes())
}

// of returns the values in the cluster's IP families, IPv4 first.
func (s Shape) of(b both) []string {
	if s.IPFamily == DualStack {
		return []string{b.v4, b.v6}
	}
	return []string{b.v4}
}

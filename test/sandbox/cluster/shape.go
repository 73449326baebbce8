package cluster

import (
	"flag"
	"fmt"
	"slices"
)

// Shape is what one sandbox may differ in from another. It stays the same while
// the cluster runs.
type Shape struct {
	Profile       Profile       `json:"profile"`
	KubeProxyMode KubeProxyMode `json:"kubeProxyMode"`
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

// AddFlags adds a flag for each property, with its default.
func (s *Shape) AddFlags(flags *flag.FlagSet) {
	addFlag(flags, &s.Profile, "profile", GCE, GKE, BareMetal)
	addFlag(flags, &s.KubeProxyMode, "kube-proxy-mode", IPTables, NFTables)
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

// DefaultShape is what the flags say if none is given.
func DefaultShape() Shape {
	var s Shape
	s.AddFlags(flag.NewFlagSet("", flag.ContinueOnError))
	return s
}

// String describes the cluster in words that follow "with".
func (s Shape) String() string {
	return fmt.Sprintf("profile %s, kube-proxy in %s mode", s.Profile, s.KubeProxyMode)
}

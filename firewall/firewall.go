// Package firewall computes the firewall rules that a Service needs between its
// clients and the nodes, and compares them with the rules that exist.
//
// The computation is pure: Spec is what a Service needs, Rule one rule, Change
// one step from the rules that exist to those that are wanted. The Firewall
// interface applies it: package firewall/gce on Google Compute Engine, package
// firewall/none where no firewall can be changed, package
// firewall/firewalltest in memory, for tests. Package firewall/operations calls
// a Firewall in the background.
package firewall

import (
	"context"
	"net/netip"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Owner is the Service that a rule belongs to. It is written into the rule's
// description, by which ownership is verified before the rule is changed.
type Owner struct {
	// ClusterID identifies the cluster among those that share a project.
	ClusterID string
	// Service is the Service's namespace and name.
	Service types.NamespacedName
	// UID is the Service's UID: a Service that is created again under its old
	// name is another owner.
	UID types.UID
}

// Port is a port of a Service as clients connect to it.
type Port struct {
	Protocol v1.Protocol
	Port     uint16
}

// Spec is what one Service needs.
type Spec struct {
	Owner Owner
	// Ports are in any order and may contain duplicates.
	Ports []Port
	// SourceRanges are the client ranges that are allowed, IPv4 and IPv6 mixed.
	// Empty allows no client.
	SourceRanges []netip.Prefix
	// Nodes are the provider IDs of the nodes that receive the traffic. Empty
	// allows no traffic.
	Nodes []string
	// Addresses are those of the nodes to which traffic is allowed, internal and
	// external ones of both IP families. Without addresses of a family, no
	// traffic of that family is allowed.
	Addresses []netip.Addr
	// NodeSelection identifies how the nodes are selected: Services with the same
	// value have the same nodes.
	NodeSelection string
	// Since is when it was found out what the Service needs. Rules that are known as of then, or later, need
	// not be read again. Zero means that they have to be.
	Since time.Time
	// Report changes nothing: the changes that are needed are returned in a
	// *ManualChangeError.
	Report bool
}

// Equal reports whether two specs need the same. Since is not compared.
func (s Spec) Equal(other Spec) bool {
	return s.Owner == other.Owner && s.NodeSelection == other.NodeSelection && s.Report == other.Report &&
		slices.Equal(s.Ports, other.Ports) && slices.Equal(s.SourceRanges, other.SourceRanges) &&
		slices.Equal(s.Nodes, other.Nodes) && slices.Equal(s.Addresses, other.Addresses)
}

// Firewall allows the traffic of Services. All methods are safe for concurrent use. Errors of the
// cloud's API are or wrap an *Error, see KindOf.
type Firewall interface {
	// Ensure makes the rules of spec.Owner equal to spec, and returns one line
	// for each change that it made, also if it fails later. It returns a
	// *ManualChangeError if an administrator has to make the changes.
	Ensure(ctx context.Context, spec Spec) (changes []string, err error)
	// Delete removes all rules of owner. It is no error if there are none.
	Delete(ctx context.Context, owner Owner) error
	// Release stops managing owner's rules and changes nothing. It returns the
	// commands that remove the rules in a *ManualChangeError.
	Release(ctx context.Context, owner Owner) error
	// Exists reports whether owner has a rule. If that cannot be determined, it returns an
	// error; false lets the caller forget the Service.
	Exists(ctx context.Context, owner Owner) (bool, error)
	// Owners returns the owners within one cluster that have a rule, each once.
	// It costs one list request for all.
	Owners(ctx context.Context, clusterID string) ([]Owner, error)
	// Drifted returns the owners whose rules are no longer as Ensure last left them. With
	// Cluster.DeleteOrphans it first removes orphaned ports from rules that Services share. It
	// costs one list request for all, more only if there are such ports.
	Drifted(ctx context.Context) ([]Owner, error)
}

// Cluster is what a Firewall has to know about the cluster as a whole.
type Cluster struct {
	// ID is the ClusterID of its owners.
	ID string
	// Services lists the owners that may have rules.
	Services OwnerLister
	// DeleteOrphans makes Drifted remove, from rules that Services share, ports of Services that
	// no longer exist. It is true if the cloud config's mode is managed; in mode report, an
	// administrator removes them.
	DeleteOrphans bool
}

// OwnerLister lists all Services of the cluster that may have rules, whether or
// not Ensure was called for them since the program started.
type OwnerLister func() []Owner

// Package firewall knows what a Service needs open between the internet and
// the nodes, and asks whoever guards that edge to open exactly that.
//
// The wanted state (Spec) is plain data. Who opens it is behind the Firewall
// interface: package firewall/gce for Google Compute Engine, package
// firewall/none where nothing guards the edge. Fake is an in-memory Firewall
// for tests.
package firewall

import (
	"context"
	"net/netip"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Owner is the Service for which something is open. It is written into
// everything that is created, so that ownership can be proved later.
type Owner struct {
	// ClusterID tells this cluster from others in the same project.
	ClusterID string
	// Service is the Service's namespace and name.
	Service types.NamespacedName
	// UID is the Service's UID: a Service created again under its old name is
	// another owner.
	UID types.UID
}

// Port is one port of a Service as clients dial it.
type Port struct {
	Protocol v1.Protocol
	Port     uint16
}

// Spec is what one Service needs open.
type Spec struct {
	Owner Owner
	// Ports may come in any order and may hold duplicates.
	Ports []Port
	// SourceRanges are the client ranges let in, IPv4 and IPv6 mixed. Empty
	// means nobody, not everybody.
	SourceRanges []netip.Prefix
	// Nodes are the provider IDs of the nodes that receive the traffic. Empty
	// means that nothing is to be open.
	Nodes []string
	// Report has nothing changed: what would have to be is said in a
	// *ByHandError.
	Report bool
}

// Firewall opens ports for Services. All methods are safe for concurrent use.
type Firewall interface {
	// Ensure makes what is open for spec.Owner equal to spec, and returns one
	// line for every change that was made (none: it was equal already). A
	// *ByHandError says that somebody else has to change it.
	Ensure(ctx context.Context, spec Spec) (changes []string, err error)
	// Delete closes everything that was opened for owner. Nothing open is no
	// error.
	Delete(ctx context.Context, owner Owner) error
	// Abandon lets go of owner without closing anything. What is still open is
	// said in a *ByHandError.
	Abandon(ctx context.Context, owner Owner) error
	// Exists says whether anything is open for owner. In doubt it returns an
	// error, never false: false lets go of the Service.
	Exists(ctx context.Context, owner Owner) (bool, error)
	// Owners returns everybody within one cluster for whom anything is open,
	// each once. It costs one request, however many there are.
	Owners(ctx context.Context, clusterID string) ([]Owner, error)
	// Drifted returns the Services for which, since Ensure was last called for
	// them, somebody else has changed what is open. It looks once for all.
	Drifted(ctx context.Context) ([]Owner, error)
}

// Roster lists all Services of the cluster that may have something open,
// Ensured so far or not.
type Roster func() []Owner

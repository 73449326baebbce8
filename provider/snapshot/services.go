package snapshot

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Services are the Services of a cluster, indexed. Nobody may change it or what it points to.
type Services struct {
	// claimants are the claims of all Services, in no order, without nodes.
	claimants []*Claim
	// claims are the same by port, the oldest Service first.
	claims map[Port][]*Claim
	// everywhere are by port, and occupy the ports on all nodes. onAddresses occupy them where a node
	// has their address.
	everywhere  map[Port][]Occupant
	onAddresses []addressOccupant
}

// Claim is a Service that claims a port on the nodes that it selects.
type Claim struct {
	Service *v1.Service
	Options options.Options
	// Nodes are the names of the selected nodes. Claims share this map.
	Nodes map[string]bool
	// Rejected reports that the Service cannot be served as it is. It then claims nothing but what
	// it has.
	Rejected bool
}

// Compare orders claims by age, the oldest Service first: by creationTimestamp, then by UID.
func (c Claim) Compare(other Claim) int {
	a, b := c.Service, other.Service
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
}

// Admit returns the options of a Service, or an error if it cannot be served as it is.
type Admit func(*v1.Service) (options.Options, error)

// IndexServices indexes Services. claimants are those that are to be served, and all are all
// Services of the cluster.
func IndexServices(claimants []*v1.Service, admit Admit, all []*v1.Service) *Services {
	s := &Services{claims: map[Port][]*Claim{}, everywhere: map[Port][]Occupant{}}
	ours := make(map[types.UID]bool, len(claimants))
	for _, svc := range claimants {
		ours[svc.UID] = true
		claim := &Claim{Service: svc}
		var err error
		if claim.Options, err = admit(svc); err != nil {
			claim.Rejected = true
		}
		s.claimants = append(s.claimants, claim)
		for _, port := range PortsOf(svc) {
			s.claims[port] = append(s.claims[port], claim)
		}
	}
	for _, claims := range s.claims {
		if len(claims) > 1 {
			slices.SortFunc(claims, func(a, b *Claim) int { return a.Compare(*b) })
		}
	}
	for _, svc := range all {
		s.addOccupants(svc, ours[svc.UID] || isOurs(svc))
	}
	return s
}

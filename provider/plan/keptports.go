package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// ServeOnly makes the plan serve exactly these ports, also those that the Service does not have
// any more. What the firewall has to allow stays as it is.
func (p *Plan) ServeOnly(ports sets.Set[snapshot.Port]) {
	kept := *p.Service
	kept.Spec.Ports = slices.DeleteFunc(snapshot.ServicePorts(p.Service), func(port v1.ServicePort) bool { return !ports.Has(snapshot.PortOf(port)) })
	for _, port := range slices.SortedFunc(maps.Keys(ports.Difference(sets.New(snapshot.PortsOf(&kept)...))), snapshot.Port.Compare) {
		kept.Spec.Ports = append(kept.Spec.Ports, v1.ServicePort{
			Name: fmt.Sprintf("closing-%s-%d", strings.ToLower(string(port.Protocol)), port.Number), Protocol: port.Protocol, Port: port.Number,
		})
	}
	p.Service, p.Mirror.Spec.Ports = &kept, mirrorPorts(&kept)
}

package plan

import (
	"fmt"
	"testing"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// manyServices returns Services that have different ports each.
func manyServices(services, ports int) []*v1.Service {
	var list []*v1.Service
	for i := range services {
		list = append(list, service(func(svc *v1.Service) {
			svc.Name, svc.UID = fmt.Sprint("web", i), types.UID(fmt.Sprint("uid-", i))
			svc.Spec.Ports = nil
			for j := range ports {
				svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Protocol: v1.ProtocolTCP, Port: int32(1 + i*ports + j)})
			}
		}))
	}
	return list
}

// BenchmarkBuild plans one Service among many; BenchmarkIndex indexes all of them, when one has changed,
// and BenchmarkSnapshot takes a snapshot when a node has changed, with the selection that all share.
func BenchmarkBuild(b *testing.B) {
	forManyServices(b, func(b *testing.B, nodes []*v1.Node, services []*v1.Service) {
		cluster := snapshot.New(nodes, services, admit, services)
		for b.Loop() {
			if _, err := settings.Build(Input{Service: services[0], Options: options.Default(), Cluster: cluster}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkIndex(b *testing.B) {
	forManyServices(b, func(b *testing.B, nodes []*v1.Node, services []*v1.Service) {
		for b.Loop() {
			snapshot.IndexServices(services, admit, services)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	forManyServices(b, func(b *testing.B, nodes []*v1.Node, services []*v1.Service) {
		indexed := snapshot.IndexServices(services, admit, services)
		for b.Loop() {
			indexed.On(nodes).Select(options.Default())
		}
	})
}

func forManyServices(b *testing.B, run func(b *testing.B, nodes []*v1.Node, services []*v1.Service)) {
	for _, size := range []struct{ services, ports, nodes int }{
		{10, 10, 50}, {100, 10, 50}, {1000, 10, 50}, {200, 100, 50}, {20, 1000, 50}, {1000, 10, 1000},
	} {
		var nodes []*v1.Node
		for i := range size.nodes {
			n := node(fmt.Sprint("n", i), nil)
			n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250)}}
			nodes = append(nodes, n)
		}
		b.Run(fmt.Sprintf("services=%d/ports=%d/nodes=%d", size.services, size.ports, size.nodes), func(b *testing.B) {
			run(b, nodes, manyServices(size.services, size.ports))
		})
	}
}

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

// BenchmarkBuild plans one Service among many on 50 nodes; BenchmarkSnapshot takes the snapshot
// that all of them share.
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

func BenchmarkSnapshot(b *testing.B) {
	forManyServices(b, func(b *testing.B, nodes []*v1.Node, services []*v1.Service) {
		for b.Loop() {
			snapshot.New(nodes, services, admit, services)
		}
	})
}

func forManyServices(b *testing.B, run func(b *testing.B, nodes []*v1.Node, services []*v1.Service)) {
	var nodes []*v1.Node
	for i := range 50 {
		nodes = append(nodes, node(fmt.Sprint("n", i), nil))
	}
	for _, services := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("services=%d/ports=10", services), func(b *testing.B) { run(b, nodes, manyServices(services, 10)) })
	}
}

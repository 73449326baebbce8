package main

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// scene is how many Services and nodes a cluster has.
type scene struct {
	// Direct Services are served by kube-proxy and publish at most maxNodes nodes, Proxied ones are
	// served by a proxy on each node and publish all.
	Direct, Proxied int
	Nodes           int
}

const (
	maxNodes = 3
	// perNamespace is how many Services a namespace has at most.
	perNamespace = 300
	// firstPort is the port of the first Service. From here to the node ports, none is reserved.
	firstPort = 11000
	maxCount  = 19000
)

func (s scene) services() int { return s.Direct + s.Proxied }

func (s scene) String() string {
	var kinds []string
	if s.Direct > 0 {
		kinds = append(kinds, fmt.Sprintf("%d direct", s.Direct))
	}
	if s.Proxied > 0 {
		kinds = append(kinds, fmt.Sprintf("%d with proxies", s.Proxied))
	}
	return fmt.Sprintf("%s × %d nodes", strings.Join(kinds, ", "), s.Nodes)
}

// parseScene reads KIND:SERVICESxNODES, where KIND is direct or proxies.
func parseScene(written string) (scene, error) {
	kind, sizes, _ := strings.Cut(written, ":")
	services, nodes, _ := strings.Cut(sizes, "x")
	count, err := strconv.Atoi(services)
	if err != nil || count < 1 || count > maxCount {
		return scene{}, fmt.Errorf("%q: write KIND:SERVICESxNODES with 1 to %d Services, such as direct:1000x1000", written, maxCount)
	}
	s := scene{}
	if s.Nodes, err = strconv.Atoi(nodes); err != nil || s.Nodes < 2*maxNodes || s.Nodes > maxCount {
		return scene{}, fmt.Errorf("%q: write KIND:SERVICESxNODES with %d to %d nodes, such as direct:1000x1000", written, 2*maxNodes, maxCount)
	}
	switch kind {
	case "direct":
		s.Direct = count
	case "proxies":
		s.Proxied = count
	default:
		return scene{}, fmt.Errorf("%q: the kind is direct or proxies", written)
	}
	return s, nil
}

// label marks the Services of a scene.
const label = "hostport-scale"

// objects returns the Services of a scene: the direct ones in namespaces direct-0, direct-1, …, the
// others in proxied-0, ….
func (s scene) objects() []*v1.Service {
	var all []*v1.Service
	for i := range s.Direct {
		all = append(all, service("direct", i, firstPort+i, map[string]string{
			options.Datapath: string(options.DatapathDirect), options.MaxNodes: strconv.Itoa(maxNodes),
		}))
	}
	for i := range s.Proxied {
		all = append(all, service("proxied", i, firstPort+s.Direct+i, nil))
	}
	return all
}

func service(kind string, number, port int, annotations map[string]string) *v1.Service {
	name := fmt.Sprintf("s%05d", number)
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: fmt.Sprintf("%s-%d", kind, number/perNamespace), Name: name,
			Labels: map[string]string{label: kind}, Annotations: annotations,
		},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, AllocateLoadBalancerNodePorts: new(bool), Selector: map[string]string{"app": name},
			Ports: []v1.ServicePort{{Port: int32(port), Protocol: v1.ProtocolTCP}},
		},
	}
}

// isDirect reports whether a Service of a scene is served by kube-proxy.
func isDirect(svc *v1.Service) bool { return svc.Labels[label] == "direct" }

func keyOf(svc *v1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}

// machine returns the instance of a node, in one of three zones. Its external address is from the
// range for benchmarks of RFC 2544.
func machine(number int) gcesim.Instance {
	zone := fmt.Sprintf("%s-%c", cluster.Region, 'b'+rune(number%3))
	return gcesim.Instance{
		Name: fmt.Sprintf("n%05d", number), Zone: zone, MachineType: cluster.MachineType, Tags: []string{cluster.NodeTag},
		Interface: gcesim.Interface{NetworkIP: address("10.160", number), NatIP: address("198.18", number)},
	}
}

// changedAddress returns another external address for a machine, which no other has.
func changedAddress(in gcesim.Instance) string {
	return strings.Replace(in.NatIP, "198.18.", "198.19.", 1)
}

func address(prefix string, number int) string {
	return fmt.Sprintf("%s.%d.%d", prefix, number/250, number%250+1)
}

// node returns the Node of a machine as hostport-ccm has initialised it, so that it does not spend
// the time for that in a measurement. kwok makes it Ready.
func node(in gcesim.Instance) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: in.Name,
			Labels: map[string]string{
				v1.LabelOSStable: "linux", v1.LabelArchStable: "amd64", v1.LabelHostname: in.Name,
				v1.LabelInstanceTypeStable: in.MachineType, v1.LabelInstanceType: in.MachineType,
				v1.LabelTopologyZone: in.Zone, v1.LabelFailureDomainBetaZone: in.Zone,
				v1.LabelTopologyRegion: cluster.Region, v1.LabelFailureDomainBetaRegion: cluster.Region,
			},
			Annotations: map[string]string{"alpha.kubernetes.io/provided-node-ip": in.NetworkIP},
		},
		Spec: v1.NodeSpec{ProviderID: "gce://" + cluster.Project + "/" + in.Zone + "/" + in.Name},
		Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: in.NetworkIP},
			{Type: v1.NodeExternalIP, Address: in.NatIP},
			{Type: v1.NodeHostName, Address: in.Name},
			{Type: v1.NodeInternalDNS, Address: in.Name + "." + in.Zone + ".c." + cluster.Project + ".internal"},
		}},
	}
}

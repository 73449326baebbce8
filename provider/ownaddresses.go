package provider

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/iplist"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// ownAddresses reads from Nodes the external addresses that no cloud tells of,
// and says so, once, where something in the annotation is none.
type ownAddresses struct {
	mu       sync.Mutex
	recorder record.EventRecorder // Nil: there is the log only.
	told     map[types.UID]string
}

// useRecorder makes what is wrong an event on the Node, too.
func (a *ownAddresses) useRecorder(recorder record.EventRecorder) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recorder = recorder
}

// external returns a Node's annotated addresses. An entry that is none is left
// out and does not stand in the way of the others.
func (a *ownAddresses) external(ctx context.Context, node *v1.Node) []netip.Addr {
	ips, broken := iplist.Parse(node.Annotations[plan.AnnotationExternalIPs])
	a.warn(ctx, node, broken)
	return ips
}

// addTo returns the nodes with their annotated addresses in their status. A
// kubelet that runs without --cloud-provider=external writes its Node's
// addresses itself and would remove from the status what it does not know.
func (a *ownAddresses) addTo(ctx context.Context, nodes []*v1.Node) []*v1.Node {
	added := slices.Clone(nodes)
	for i, node := range added {
		external := a.external(ctx, node)
		if len(external) == 0 {
			continue
		}
		added[i] = node.DeepCopy()
		for _, ip := range external {
			address := v1.NodeAddress{Type: v1.NodeExternalIP, Address: ip.String()}
			if !slices.Contains(node.Status.Addresses, address) {
				added[i].Status.Addresses = append(added[i].Status.Addresses, address)
			}
		}
	}
	return added
}

// warn tells of broken entries, and again when they are others.
func (a *ownAddresses) warn(ctx context.Context, node *v1.Node, broken []string) {
	var message string
	if len(broken) > 0 {
		message = fmt.Sprintf("annotation %s: left out %s, expected IP addresses of this node separated by commas",
			plan.AnnotationExternalIPs, strings.Join(broken, ", "))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told[node.UID] == message {
		return
	}
	if a.told == nil {
		a.told = map[types.UID]string{}
	}
	a.told[node.UID] = message
	if message == "" {
		delete(a.told, node.UID)
		return
	}
	klog.FromContext(ctx).Info("A node's external addresses cannot all be read", "node", klog.KObj(node), "reason", message)
	if a.recorder != nil {
		a.recorder.Event(node, v1.EventTypeWarning, reasonExternalIPsInvalid, message)
	}
}

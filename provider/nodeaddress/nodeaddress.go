// Package nodeaddress reads the external addresses with which Nodes are annotated where no cloud
// knows them.
package nodeaddress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Annotation of a Node lists its external addresses, separated by commas.
const Annotation = options.Prefix + "external-ips"

// reasonInvalid is the reason of the event on a Node with invalid entries.
const reasonInvalid = "ExternalIPsInvalid"

// maxInvalid is how many bytes of the entries that are not valid a message quotes.
const maxInvalid = 500

// eventRecorder records events. *events.Recorder is one.
type eventRecorder interface {
	Event(object runtime.Object, eventType, reason, message string)
}

// Reader reads the annotation of Nodes, and warns once per Node of entries that are not valid: in
// the log, and by an event on the Node once there is a recorder. The zero value is ready for use,
// and safe for concurrent use. A nil *Reader ignores the annotation.
type Reader struct {
	mu       sync.Mutex
	recorder eventRecorder
	warnings map[types.UID]string
}

// SetRecorder sets the recorder of events. It comes late, as the node controller reads addresses
// before the service controller, which makes the recorder, is started.
func (r *Reader) SetRecorder(recorder eventRecorder) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recorder = recorder
}

// Apply returns the nodes with copies in place of those whose external addresses are not the
// annotated ones. The copies have exactly these in their status, of both IP families: somebody else
// may have written others that are wrong. They cannot be written to the Nodes: a kubelet that runs
// without --cloud-provider=external removes addresses that it does not know.
func (r *Reader) Apply(ctx context.Context, nodes []*v1.Node) []*v1.Node {
	if r == nil {
		return nodes
	}
	result := slices.Clone(nodes)
	for i, node := range nodes {
		if annotated := r.External(ctx, node); len(annotated) > 0 {
			result[i] = withExternal(node, annotated)
		}
	}
	return result
}

func withExternal(node *v1.Node, external []netip.Addr) *v1.Node {
	isExternal := func(a v1.NodeAddress) bool { return a.Type == v1.NodeExternalIP }
	addresses := slices.DeleteFunc(slices.Clone(node.Status.Addresses), isExternal)
	for _, ip := range external {
		addresses = append(addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: ip.String()})
	}
	if slices.Equal(addresses, node.Status.Addresses) {
		return node
	}
	changed := node.DeepCopy()
	changed.Status.Addresses = addresses
	return changed
}

// External returns the annotated addresses of a Node, without those entries that are not valid.
func (r *Reader) External(ctx context.Context, node *v1.Node) []netip.Addr {
	if r == nil {
		return nil
	}
	ips, invalid := Parse(node.Annotations[Annotation])
	r.warn(ctx, node, invalid)
	return ips
}

// warn records the invalid entries of a Node, if they are not those that it recorded last.
func (r *Reader) warn(ctx context.Context, node *v1.Node, invalid []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(invalid) == 0 {
		delete(r.warnings, node.UID)
		return
	}
	message := fmt.Sprintf("annotation %s: ignored %s, expected IP addresses of this node separated by commas",
		Annotation, options.Cut(strings.Join(invalid, ", "), maxInvalid))
	if r.warnings[node.UID] == message {
		return
	}
	if r.warnings == nil {
		r.warnings = map[types.UID]string{}
	}
	r.warnings[node.UID] = message
	klog.FromContext(ctx).Info("Ignored external addresses of a node", "node", klog.KObj(node), "reason", message)
	if r.recorder != nil {
		r.recorder.Event(node, v1.EventTypeWarning, reasonInvalid, message)
	}
}

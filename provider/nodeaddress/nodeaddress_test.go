package nodeaddress

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
)

var (
	internal = v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.1"}
	external = v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.1"}
	another  = v1.NodeAddress{Type: v1.NodeExternalIP, Address: "203.0.113.2"}

	externalIPv6 = v1.NodeAddress{Type: v1.NodeExternalIP, Address: "2001:db8::1"}
)

func node(annotation string, addresses ...v1.NodeAddress) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-uid", Annotations: map[string]string{Annotation: annotation}},
		Status:     v1.NodeStatus{Addresses: addresses},
	}
}

func TestTheAnnotationReplacesAllExternalAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		node   *v1.Node
		want   []v1.NodeAddress
		copied bool
	}{
		"no annotation":              {node("", internal, external), []v1.NodeAddress{internal, external}, false},
		"no valid entry":             {node("x", internal, external), []v1.NodeAddress{internal, external}, false},
		"the addresses it has":       {node("203.0.113.1,203.0.113.2", internal, external, another), []v1.NodeAddress{internal, external, another}, false},
		"an address it lacks":        {node("203.0.113.1,x", internal), []v1.NodeAddress{internal, external}, true},
		"another than it has":        {node("203.0.113.2", internal, external), []v1.NodeAddress{internal, another}, true},
		"one of those it has":        {node("203.0.113.2", external, internal, another), []v1.NodeAddress{internal, another}, true},
		"one of the other IP family": {node("2001:db8::1", internal, external), []v1.NodeAddress{internal, externalIPv6}, true},
		"an internal address of it":  {node("10.0.0.1", internal), []v1.NodeAddress{internal, {Type: v1.NodeExternalIP, Address: "10.0.0.1"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := c.node.DeepCopy()
			got := (&Reader{}).Apply(t.Context(), []*v1.Node{c.node})
			if diff := cmp.Diff(c.want, got[0].Status.Addresses); diff != "" {
				t.Errorf("addresses differ (-want +got):\n%s", diff)
			}
			if copied := got[0] != c.node; copied != c.copied {
				t.Errorf("copied: %t", copied)
			}
			if diff := cmp.Diff(before, c.node); diff != "" {
				t.Errorf("the node itself changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestInvalidEntriesAreOneEvent(t *testing.T) {
	events := record.NewFakeRecorder(10)
	reader := &Reader{}
	reader.SetRecorder(events)
	for _, annotation := range []string{"", "203.0.113.1", "x,203.0.113.1", "x,203.0.113.1", "x", "203.0.113.1", "x"} {
		reader.External(t.Context(), node(annotation))
	}
	want := `Warning ExternalIPsInvalid annotation hostport-ccm.io/external-ips: ignored "x", expected IP addresses of this node separated by commas`
	for range 2 { // And again after it had been right.
		if got := <-events.Events; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
	if len(events.Events) > 0 {
		t.Errorf("another event: %s", <-events.Events)
	}
}

func TestAReaderWithoutRecorderReadsAddresses(t *testing.T) {
	want := []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	if got := (&Reader{}).External(t.Context(), node("x,203.0.113.1")); !cmp.Equal(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestANilReaderIgnoresTheAnnotation(t *testing.T) {
	var reader *Reader
	reader.SetRecorder(record.NewFakeRecorder(0))
	annotated := node("203.0.113.1", internal)
	if got := reader.Apply(t.Context(), []*v1.Node{annotated}); len(got) != 1 || got[0] != annotated || reader.External(t.Context(), annotated) != nil {
		t.Errorf("got %v", got)
	}
}

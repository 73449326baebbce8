//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathPortIsOpenOnlyOnTheNodesThatServe(t *testing.T) {
	t.Parallel()
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		nodes := cluster.Nodes(cluster.GCE)
		serving, other, next := nodes[0], nodes[1], nodes[2]
		newBackend(t, ns, "web")
		listenOnNode(t, ns, other.Name, port)
		svc := d.newService(t, ns, onNode(serving.Name), bothProtocols(port)...)
		wantAddresses(t, svc, time.Minute, d.address(serving))
		wantBothOpen(t, cluster.Internet, port, d.address(serving))

		packets := countPackets(t, other.Name, internetIP(d.address(other)), port)
		wantBothClosed(t, cluster.Internet, port, d.address(other))
		if n := packets(); n != 0 {
			t.Errorf("the firewall allowed %d packets to %s, which does not serve", n, other.Name)
		}

		editService(t, svc, onNode(next.Name))
		wantAddresses(t, svc, time.Minute, d.address(next))
		wantBothOpen(t, cluster.Internet, port, d.address(next))
		wantDestinations(t, svc, d, next)
		listenOnNode(t, ns, serving.Name, port)
		wantBothClosed(t, cluster.Internet, port, d.address(serving), d.address(other))

		// Only the firewall is in the way of clients.
		openManually(t, port, d.v4or6("0.0.0.0/0", "::/0"))
		for _, node := range []cluster.Node{serving, other} {
			wantAnswer(t, node, d.address(node), port)
		}
	})
}

func onNode(name string) func(*v1.Service) {
	return func(svc *v1.Service) {
		metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.NodeSelector, v1.LabelHostname+"="+name)
	}
}

// listenOnNode starts a server in a node's own network, over TCP and UDP, which answers with the
// node's name.
func listenOnNode(t *testing.T, namespace, node string, port int) {
	t.Helper()
	spec := backendPod()
	spec.NodeName, spec.HostNetwork = node, true
	container := &spec.Containers[0]
	container.Args = []string{"netexec", fmt.Sprintf("--http-port=%d", port), fmt.Sprintf("--udp-port=%d", port)}
	container.ReadinessProbe.HTTPGet.Port.IntVal = int32(port)
	name := "listener-on-" + node
	if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, name+" is ready", func(ctx context.Context) error {
		live, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && !isReady(*live) {
			err = fmt.Errorf("it is %s", live.Status.Phase)
		}
		return err
	})
}

// wantDestinations waits until a Service's only rule names the addresses of one node alone.
func wantDestinations(t *testing.T, svc *v1.Service, d datapath, node cluster.Node) {
	t.Helper()
	want := fmt.Sprint([]string{node.InternalIP + "/32", node.ExternalIP + "/32"})
	if d.family == v1.IPv6Protocol {
		want = fmt.Sprint([]string{node.IPv6 + "/128"})
	}
	eventually(t, time.Minute, "the firewall rule names "+node.Name+" alone", func(ctx context.Context) error {
		rules, err := rulesOf(ctx, svc)
		if err == nil && (len(rules) != 1 || fmt.Sprint(rules[0].DestinationRanges) != want) {
			err = fmt.Errorf("want %s, the rules are %+v", want, rules)
		}
		return err
	})
}

// wantAnswer waits until a node's own server answers the internet host over both protocols.
func wantAnswer(t *testing.T, node cluster.Node, address string, port int) {
	t.Helper()
	for _, p := range protocols {
		eventually(t, time.Minute, node.Name+" answers over "+p.name, func(ctx context.Context) error {
			name, err := p.getFrom(cluster.Internet)(ctx, address, port)
			if err == nil && name != node.Name {
				err = fmt.Errorf("%q answered", name)
			}
			return err
		})
	}
}

func TestPortIsServedUntilTheFirewallHasClosedIt(t *testing.T) {
	node := cluster.Nodes(cluster.GCE)[0]
	type losing struct {
		svc        *v1.Service
		kept, lost int
	}
	var all []losing
	for _, d := range datapathsOf(v1.IPv4Protocol) {
		ns, kept, lost := newNamespace(t), freePort(), freePort()
		newBackend(t, ns, "web")
		listenOnNode(t, ns, node.Name, lost)
		svc := d.newService(t, ns, onNode(node.Name), servicePort(v1.ProtocolTCP, kept), servicePort(v1.ProtocolTCP, lost))
		wantAddresses(t, svc, time.Minute, node.ExternalIP)
		wantOpen(t, getTCP, "web", lost, node.ExternalIP)
		all = append(all, losing{svc, kept, lost})
	}
	// Long enough for proxies to terminate meanwhile.
	setOperationLatency(t, 10*time.Second)
	t.Cleanup(func() { setOperationLatency(t, 50*time.Millisecond) })
	for _, l := range all {
		editService(t, l.svc, func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[:1] })
	}
	for _, l := range all {
		eventually(t, time.Minute, "the firewall has closed the port", func(ctx context.Context) error {
			if name, err := quickly(getTCP)(ctx, node.ExternalIP, l.lost); err == nil && name == node.Name {
				t.Errorf("the server on %s was reached", node.Name)
			}
			rules, err := rulesOf(ctx, l.svc)
			if err == nil && (len(rules) != 1 || strings.Contains(fmt.Sprint(rules[0].Allowed), fmt.Sprint(l.lost))) {
				err = fmt.Errorf("the rules are %+v", rules)
			}
			return err
		})
		wantClosed(t, getTCP, l.lost, node.ExternalIP)
	}
	setOperationLatency(t, 50*time.Millisecond)
	for _, l := range all {
		openManually(t, l.lost, "0.0.0.0/0")
		eventually(t, time.Minute, "nothing of ours has the port", func(ctx context.Context) error {
			name, err := getTCP(ctx, node.ExternalIP, l.lost)
			if err == nil && name != node.Name {
				err = fmt.Errorf("%q answered", name)
			}
			return err
		})
		wantOpen(t, getTCP, "web", l.kept, node.ExternalIP)
	}
}

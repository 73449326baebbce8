//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDirectLocalPreservesTheClientAddress(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	with, without := endpointNodes(t, ns, cluster.GCE)
	svc := newService(t, ns, "web", directLocal, bothProtocols(port)...)
	published := ips(with, externalIP)
	wantAddresses(t, svc, time.Minute, published...)
	wantMirror(t, svc, port, ips(cluster.Nodes(cluster.GCE), internalIP)...)
	wantClient(t, port, published...)
	wantClosed(t, getTCP, port, ips(without, externalIP)...)
	wantNoProxies(t, svc)

	deleteService(t, svc)
	wantNothingLeft(t, svc)
	eventually(t, time.Minute, "the port is closed again", func(ctx context.Context) error {
		return isClosed(ctx, getTCP, published[0], port)
	})
}

func directLocal(svc *v1.Service) {
	withDatapath(options.DatapathDirect)(svc)
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

// withDatapath sets a Service's datapath.
func withDatapath(choice options.DatapathChoice) func(*v1.Service) {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.Datapath, string(choice)) }
}

// wantClient waits until backends see the internet host's own address as the client's.
func wantClient(t *testing.T, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		for _, p := range protocols {
			eventually(t, time.Minute, fmt.Sprintf("a backend behind %s:%d sees the %s client", address, port, p.name), func(ctx context.Context) error {
				answer, err := p.ask(ctx, from(cluster.Internet), address, port, askClientIP)
				if err != nil {
					return err
				}
				if seen, _, err := net.SplitHostPort(answer); err != nil || seen != internetIP(address) {
					return fmt.Errorf("it sees %q", answer)
				}
				return nil
			})
		}
	}
}

// endpointNodes returns the nodes with pods of a backend, and those without. It fails the test if
// there are none of either kind.
func endpointNodes(t *testing.T, namespace string, profile cluster.Profile) (with, without []cluster.Node) {
	t.Helper()
	pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range cluster.Nodes(profile) {
		if slices.ContainsFunc(pods.Items, func(p v1.Pod) bool { return p.Spec.NodeName == n.Name }) {
			with = append(with, n)
		} else {
			without = append(without, n)
		}
	}
	if len(with) == 0 || len(without) == 0 {
		t.Fatalf("of the nodes %d have endpoints and %d have none: the test needs both", len(with), len(without))
	}
	return with, without
}

func TestDirectExcludesANodeWhosePodHasTheHostPort(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	nodes := cluster.Nodes(cluster.GCE)
	holder := &v1.Pod{
		// Labels of ours that a user writes do not hide the port.
		ObjectMeta: metav1.ObjectMeta{Name: "holder-1", Labels: map[string]string{plan.LabelManagedBy: plan.ManagedBy, plan.LabelServiceUID: "forged"}},
		Spec: v1.PodSpec{
			NodeName: nodes[0].Name, TerminationGracePeriodSeconds: new(int64),
			Containers: []v1.Container{{
				Name: "agnhost", Image: cluster.AgnhostImage, ImagePullPolicy: v1.PullNever,
				Args:  []string{"netexec", fmt.Sprintf("--http-port=%d", backendPort)},
				Ports: []v1.ContainerPort{{ContainerPort: backendPort, HostPort: 8090}},
			}},
		},
	}
	pods := client.CoreV1().Pods(ns)
	if _, err := pods.Create(t.Context(), holder, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the pod serves on its host port", func(ctx context.Context) error {
		_, err := askTCP(ctx, from(nodes[1].Name), nodes[0].InternalIP, 8090, askHostname)
		return err
	})
	svc := newService(t, ns, "web", withDatapath(options.DatapathDirect), servicePort(v1.ProtocolTCP, 8090))
	wantAddresses(t, svc, time.Minute, externalIPs()[1:]...)
	wantMirror(t, svc, 8090, ips(nodes[1:], internalIP)...)
	wantOpen(t, getTCP, "web", 8090, externalIPs()[1:]...)
	wantOpen(t, getTCP, "holder", 8090, externalIPs()[0])
	wantWarning(t, svc, "HostPortConflict", nodes[0].Name, ns+"/holder-1", "8090/TCP")
	if err := pods.Delete(t.Context(), holder.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", 8090, externalIPs()...)
}

func TestDirectAutoFallsBackToProxiesWithoutAMirror(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	quota := limitLoadBalancers(t, ns, "1")
	with, _ := endpointNodes(t, ns, cluster.GCE)
	svc := newService(t, ns, "web", func(s *v1.Service) { directLocal(s); withDatapath(options.DatapathAuto)(s) }, bothProtocols(port)...)
	wantAddresses(t, svc, time.Minute, ips(with, externalIP)...)
	wantOpen(t, getTCP, "web", port, ips(with, externalIP)...)
	wantWarning(t, svc, "DatapathFallback", ns, "exceeded quota: "+quota, "datapath proxy")

	restore := revokeMirrorRights(t, ns)
	if err := client.CoreV1().ResourceQuotas(ns).Delete(t.Context(), quota, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	touch := func() {
		editService(t, svc, func(s *v1.Service) {
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, "example.com/touched", time.Now().String())
		})
	}
	eventually(t, time.Minute, "a Warning names the component", func(ctx context.Context) error {
		touch()
		return hasWarning(ctx, svc, "DatapathFallback", ns, "manifests/components/direct")
	})
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "there is a mirror", func(ctx context.Context) error {
		touch()
		_, err := mirrorOf(ctx, svc)
		return err
	})
	wantClient(t, port, ips(with, externalIP)...)
}

// limitLoadBalancers limits how many Services of type LoadBalancer a namespace may have, waits
// until the limit is in force, and returns the name of the quota.
func limitLoadBalancers(t *testing.T, namespace, limit string) string {
	t.Helper()
	quota := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: v1.ResourceQuotaSpec{
		Hard: v1.ResourceList{v1.ResourceServicesLoadBalancers: resource.MustParse(limit)},
	}}
	if _, err := client.CoreV1().ResourceQuotas(namespace).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the quota is in force", func(ctx context.Context) error {
		live, err := client.CoreV1().ResourceQuotas(namespace).Get(ctx, quota.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, counts := live.Status.Used[v1.ResourceServicesLoadBalancers]; !counts {
			return fmt.Errorf("its status is %+v", live.Status)
		}
		return nil
	})
	return quota.Name
}

// revokeMirrorRights revokes the right to create mirrors. The function that it returns grants it
// again, once; so does the end of the test.
func revokeMirrorRights(t *testing.T, namespace string) (restore func() error) {
	t.Helper()
	roles := client.RbacV1().ClusterRoleBindings()
	binding, err := roles.Get(t.Context(), "hostport-ccm:direct", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding.ResourceVersion = ""
	restore = sync.OnceValue(func() error {
		_, err := roles.Create(context.WithoutCancel(t.Context()), binding, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
	})
	if err := roles.Delete(t.Context(), binding.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the right to create mirrors is revoked", func(ctx context.Context) error {
		return mayNotCreateServices(ctx, namespace)
	})
	return restore
}

// mayNotCreateServices returns an error if hostport-ccm may create Services in a namespace.
func mayNotCreateServices(ctx context.Context, namespace string) error {
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + cluster.ProductNamespace + ":hostport-ccm",
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "create", Resource: "services"},
		},
	}, metav1.CreateOptions{})
	if err == nil && review.Status.Allowed {
		err = fmt.Errorf("it is allowed: %s", review.Status.Reason)
	}
	return err
}

func TestBareMetalDirectLocalPreservesTheClientAddress(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	with, without := endpointNodes(t, ns, cluster.BareMetal)
	svc := newService(t, ns, "web", func(s *v1.Service) { directLocal(s); inAllFamilies(s) }, bothProtocols(port)...)
	published := addressesOf(with, internalIP)
	wantAddresses(t, svc, time.Minute, published...)
	wantClient(t, port, published...)
	wantClosed(t, getTCP, port, addressesOf(without, internalIP)...)
	wantNoProxies(t, svc)
	wantMode(t, svc, v1.LoadBalancerIPModeVIP)
	if _, err := mirrorOf(t.Context(), svc); err == nil {
		t.Error("there is a mirror, which is not needed")
	}

	editService(t, svc, withDatapath(options.DatapathProxy))
	wantMode(t, svc, v1.LoadBalancerIPModeProxy)
	wantOpen(t, getTCP, "web", port, published...)
}

// wantMode waits until all addresses have a mode.
func wantMode(t *testing.T, svc *v1.Service, mode v1.LoadBalancerIPMode) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the addresses of Service %s have mode %s", svc.Name, mode), func(ctx context.Context) error {
		live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, entry := range live.Status.LoadBalancer.Ingress {
			if *entry.IPMode != mode {
				return fmt.Errorf("%s has mode %s", entry.IP, *entry.IPMode)
			}
		}
		return nil
	})
}

// gracefulPod returns the spec of a backend's pod that serves for a while after SIGTERM, and is ready
// to the end.
func gracefulPod() v1.PodSpec {
	spec := backendPod()
	spec.TerminationGracePeriodSeconds = ptr.To[int64](120)
	container := &spec.Containers[0]
	container.Args = append(container.Args, "--delay-shutdown=90")
	container.ReadinessProbe.HTTPGet.Path = "/" + askHostname
	return spec
}

func TestDirectServesFromATerminatingEndpoint(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	nodes := cluster.Nodes(cluster.GCE)
	ending := newPodOf(t, ns, "web", nodes[0].Name, gracefulPod())
	newPod(t, ns, "web", nodes[1].Name)
	svc := newService(t, ns, "web", func(s *v1.Service) { directLocal(s); withDatapath(options.DatapathAuto)(s); inAllFamilies(s) }, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, addressesOf(nodes[:2], externalIP)...)
	wantOpen(t, getTCP, "web", port, addressesOf(nodes[:2], externalIP)...)
	mirror := wantMirror(t, svc, port, addressesOf(nodes, internalIP)...)

	connections := startNewConnections(t, port, nodes[:1], externalIP)
	ending.remove(t)
	wantAddresses(t, svc, time.Minute, addressesOf(nodes[1:2], externalIP)...)
	wantAddressesStay(t, svc, 5*time.Second, addressesOf(nodes[1:2], externalIP)...)
	connections.wantNoneFailed(t, "while the only endpoint of the node terminates,")
	if now, err := mirrorOf(t.Context(), svc); err != nil || now.ResourceVersion != mirror.ResourceVersion {
		t.Errorf("the mirror was written again (%v)", err)
	}
}

func TestBareMetalDirectServesFromATerminatingEndpoint(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	nodes := cluster.Nodes(cluster.BareMetal)
	ending := newPodOf(t, ns, "web", nodes[0].Name, gracefulPod())
	newPod(t, ns, "web", nodes[1].Name)
	svc := newService(t, ns, "web", func(s *v1.Service) { directLocal(s); inAllFamilies(s) }, servicePort(v1.ProtocolTCP, port))
	both := addressesOf(nodes[:2], internalIP)
	wantAddresses(t, svc, time.Minute, both...)
	wantOpen(t, getTCP, "web", port, both...)

	connections := startNewConnections(t, port, nodes[:1], internalIP)
	ending.remove(t)
	wantAddressesStay(t, svc, 8*time.Second, both...)
	connections.wantNoneFailed(t, "while the only endpoint of the node terminates,")
	zero := int64(0)
	if err := client.CoreV1().Pods(ns).Delete(t.Context(), ending.name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	wantAddresses(t, svc, time.Minute, addressesOf(nodes[1:2], internalIP)...)
}

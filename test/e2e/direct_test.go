//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// by asks for a datapath.
func by(choice options.DatapathChoice) func(*v1.Service) {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, options.Datapath, string(choice)) }
}

func directLocal(svc *v1.Service) {
	by(options.DatapathDirect)(svc)
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

// wantClient waits until the backends see the internet host's own address.
func wantClient(t *testing.T, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		for _, p := range protocols {
			eventually(t, time.Minute, fmt.Sprintf("a backend behind %s:%d sees the %s client", address, port, p.name), func(ctx context.Context) error {
				answer, err := p.ask(ctx, from(cluster.Internet), address, port, whoAmI)
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

// endpointNodes are the nodes of a backend's pods, and all others.
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

func ips(nodes []cluster.Node, of func(cluster.Node) string) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, of(n))
	}
	return list
}

func externalIP(n cluster.Node) string { return n.ExternalIP }
func internalIP(n cluster.Node) string { return n.InternalIP }
func ipv6(n cluster.Node) string       { return n.IPv6 }

// addressesOf are addresses of nodes in each IP family that the sandbox has,
// IPv4 first.
func addressesOf(nodes []cluster.Node, ipv4 func(cluster.Node) string) []string {
	all := ips(nodes, ipv4)
	if sandbox.IPFamily() == cluster.DualStack {
		all = append(all, ips(nodes, ipv6)...)
	}
	return all
}

// mirrorOf returns a Service's only mirror.
func mirrorOf(ctx context.Context, svc *v1.Service) (*v1.Service, error) {
	list, err := client.CoreV1().Services(svc.Namespace).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("there are %d mirrors", len(list.Items))
	}
	return &list.Items[0], nil
}

// wantMirror waits until a Service's mirror has one port and shows exactly these
// addresses.
func wantMirror(t *testing.T, svc *v1.Service, port int32, want ...string) (mirror *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("the mirror of Service %s shows %v", svc.Name, want), func(ctx context.Context) (err error) {
		if mirror, err = mirrorOf(ctx, svc); err != nil {
			return err
		}
		var got []string
		for _, entry := range mirror.Status.LoadBalancer.Ingress {
			got = append(got, entry.IP)
		}
		if !slices.Equal(got, want) || mirror.Spec.Ports[0].Port != port {
			return fmt.Errorf("it shows %v, ports %v", got, mirror.Spec.Ports)
		}
		return nil
	})
	return mirror
}

func TestDirectLocalShowsBackendsTheClientsAddress(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	with, without := endpointNodes(t, ns, cluster.GCE)
	svc := newService(t, ns, "web", directLocal, bothProtocols(port)...)
	published := ips(with, externalIP)
	wantAddresses(t, svc, time.Minute, published...)
	wantMirror(t, svc, int32(port), ips(with, internalIP)...)
	wantClient(t, port, published...)
	wantClosed(t, getTCP, port, ips(without, externalIP)...)
	wantNoProxies(t, svc)

	if err := client.CoreV1().Services(ns).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(t, svc)
	eventually(t, time.Minute, "the port is closed again", func(ctx context.Context) error {
		return isClosed(ctx, getTCP, published[0], port)
	})
}

func TestDirectMirrorIsKept(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", by(options.DatapathDirect), servicePort(v1.ProtocolTCP, int32(port)))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	internal := ips(cluster.Nodes(cluster.GCE), internalIP)
	mirror := wantMirror(t, svc, int32(port), internal...)
	if !metav1.IsControlledBy(mirror, svc) || *mirror.Spec.LoadBalancerClass != plan.MirrorClass || mirror.Spec.Ports[0].NodePort != 0 ||
		mirror.Annotations["external-dns.alpha.kubernetes.io/controller"] != plan.ManagedBy {
		t.Errorf("the mirror is not owned, not hidden, or has node ports: %+v", mirror)
	}
	steady(t, 3*time.Second, "the mirror as it was written", func() error {
		now, err := mirrorOf(t.Context(), svc)
		if err == nil && now.ResourceVersion != mirror.ResourceVersion {
			err = errors.New("it was written again")
		}
		return err
	})

	services := client.CoreV1().Services(ns)
	edited := mirror.DeepCopy()
	edited.Spec.Ports[0].Port = 10250
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user takes the kubelet's port: %v", err)
	}
	edited = mirror.DeepCopy()
	edited.Labels, edited.Annotations = nil, nil
	if _, err := services.Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, int32(port), internal...); again.UID != mirror.UID || len(again.Annotations) != len(mirror.Annotations) {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	withoutPolicy(t)
	edited = mirror.DeepCopy()
	edited.ResourceVersion, edited.Spec.Ports[0].Port, edited.Spec.AllocateLoadBalancerNodePorts = "", int32(freePort()), nil
	eventually(t, time.Minute, "the mirror's ports are edited", func(ctx context.Context) error {
		_, err := services.Update(ctx, edited, metav1.UpdateOptions{})
		return err
	})
	if again := wantMirror(t, svc, int32(port), internal...); again.UID != mirror.UID || again.Spec.Ports[0].NodePort != 0 {
		t.Errorf("the edited mirror was not restored but became %+v", again)
	}
	if err := services.Delete(t.Context(), mirror.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if again := wantMirror(t, svc, int32(port), internal...); again.UID == mirror.UID {
		t.Error("the mirror was not deleted")
	}
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
}

// withoutPolicy takes the policy for mirrors out of force until the test ends.
func withoutPolicy(t *testing.T) {
	t.Helper()
	bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	binding, err := bindings.Get(t.Context(), "hostport-ccm-mirrors", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindings.Delete(t.Context(), binding.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		binding.ResourceVersion = ""
		if _, err := bindings.Create(context.WithoutCancel(t.Context()), binding, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestDirectLeavesAPodItsHostPort(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	nodes := cluster.Nodes(cluster.GCE)
	holder := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "holder-1"},
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
	eventually(t, time.Minute, "the pod has its port", func(ctx context.Context) error {
		_, err := askTCP(ctx, from(nodes[1].Name), nodes[0].InternalIP, 8090, whoAreYou)
		return err
	})
	svc := newService(t, ns, "web", by(options.DatapathDirect), servicePort(v1.ProtocolTCP, 8090))
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

func TestDirectAutoTakesProxiesWhereItMayHaveNoMirror(t *testing.T) {
	const binding = "hostport-ccm:direct"
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	quota := &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: v1.ResourceQuotaSpec{
		Hard: v1.ResourceList{v1.ResourceServicesLoadBalancers: resource.MustParse("1")},
	}}
	if _, err := client.CoreV1().ResourceQuotas(ns).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the quota is in force", func(ctx context.Context) error {
		live, err := client.CoreV1().ResourceQuotas(ns).Get(ctx, quota.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, counts := live.Status.Used[v1.ResourceServicesLoadBalancers]; !counts {
			return fmt.Errorf("its status is %+v", live.Status)
		}
		return nil
	})
	with, _ := endpointNodes(t, ns, cluster.GCE)
	svc := newService(t, ns, "web", func(s *v1.Service) { directLocal(s); by(options.DatapathAuto)(s) }, bothProtocols(port)...)
	wantAddresses(t, svc, time.Minute, ips(with, externalIP)...)
	wantOpen(t, getTCP, "web", port, ips(with, externalIP)...)
	wantWarning(t, svc, "DatapathFallback", ns, "exceeded quota: small", "datapath proxy")

	roles := client.RbacV1().ClusterRoleBindings()
	right, err := roles.Get(t.Context(), binding, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right.ResourceVersion = ""
	restore := sync.OnceValue(func() error {
		_, err := roles.Create(context.WithoutCancel(t.Context()), right, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
	})
	if err := roles.Delete(t.Context(), binding, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the right to make a mirror is gone", func(ctx context.Context) error {
		return mayMakeNoService(ctx, ns)
	})
	if err := client.CoreV1().ResourceQuotas(ns).Delete(t.Context(), quota.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	touch := func(value string) {
		editService(t, svc, func(s *v1.Service) { metav1.SetMetaDataAnnotation(&s.ObjectMeta, "example.com/touched", value) })
	}
	eventually(t, time.Minute, "a Warning names the component", func(ctx context.Context) error {
		touch(time.Now().String())
		return hasWarning(ctx, svc, "DatapathFallback", ns, "manifests/components/direct")
	})
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "there is a mirror", func(ctx context.Context) error {
		touch(time.Now().String())
		_, err := mirrorOf(ctx, svc)
		return err
	})
	wantClient(t, port, ips(with, externalIP)...)
}

// mayMakeNoService says whether hostport-ccm lacks the right to make Services in
// a namespace.
func mayMakeNoService(ctx context.Context, namespace string) error {
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

func TestBareMetalDirectLocalShowsBackendsTheClientsAddress(t *testing.T) {
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
		t.Error("there is a mirror, which nobody needs")
	}

	editService(t, svc, by(options.DatapathProxy))
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

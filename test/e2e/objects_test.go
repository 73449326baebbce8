//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

const namespacePrefix = "e2e-"

// newNamespace creates a namespace that is ready for pods and is deleted when the test ends.
func newNamespace(t *testing.T) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: namespacePrefix}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNamespace(t, ns.Name) })
	eventually(t, time.Minute, "namespace "+ns.Name+" has the ServiceAccount of its pods", func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// deleteNamespace does not wait until the namespace's Services are gone; TestMain does.
func deleteNamespace(t *testing.T, name string) {
	if err := client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

// waitForCleanup waits until hostport-ccm has cleaned up after the Services of earlier tests.
func waitForCleanup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		left, err := namesLeft(ctx)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("earlier tests left %s (%v)", strings.Join(left, ", "), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// namesLeft names the Services of tests and the DaemonSets of proxies that exist.
func namesLeft(ctx context.Context) (names []string, err error) {
	services, err := client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, svc := range services.Items {
		if strings.HasPrefix(svc.Namespace, namespacePrefix) {
			names = append(names, "Service "+svc.Namespace+"/"+svc.Name)
		}
	}
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, set := range sets.Items {
		names = append(names, "DaemonSet "+set.Name)
	}
	return names, nil
}

const backendPort = 8080

// newBackend starts two pods that answer HTTP and UDP on backendPort, and waits until they are
// ready. Their names begin with name.
func newBackend(t *testing.T, namespace, name string) {
	t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       backendPod(),
			},
		},
	}
	if _, err := client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "backend "+name+" is ready", func(ctx context.Context) error {
		d, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && d.Status.ReadyReplicas != *d.Spec.Replicas {
			err = fmt.Errorf("%d of %d pods are ready", d.Status.ReadyReplicas, *d.Spec.Replicas)
		}
		return err
	})
}

// backendPod returns the spec of a backend's pod, which ends without a grace period.
func backendPod() v1.PodSpec {
	return v1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers: []v1.Container{{
			Name: "agnhost", Image: cluster.AgnhostImage, ImagePullPolicy: v1.PullNever,
			Args: []string{"netexec", fmt.Sprintf("--http-port=%d", backendPort), fmt.Sprintf("--udp-port=%d", backendPort)},
			ReadinessProbe: &v1.Probe{
				ProbeHandler:  v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(backendPort)}},
				PeriodSeconds: 1,
			},
		}},
	}
}

// pod is a pod of a backend on a chosen node.
type pod struct{ namespace, name, node, ip string }

// newPod creates a pod of a backend on a node, named after both, and waits until it is ready.
func newPod(t *testing.T, namespace, backend, node string) pod {
	t.Helper()
	return newPodOf(t, namespace, backend, node, backendPod())
}

func newPodOf(t *testing.T, namespace, backend, node string, spec v1.PodSpec) pod {
	t.Helper()
	spec.NodeName = node
	p := pod{namespace: namespace, name: backend + "-" + node, node: node}
	_, err := client.CoreV1().Pods(namespace).Create(t.Context(), &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Labels: map[string]string{"app": backend}}, Spec: spec,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "pod "+p.name+" is ready", func(ctx context.Context) error {
		live, err := client.CoreV1().Pods(namespace).Get(ctx, p.name, metav1.GetOptions{})
		if err == nil && !isReady(*live) {
			err = errors.New("it is not")
		}
		p.ip = live.Status.PodIP
		return err
	})
	return p
}

func (p pod) remove(t *testing.T) {
	t.Helper()
	if err := client.CoreV1().Pods(p.namespace).Delete(t.Context(), p.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// getter returns a getter that asks for a backend's name from within this pod.
func (p pod) getter(over protocol) getter {
	return func(ctx context.Context, address string, port int) (string, error) {
		name := map[string]string{"tcp": "http", "udp": "udp"}[over.name]
		query := url.Values{"host": {address}, "port": {strconv.Itoa(port)}, "protocol": {name}, "request": {askHostname}, "tries": {"1"}}
		_, body, err := httpGet(ctx, attemptTimeout, from(p.node), p.ip, backendPort, "/dial?"+query.Encode())
		if err != nil {
			return "", fmt.Errorf("asking pod %s: %w", p.name, err)
		}
		var reply struct{ Responses, Errors []string }
		if err := json.Unmarshal([]byte(body), &reply); err != nil {
			return "", fmt.Errorf("pod %s replied %q: %w", p.name, body, err)
		}
		if len(reply.Responses) == 0 {
			return "", fmt.Errorf("from pod %s: %v", p.name, reply.Errors)
		}
		return reply.Responses[0], nil
	}
}

// servicePort returns a Service port with backendPort as its target.
func servicePort(protocol v1.Protocol, port int) v1.ServicePort {
	return v1.ServicePort{
		Name: fmt.Sprintf("%s-%d", strings.ToLower(string(protocol)), port), Protocol: protocol,
		Port: int32(port), TargetPort: intstr.FromInt32(backendPort),
	}
}

// newService creates a Service of type LoadBalancer for the backend of the same name.
func newService(t *testing.T, namespace, name string, change func(*v1.Service), ports ...v1.ServicePort) *v1.Service {
	t.Helper()
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": name}, Ports: ports},
	}
	if change != nil {
		change(svc)
	}
	svc, err := client.CoreV1().Services(namespace).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

// newWeb creates a Service with one TCP port and waits until all nodes serve it.
func newWeb(t *testing.T) (svc *v1.Service, port int) {
	t.Helper()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc = newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	return svc, port
}

// editService changes a live Service.
func editService(t *testing.T, svc *v1.Service, change func(*v1.Service)) {
	t.Helper()
	eventually(t, 10*time.Second, "Service "+svc.Name+" is edited", func(ctx context.Context) error {
		live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(live)
		_, err = client.CoreV1().Services(svc.Namespace).Update(ctx, live, metav1.UpdateOptions{})
		return err
	})
}

func deleteService(t *testing.T, svc *v1.Service) {
	t.Helper()
	if err := client.CoreV1().Services(svc.Namespace).Delete(t.Context(), svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// wantAddresses waits until the status lists exactly these addresses, in any order.
func wantAddresses(t *testing.T, svc *v1.Service, limit time.Duration, want ...string) {
	t.Helper()
	eventually(t, limit, fmt.Sprintf("Service %s has addresses %v", svc.Name, want), func(ctx context.Context) error {
		got, err := addresses(ctx, svc)
		if err == nil && !sameElements(got, want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

func sameElements(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// wantAddressesStay checks that the status lists exactly these addresses, in any order, for a period.
func wantAddressesStay(t *testing.T, svc *v1.Service, period time.Duration, want ...string) {
	t.Helper()
	steady(t, period, fmt.Sprintf("Service %s has addresses %v", svc.Name, want), func() error {
		got, err := addresses(t.Context(), svc)
		if err == nil && !sameElements(got, want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

func addresses(ctx context.Context, svc *v1.Service) ([]string, error) {
	live, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, ingress := range live.Status.LoadBalancer.Ingress {
		ips = append(ips, ingress.IP)
	}
	return ips, nil
}

// wantNothingLeft waits until a deleted Service and all objects made for it are gone.
func wantNothingLeft(t *testing.T, svc *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, "nothing is left of Service "+svc.Name, func(ctx context.Context) error {
		if _, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Service is still there, held by its finalizers (%v)", err)
		}
		return hasNoOrphans(ctx, svc)
	})
}

func hasNoOrphans(ctx context.Context, svc *v1.Service) error {
	orphans, err := orphansOf(ctx, svc)
	if err == nil && len(orphans) > 0 {
		err = fmt.Errorf("these objects exist: %s", strings.Join(orphans, ", "))
	}
	return err
}

// orphansOf names the objects and firewall rules that were made for a Service and exist.
func orphansOf(ctx context.Context, svc *v1.Service) (names []string, err error) {
	sets, err := client.AppsV1().DaemonSets(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	for _, set := range sets.Items {
		names = append(names, "DaemonSet "+set.Name)
	}
	maps, err := client.CoreV1().ConfigMaps(cluster.ProductNamespace).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	for _, m := range maps.Items {
		names = append(names, "ConfigMap "+m.Name)
	}
	mirrors, err := client.CoreV1().Services(metav1.NamespaceAll).List(ctx, ownedBy(svc))
	if err != nil {
		return nil, err
	}
	for _, mirror := range mirrors.Items {
		names = append(names, "mirror "+mirror.Name)
	}
	if !sandbox.Profile().OnGCE() {
		return names, nil
	}
	rules, err := rulesOf(ctx, svc)
	for _, rule := range rules {
		names = append(names, "rule "+rule.Name)
	}
	return names, err
}

// ownedBy selects the objects that hostport-ccm made for a Service.
func ownedBy(svc *v1.Service) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: "hostport-ccm.io/service-uid=" + string(svc.UID)}
}

// rulesOf returns the firewall rules with a Service's ownership mark.
func rulesOf(ctx context.Context, svc *v1.Service) ([]gcesim.Firewall, error) {
	state, err := sim.State(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(state.Firewalls, func(f gcesim.Firewall) bool {
		return !strings.Contains(f.Description, string(svc.UID))
	}), nil
}

func withAnnotation(key, value string) func(*v1.Service) {
	return func(svc *v1.Service) { metav1.SetMetaDataAnnotation(&svc.ObjectMeta, key, value) }
}

const drainSeconds = "hostport-ccm.io/drain-seconds"

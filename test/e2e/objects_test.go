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

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// newNamespace makes a namespace that takes pods, and goes, with all in it, when
// the test ends.
func newNamespace(t *testing.T) string {
	t.Helper()
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
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

// deleteNamespace waits for the end of the Services, whose ports the next test
// wants; the rest of the namespace goes in its own time.
func deleteNamespace(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	if _, err := sandbox.Kubectl(ctx, "-n", name, "delete", "services", "--all", "--timeout=110s"); err != nil {
		t.Errorf("clean up: %v", err)
	}
	if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

const backendPort = 8080

// newBackend starts a web server that also answers UDP, both on backendPort,
// and waits until it is ready. Its pods' names begin with name.
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

// backendPod is a pod of a backend: it answers on backendPort, and dies at once.
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

// pod is one that was put on a node.
type pod struct{ namespace, name, node, ip string }

// newPod puts a pod of a backend on a node and waits until it is ready. Its name
// is made of both.
func newPod(t *testing.T, namespace, backend, node string) pod {
	t.Helper()
	spec := backendPod()
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

// getter asks a backend for its pod's name from this pod, which has to be of a
// backend as well.
func (p pod) getter(over protocol) getter {
	return func(ctx context.Context, address string, port int) (string, error) {
		name := map[string]string{"tcp": "http", "udp": "udp"}[over.name]
		query := url.Values{"host": {address}, "port": {strconv.Itoa(port)}, "protocol": {name}, "request": {whoAreYou}, "tries": {"1"}}
		_, body, err := httpGet(ctx, shortly, from(p.node), p.ip, backendPort, "/dial?"+query.Encode())
		if err != nil {
			return "", fmt.Errorf("asking pod %s: %w", p.name, err)
		}
		var said struct{ Responses, Errors []string }
		if err := json.Unmarshal([]byte(body), &said); err != nil {
			return "", fmt.Errorf("pod %s said %q: %w", p.name, body, err)
		}
		if len(said.Responses) == 0 {
			return "", fmt.Errorf("from pod %s: %v", p.name, said.Errors)
		}
		return said.Responses[0], nil
	}
}

// servicePort returns a Service port that leads to a backend.
func servicePort(protocol v1.Protocol, port int32) v1.ServicePort {
	return v1.ServicePort{
		Name: fmt.Sprintf("%s-%d", strings.ToLower(string(protocol)), port), Protocol: protocol,
		Port: port, TargetPort: intstr.FromInt32(backendPort),
	}
}

// newService makes a Service of type LoadBalancer in front of the backend of
// that name.
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

// wantAddresses waits until the status lists exactly these addresses.
func wantAddresses(t *testing.T, svc *v1.Service, limit time.Duration, want ...string) {
	t.Helper()
	eventually(t, limit, fmt.Sprintf("Service %s has addresses %v", svc.Name, want), func(ctx context.Context) error {
		got, err := addresses(ctx, svc)
		if err == nil && !slices.Equal(got, want) {
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

// ownedBy selects what hostport-ccm made for a Service.
func ownedBy(svc *v1.Service) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: "hostport-ccm.io/service-uid=" + string(svc.UID)}
}

// rulesOf returns the firewall rules that carry a Service's mark.
func rulesOf(ctx context.Context, svc *v1.Service) ([]gcesim.Firewall, error) {
	state, err := sim.State(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(state.Firewalls, func(f gcesim.Firewall) bool {
		return !strings.Contains(f.Description, string(svc.UID))
	}), nil
}

// wantNothingLeft waits until a deleted Service and all that was made for it is
// gone.
func wantNothingLeft(t *testing.T, svc *v1.Service) {
	t.Helper()
	eventually(t, time.Minute, "nothing is left of Service "+svc.Name, func(ctx context.Context) error {
		if _, err := client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Service is still there, held by its finalizers (%v)", err)
		}
		return isLeftBehind(ctx, svc)
	})
}

func isLeftBehind(ctx context.Context, svc *v1.Service) error {
	left, err := remnants(ctx, svc)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left are %s", strings.Join(left, ", "))
	}
	return err
}

// remnants names what was made for a Service and is there.
func remnants(ctx context.Context, svc *v1.Service) (names []string, err error) {
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

// wantWarning waits for a Warning event of a Service whose reason and message contain all words.
func wantWarning(t *testing.T, svc *v1.Service, words ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("a Warning of Service %s contains %q", svc.Name, words), func(ctx context.Context) error {
		return hasWarning(ctx, svc, words...)
	})
}

func hasWarning(ctx context.Context, svc *v1.Service, words ...string) error {
	list, err := client.CoreV1().Events(svc.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.uid=" + string(svc.UID)})
	if err != nil {
		return err
	}
	var messages []string
	for _, e := range list.Items {
		message := e.Reason + ": " + e.Message
		if containsAll(message, words) {
			return nil
		}
		messages = append(messages, message)
	}
	return fmt.Errorf("the warnings are %q", messages)
}

func containsAll(s string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(s, word) })
}

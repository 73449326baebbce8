//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/events"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// otherTolerations changes the proxies of a Service.
func otherTolerations(s *v1.Service) {
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, "hostport-ccm.io/tolerations", `[{"operator":"Exists","key":"e2e"}]`)
}

func TestProxiesAreNotReplacedByOnesThatAreRefused(t *testing.T) {
	t.Parallel()
	svc, port := newWeb(t)
	before := proxies(t, svc)
	watch := watchPublished(t, svc, port)
	class := "class-of-" + svc.Namespace
	editService(t, svc, func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/priority-class-name": class, drainSeconds: "0"}
	})
	wantEvent(t, svc, events.ProxyNotCreated, "no PriorityClass with name "+class+" was found", "keeps the proxies")
	wantAddressesStay(t, svc, 5*time.Second, externalIPs()...)
	wantUnchanged(t, svc, before)
	if fewest := watch.stop(t); fewest < len(externalIPs()) {
		t.Errorf("only %d addresses were published at a time", fewest)
	}

	classes := client.SchedulingV1().PriorityClasses()
	if _, err := classes.Create(t.Context(), &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Value: 1}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = classes.Delete(context.WithoutCancel(t.Context()), class, metav1.DeleteOptions{}) })
	eventually(t, 2*time.Minute, "all proxies have been replaced", func(ctx context.Context) error {
		now, err := proxiesOf(ctx, svc)
		for _, p := range now {
			for _, old := range before {
				if p.uid == old.uid {
					err = errors.Join(err, fmt.Errorf("not on %s", p.node))
				}
			}
		}
		if len(now) < len(before) {
			err = errors.Join(err, fmt.Errorf("there are %d", len(now)))
		}
		return err
	})
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

func TestAPolicyThatRefusesANewServicesProxiesIsReported(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	remove := refuseHostPorts(t, ns)
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	began := time.Now()
	wantEvent(t, svc, events.ProxyNotCreated, "no host ports here", "nodes have none")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the event came after %s", took)
	}
	if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
		t.Errorf("addresses %v are published although there is no proxy (%v)", got, err)
	}
	remove()
	wantAddresses(t, svc, 3*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

func TestARolloutWhoseProxiesAreRefusedGoesBack(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", withAnnotation(drainSeconds, "20"), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	editService(t, svc, otherTolerations)
	eventually(t, time.Minute, "the first proxy is being replaced", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, ownedBy(svc))
		if err == nil && !slices.ContainsFunc(pods.Items, func(pod v1.Pod) bool { return pod.DeletionTimestamp != nil }) {
			err = errors.New("none is terminating")
		}
		return err
	})
	// The dry run has passed before.
	refusePods(t, ns, `!object.spec.?tolerations.orValue([]).exists(t, t.?key.orValue("") == "e2e")`, "no such toleration here")
	wantEvent(t, svc, events.ProxyNotCreated, "no such toleration here", "goes back to the proxies that it had")
	eventually(t, 2*time.Minute, "all nodes have a proxy from before", func(ctx context.Context) error {
		return haveAvailable(ctx, svc, len(externalIPs()))
	})
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	// The change is tried again, and refused by the dry run.
	wantAddressesStay(t, svc, 20*time.Second, externalIPs()...)
}

// refuseHostPorts makes the API server refuse proxies of the Services of a namespace. It returns when
// that is in force.
func refuseHostPorts(t *testing.T, namespace string) (remove func()) {
	t.Helper()
	return refusePods(t, namespace, "!object.spec.containers.exists(c, c.?ports.orValue([]).exists(p, has(p.hostPort)))", "no host ports here")
}

// refusePods makes the API server refuse, with these words, proxies of the Services of a namespace for
// which a CEL expression is false. It returns when that is in force.
func refusePods(t *testing.T, namespace, expression, words string) (remove func()) {
	t.Helper()
	admission := client.AdmissionregistrationV1()
	meta := metav1.ObjectMeta{Name: "refuse-proxies-" + namespace}
	_, err := admission.ValidatingAdmissionPolicies().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: meta,
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"hostport-ccm.io/service-namespace": namespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
				}}},
			},
			Validations: []admissionv1.Validation{{Expression: expression, Message: words}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: meta,
		Spec:       admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: meta.Name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}},
	}, metav1.CreateOptions{})
	remove = func() {
		ctx := context.WithoutCancel(t.Context())
		for _, err := range []error{
			admission.ValidatingAdmissionPolicyBindings().Delete(ctx, meta.Name, metav1.DeleteOptions{}),
			admission.ValidatingAdmissionPolicies().Delete(ctx, meta.Name, metav1.DeleteOptions{}),
		} {
			if err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	}
	t.Cleanup(remove)
	if err != nil {
		t.Fatal(err)
	}
	waitRefused(t, words, namespace)
	return remove
}

// waitRefused waits until the API server refuses a pod with a host port, and with the toleration of
// otherTolerations, for the Services of a namespace. What refuses it takes a moment to reach the API
// server.
func waitRefused(t *testing.T, words, namespace string) {
	t.Helper()
	tried := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "tried", Labels: map[string]string{"hostport-ccm.io/service-namespace": namespace}}, Spec: backendPod()}
	tried.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 1, HostPort: 1}}
	tried.Spec.Tolerations = []v1.Toleration{{Key: "e2e", Operator: v1.TolerationOpExists}}
	eventually(t, time.Minute, "the API server refuses pods: "+words, func(ctx context.Context) error {
		_, err := client.CoreV1().Pods(cluster.ProductNamespace).Create(ctx, tried, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil && strings.Contains(err.Error(), words) {
			return nil
		}
		return fmt.Errorf("it says: %w", err)
	})
}

// A limit and a quota are in force for all proxies, so this does not run beside other tests.
func TestLimitsAndQuotasThatRefuseProxiesAreReported(t *testing.T) {
	svc, port := newWeb(t)
	before := proxies(t, svc)
	t.Run("a LimitRange", func(t *testing.T) {
		limits := client.CoreV1().LimitRanges(cluster.ProductNamespace)
		made, err := limits.Create(t.Context(), &v1.LimitRange{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
			Spec:       v1.LimitRangeSpec{Limits: []v1.LimitRangeItem{{Type: v1.LimitTypeContainer, Max: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")}}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		remove := func() { _ = limits.Delete(context.WithoutCancel(t.Context()), made.Name, metav1.DeleteOptions{}) }
		t.Cleanup(remove)
		another := freePort()
		second := newService(t, svc.Namespace, "second", func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, servicePort(v1.ProtocolTCP, another))
		wantEvent(t, second, events.ProxyNotCreated, "maximum cpu usage per Container is 250m", "nodes have none")
		editService(t, svc, otherTolerations)
		wantEvent(t, svc, events.ProxyNotCreated, "maximum cpu usage per Container is 250m", "keeps the proxies")
		editService(t, svc, func(s *v1.Service) { s.Annotations = nil })
		remove()
		wantAddresses(t, second, 3*time.Minute, externalIPs()...)
		wantOpen(t, getTCP, "web", another, externalIPs()...)
	})
	t.Run("a quota that was lowered", func(t *testing.T) {
		quotas := client.CoreV1().ResourceQuotas(cluster.ProductNamespace)
		made, err := quotas.Create(t.Context(), &v1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
			Spec:       v1.ResourceQuotaSpec{Hard: v1.ResourceList{v1.ResourcePods: resource.MustParse("1")}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = quotas.Delete(context.WithoutCancel(t.Context()), made.Name, metav1.DeleteOptions{}) })
		waitRefused(t, "exceeded quota", svc.Namespace)
		editService(t, svc, otherTolerations)
		wantEvent(t, svc, events.ProxyNotCreated, "exceeded quota", "keeps the proxies")
		editService(t, svc, func(s *v1.Service) { s.Annotations = nil })
	})
	wantUnchanged(t, svc, before)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestAPolicyThatChangesProxiesIsReportedOnceAndCausesNoWrites(t *testing.T) {
	ns, port, added := newNamespace(t), freePort(), freePort()
	patchDaemonSets(t, ns, `[JSONPatch{op: "replace", path: "/spec/template/spec/containers/0/resources/requests/cpu", value: "20m"}]`)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantEvent(t, svc, "ObjectOverridden", "DaemonSet", "resources.requests.cpu", "20m", "10m", "managed-by=hostport-ccm")

	writes := daemonSetWrites(t)
	t.Cleanup(func() { cordon(t, "node1", false) })
	cordoned := false
	steady(t, 10*time.Second, "a node that changes, for which all Services are enqueued,", func() error {
		cordoned = !cordoned
		cordon(t, "node1", cordoned)
		return nil
	})
	cordon(t, "node1", false)
	if n := daemonSetWrites(t) - writes; n != 0 {
		t.Errorf("%d writes of DaemonSets while nodes changed", n)
	}
	if events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "reason=ObjectOverridden"}); err != nil || len(events.Items) != 1 || events.Items[0].Count != 1 {
		t.Errorf("not one event: %v (%v)", events, err)
	}

	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, added)) })
	wantOpen(t, getTCP, "web", added, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = s.Spec.Ports[1:] })
	waitClosed(t, getTCP, port, externalIPs()...)
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", added, externalIPs()...)
}

// patchDaemonSets creates a policy that patches the DaemonSets of the Services in a namespace whenever
// they are written, until the test ends, and waits until it is in force.
func patchDaemonSets(t *testing.T, namespace, patch string) {
	t.Helper()
	policies, bindings := client.AdmissionregistrationV1().MutatingAdmissionPolicies(), client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	name := metav1.ObjectMeta{Name: namespace}
	selected := map[string]string{"hostport-ccm.io/service-namespace": namespace}
	policy := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: name, Spec: admissionv1.MutatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{
			ObjectSelector: &metav1.LabelSelector{MatchLabels: selected},
			ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create, admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"daemonsets"}},
			}}},
		},
		FailurePolicy:      ptr.To(admissionv1.Fail),
		ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
		Mutations:          []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: patch}}},
	}}
	if _, err := policies.Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := policies.Delete(context.WithoutCancel(t.Context()), name.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	binding := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: name, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name.Name}}
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bindings.Delete(context.WithoutCancel(t.Context()), name.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	spec := backendPod()
	spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse("10m")}
	probe := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "probe", Labels: selected}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: selected},
		Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selected}, Spec: spec},
	}}
	eventually(t, time.Minute, "the policy is in force", func(ctx context.Context) error {
		made, err := client.AppsV1().DaemonSets(namespace).Create(ctx, probe, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && made.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu().String() == "10m" {
			err = errors.New("a DaemonSet is not changed")
		}
		return err
	})
}

// daemonSetWrites returns how often DaemonSets were written since the API server started, other than
// their status.
func daemonSetWrites(t *testing.T) (n int) {
	t.Helper()
	text, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(strings.NewReader(string(text))); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, "apiserver_request_total{") || !containsAll(line, []string{`resource="daemonsets"`, `subresource=""`}) {
			continue
		}
		for _, verb := range []string{"PUT", "PATCH", "APPLY"} {
			if strings.Contains(line, `verb="`+verb+`"`) {
				var count float64
				if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &count); err != nil {
					t.Fatal(err)
				}
				n += int(count)
			}
		}
	}
	return n
}

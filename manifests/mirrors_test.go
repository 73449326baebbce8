package manifests

import (
	"context"
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// The users of the tests. Of the ServiceAccounts, only ours has a role of the manifests.
var (
	editor       = &user.DefaultInfo{Name: "editor"}
	admin        = &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}
	collector    = serviceAccount("kube-system", "generic-garbage-collector")
	namespaces   = serviceAccount("kube-system", "namespace-controller")
	manager      = &user.DefaultInfo{Name: "system:kube-controller-manager"}
	impersonator = serviceAccount("default", "generic-garbage-collector")
)

func serviceAccount(namespace, name string) user.Info {
	return serviceaccount.UserInfo(namespace, name, "")
}

// rbac grants a ServiceAccount the rules of our role, and the group of administrators everything.
func rbac(t *testing.T, account user.Info) authorizer.AuthorizerFunc {
	t.Helper()
	role := named(t, "hostport-ccm", of[*rbacv1.ClusterRole](t))
	return func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		granted := slices.ContainsFunc(role.Rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.APIGroups, a.GetAPIGroup()) && slices.Contains(rule.Resources, a.GetResource()) && slices.Contains(rule.Verbs, a.GetVerb())
		})
		if slices.Contains(a.GetUser().GetGroups(), user.SystemPrivilegedGroup) || granted && a.GetUser().GetName() == account.GetName() {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}
}

// newMirror returns a mirror as it is stored.
func newMirror(t *testing.T) *v1.Service {
	t.Helper()
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-uid"},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, ClusterIPs: []string{"10.96.0.7"}, Selector: map[string]string{"app": "web"},
			Ports: []v1.ServicePort{{Protocol: v1.ProtocolUDP, Port: 53}},
		},
	}
	p, err := plan.Settings{ClusterID: "alpha", Namespace: namespace}.Build(plan.Input{Service: svc, Options: options.Default(), Cluster: snapshot.New(nil, nil, nil, nil)})
	if err != nil {
		t.Fatal(err)
	}
	p.SetProxiesLabel(true)
	p.Mirror.UID = "mirror-uid"
	p.Mirror.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "10.0.0.1"}}
	return p.Mirror
}

// mirrorWrite is a write, and who may do it.
type mirrorWrite struct {
	write   func(*testing.T) (old, svc *v1.Service)
	allowed []user.Info
}

// mirrorWrites returns writes to mirrors and to other Services; ccm is hostport-ccm.
func mirrorWrites(t *testing.T, ccm user.Info, everybody []user.Info) map[string]mirrorWrite {
	t.Helper()
	edit := func(change func(*v1.Service)) func(*testing.T) (old, svc *v1.Service) {
		return func(t *testing.T) (old, svc *v1.Service) {
			old = newMirror(t)
			svc = old.DeepCopy()
			change(svc)
			return old, svc
		}
	}
	kubernetes := []user.Info{ccm, collector, namespaces, manager}
	writes := map[string]mirrorWrite{
		"creates a mirror":             {func(t *testing.T) (old, svc *v1.Service) { return nil, newMirror(t) }, []user.Info{ccm}},
		"deletes a mirror":             {func(t *testing.T) (old, svc *v1.Service) { return newMirror(t), nil }, kubernetes},
		"removes owner references":     {edit(func(s *v1.Service) { s.OwnerReferences = nil }), kubernetes},
		"changes owner references":     {edit(func(s *v1.Service) { s.OwnerReferences[0].UID = "other" }), kubernetes},
		"adds a finalizer":             {edit(func(s *v1.Service) { s.Finalizers = []string{"example.com/hold"} }), kubernetes},
		"removes labels and the owner": {edit(func(s *v1.Service) { s.Labels, s.OwnerReferences = nil, nil }), []user.Info{ccm}},
		"changes a port":               {edit(func(s *v1.Service) { s.Spec.Ports[0].Port = 10250 }), []user.Info{ccm}},
		"changes the class":            {edit(func(s *v1.Service) { s.Spec.Type, s.Spec.LoadBalancerClass = v1.ServiceTypeClusterIP, nil }), []user.Info{ccm}},
		"changes an address":           {edit(func(s *v1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "10.0.0.2" }), []user.Info{ccm}},
		"adds the first address": {func(t *testing.T) (old, svc *v1.Service) {
			old = newMirror(t)
			svc = old.DeepCopy()
			old.Status = v1.ServiceStatus{}
			return old, svc
		}, []user.Info{ccm}},
		"turns another Service into one": {func(t *testing.T) (old, svc *v1.Service) {
			svc = newMirror(t)
			old = svc.DeepCopy()
			old.Spec.LoadBalancerClass = nil
			return old, svc
		}, []user.Info{ccm}},
		"adds a label of its own":       {edit(func(s *v1.Service) { s.Labels["example.com/team"] = "web" }), everybody},
		"adds an annotation of its own": {edit(func(s *v1.Service) { s.Annotations["example.com/team"] = "web" }), everybody},
		"writes nothing new":            {edit(func(s *v1.Service) { s.ResourceVersion = "2" }), everybody},
		"creates another Service": {func(t *testing.T) (old, svc *v1.Service) {
			svc = newMirror(t)
			svc.Spec.LoadBalancerClass = nil
			return nil, svc
		}, everybody},
		"deletes another Service": {func(t *testing.T) (old, svc *v1.Service) {
			old = newMirror(t)
			old.Spec.LoadBalancerClass = nil
			return old, nil
		}, everybody},
		"creates a Service of type ClusterIP": {func(t *testing.T) (old, svc *v1.Service) {
			return nil, &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
		}, everybody},
	}
	mirror := newMirror(t)
	for key := range mirror.Labels {
		writes["removes label "+key] = mirrorWrite{edit(func(s *v1.Service) { delete(s.Labels, key) }), []user.Info{ccm}}
	}
	for key := range mirror.Annotations {
		writes["changes annotation "+key] = mirrorWrite{edit(func(s *v1.Service) { s.Annotations[key] = "dns" }), []user.Info{ccm}}
	}
	return writes
}

func TestOnlyHostportCCMWritesMirrors(t *testing.T) {
	policy := named(t, "hostport-ccm-mirrors", of[*admissionv1.ValidatingAdmissionPolicy](t))
	validator := compile(t, policy)
	ccm := serviceAccount("renamed-namespace", "renamed-account")
	authz := rbac(t, ccm)
	everybody := []user.Info{ccm, editor, admin, impersonator, collector, namespaces, manager}
	for name, c := range mirrorWrites(t, ccm, everybody) {
		for _, who := range everybody {
			for _, subresource := range []string{"", "status"} {
				old, svc := c.write(t)
				if subresource != "" && (old == nil || svc == nil) {
					continue
				}
				write := serviceWrite{user: who, subresource: subresource, old: old, svc: svc}
				if got, want := len(refusals(t, validator, authz, write)) == 0, slices.Contains(c.allowed, who); got != want {
					t.Errorf("%s %s (%q): allowed %t, want %t", who.GetName(), name, subresource, got, want)
				}
			}
		}
	}
	rules := policy.Spec.MatchConstraints.ResourceRules[0]
	if !slices.Equal(rules.Resources, []string{"services", "services/status"}) || len(rules.Operations) != 3 || *policy.Spec.FailurePolicy != admissionv1.Fail {
		t.Errorf("it applies to %v %v, and fails with %s", rules.Operations, rules.Resources, *policy.Spec.FailurePolicy)
	}
}

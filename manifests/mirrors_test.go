package manifests

import (
	"context"
	"slices"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// mirrorPolicy is the policy for mirrors, compiled as the API server compiles it: see compilePolicy
// in k8s.io/apiserver/pkg/admission/plugin/policy/validating.
func mirrorPolicy(t *testing.T) (*admissionv1.ValidatingAdmissionPolicy, validating.Validator) {
	t.Helper()
	policies := of[*admissionv1.ValidatingAdmissionPolicy](t)
	policy := policies[slices.IndexFunc(policies, func(p *admissionv1.ValidatingAdmissionPolicy) bool { return p.Name == "hostport-ccm-mirrors" })]
	// The first version whose API server has this API.
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(version.MajorMinor(1, 30)))
	if err != nil {
		t.Fatal(err)
	}
	optional, mode := cel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions
	for _, v := range policy.Spec.Variables {
		if result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, optional, mode); result.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, result.Error)
		}
	}
	var conditions, validations []cel.ExpressionAccessor
	for i := range policy.Spec.MatchConditions {
		conditions = append(conditions, (*matchconditions.MatchCondition)(&policy.Spec.MatchConditions[i]))
	}
	for _, v := range policy.Spec.Validations {
		validations = append(validations, &validating.ValidationCondition{Expression: v.Expression})
	}
	matcher := matchconditions.NewMatcher(compiler.CompileCondition(conditions, optional, mode), policy.Spec.FailurePolicy, "policy", "validate", policy.Name)
	none := compiler.CompileCondition(nil, optional, mode)
	return policy, validating.NewValidator(compiler.CompileCondition(validations, optional, mode), matcher, none, none, policy.Spec.FailurePolicy, nil)
}

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
	roles := of[*rbacv1.ClusterRole](t)
	role := roles[slices.IndexFunc(roles, func(r *rbacv1.ClusterRole) bool { return r.Name == "hostport-ccm" })]
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

func TestOnlyHostportCCMWritesMirrors(t *testing.T) {
	policy, validator := mirrorPolicy(t)
	ccm := serviceAccount("renamed-namespace", "renamed-account")
	authz := rbac(t, ccm)
	edit := func(change func(*v1.Service)) func(*testing.T) (old, svc *v1.Service) {
		return func(t *testing.T) (old, svc *v1.Service) {
			old = newMirror(t)
			svc = old.DeepCopy()
			change(svc)
			return old, svc
		}
	}
	everybody := []user.Info{ccm, editor, admin, impersonator, collector, namespaces, manager}
	kubernetes := []user.Info{ccm, collector, namespaces, manager}
	cases := map[string]struct {
		write   func(*testing.T) (old, svc *v1.Service)
		allowed []user.Info
	}{
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
		cases["removes label "+key] = struct {
			write   func(*testing.T) (old, svc *v1.Service)
			allowed []user.Info
		}{edit(func(s *v1.Service) { delete(s.Labels, key) }), []user.Info{ccm}}
	}
	for key := range mirror.Annotations {
		cases["changes annotation "+key] = struct {
			write   func(*testing.T) (old, svc *v1.Service)
			allowed []user.Info
		}{edit(func(s *v1.Service) { s.Annotations[key] = "dns" }), []user.Info{ccm}}
	}
	for name, c := range cases {
		for _, who := range everybody {
			for _, subresource := range []string{"", "status"} {
				old, svc := c.write(t)
				if subresource != "" && (old == nil || svc == nil) {
					continue
				}
				if got, want := allows(t, validator, authz, who, subresource, old, svc), slices.Contains(c.allowed, who); got != want {
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

// allows reports whether a policy allows a user that old becomes svc; old is nil for a new Service,
// svc for a deleted one.
func allows(t *testing.T, v validating.Validator, authz authorizer.AuthorizerFunc, who user.Info, subresource string, old, svc *v1.Service) bool {
	t.Helper()
	kind, resource := v1.SchemeGroupVersion.WithKind("Service"), v1.SchemeGroupVersion.WithResource("services")
	operation, object, oldObject := admission.Update, runtime.Object(svc), runtime.Object(old)
	if old == nil {
		operation, oldObject = admission.Create, nil
	}
	if svc == nil {
		operation, object = admission.Delete, nil
	}
	attributes := &admission.VersionedAttributes{
		Attributes:    admission.NewAttributesRecord(object, oldObject, kind, "default", "web", resource, subresource, operation, nil, false, who),
		VersionedKind: kind,
	}
	if svc != nil {
		attributes.VersionedObject.Set(svc)
	}
	if old != nil {
		attributes.VersionedOldObject.Set(old)
	}
	result := v.Validate(t.Context(), resource, attributes, nil, nil, celconfig.RuntimeCELCostBudget, authz)
	for _, d := range result.Decisions {
		if d.Evaluation == validating.EvalError {
			t.Errorf("evaluation failed: %s", d.Message)
		}
		if d.Action == validating.ActionDeny {
			return false
		}
	}
	return true
}

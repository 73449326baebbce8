package manifests

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const namespace = "hostport-system"

func TestKustomizationsNameExactlyTheFilesThatExist(t *testing.T) {
	for _, path := range files(t, kustomization) {
		var k struct {
			metav1.TypeMeta    `json:",inline"`
			Resources          []string
			ConfigMapGenerator []struct {
				Name, Namespace string
				Files           []string
			}
			Patches []struct {
				Path, Patch string
				Target      struct{ Kind, Name string }
			}
			Images       []struct{ Name, NewTag string }
			Replacements []any // read by the test of the component admission
		}
		if err := yaml.UnmarshalStrict(read(t, path), &k); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		named := []string{kustomization}
		for _, r := range k.Resources {
			if filepath.Ext(r) == ".yaml" {
				named = append(named, r)
			} else {
				read(t, filepath.Join(filepath.Dir(path), r, kustomization))
			}
		}
		for _, g := range k.ConfigMapGenerator {
			named = append(named, g.Files...)
		}
		for _, p := range k.Patches {
			if p.Path != "" {
				named = append(named, p.Path)
			}
		}
		there, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for i, file := range there {
			there[i] = filepath.Base(file)
		}
		slices.Sort(named)
		if diff := cmp.Diff(there, named); diff != "" {
			t.Errorf("%s (-files there +files named):\n%s", path, diff)
		}
	}
}

func TestCloudConfigExamplesLoad(t *testing.T) {
	for _, path := range files(t, cloudConfig) {
		got, err := config.Load(path)
		if err != nil {
			t.Error(err)
			continue
		}
		want := map[string]config.Provider{"gce": config.ProviderGCE, "gke": config.ProviderGCE, "baremetal": config.ProviderNone}[filepath.Base(filepath.Dir(path))]
		if got.Provider != want {
			t.Errorf("%s: provider %q, want %q", path, got.Provider, want)
		}
		if got.LoadBalancer.Namespace != namespace {
			t.Errorf("%s: the proxies' namespace is %s, the rights are granted in %s", path, got.LoadBalancer.Namespace, namespace)
		}
	}
}

func TestAllObjectsAreInTheProductsNamespace(t *testing.T) {
	for _, object := range objects(t) {
		o := object.(metav1.Object)
		if o.GetNamespace() == v1.NamespaceNodeLease { // the rights to read there
			continue
		}
		switch object := object.(type) {
		case *v1.Namespace:
			if o.GetName() != namespace {
				t.Errorf("namespace %s, want %s", o.GetName(), namespace)
			}
		case *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *admissionv1.ValidatingAdmissionPolicy, *admissionv1.ValidatingAdmissionPolicyBinding:
		case *rbacv1.Role:
			reader := o.GetNamespace() == metav1.NamespaceSystem && cmp.Equal(object.Rules, kubeProxyConfig)
			if !reader && o.GetNamespace() != namespace {
				t.Errorf("role %s/%s is outside of %s", o.GetNamespace(), o.GetName(), namespace)
			}
		case *rbacv1.RoleBinding:
			reader := o.GetNamespace() == metav1.NamespaceSystem && slices.Contains([]string{"extension-apiserver-authentication-reader", "hostport-ccm"}, object.RoleRef.Name)
			if !reader && o.GetNamespace() != namespace {
				t.Errorf("role binding %s/%s is outside of %s", o.GetNamespace(), o.GetName(), namespace)
			}
		default:
			if o.GetNamespace() != namespace {
				t.Errorf("%T %s/%s is outside of %s", object, o.GetNamespace(), o.GetName(), namespace)
			}
		}
	}
}

// kubeProxyConfig is the only right of the product's own roles in kube-system.
var kubeProxyConfig = []rbacv1.PolicyRule{{
	APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"kube-proxy"}, Verbs: []string{"get"},
}}

func TestOnlyTheComponentDirectMayWriteServices(t *testing.T) {
	for _, r := range of[*rbacv1.ClusterRole](t) {
		for _, rule := range r.Rules {
			writes := slices.ContainsFunc(rule.Verbs, func(verb string) bool { return !slices.Contains([]string{"get", "list", "watch"}, verb) })
			if writes && slices.Contains(rule.Resources, "services") && r.Name != "hostport-ccm:direct" {
				t.Errorf("role %s may %v services", r.Name, rule.Verbs)
			}
		}
	}
	for _, path := range files(t, kustomization) {
		if strings.HasPrefix(path, "overlays/") && strings.Contains(string(read(t, path)), "components") {
			t.Errorf("%s has components, which are for the user to add", path)
		}
	}
}

func TestEveryPolicyHasABinding(t *testing.T) {
	bindings := of[*admissionv1.ValidatingAdmissionPolicyBinding](t)
	for _, policy := range of[*admissionv1.ValidatingAdmissionPolicy](t) {
		if binding := named(t, policy.Name, bindings); binding.Spec.PolicyName != policy.Name {
			t.Errorf("the binding is of policy %s, not of %s", binding.Spec.PolicyName, policy.Name)
		}
	}
}

func TestRolesHaveNoWildcardsOrPrivilegedRights(t *testing.T) {
	var rules []rbacv1.PolicyRule
	roles := []string{"system:auth-delegator", "extension-apiserver-authentication-reader"}
	for _, r := range of[*rbacv1.ClusterRole](t) {
		rules, roles = append(rules, r.Rules...), append(roles, r.Name)
	}
	for _, r := range of[*rbacv1.Role](t) {
		rules, roles = append(rules, r.Rules...), append(roles, r.Name)
	}
	for _, rule := range rules {
		for _, forbidden := range []string{"*", "secrets", "escalate", "bind", "impersonate", "pods/exec", "serviceaccounts/token"} {
			if slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), forbidden) {
				t.Errorf("rule %v grants %q", rule, forbidden)
			}
		}
	}
	for _, b := range of[*rbacv1.ClusterRoleBinding](t) {
		checkBinding(t, b.Name, b.RoleRef, b.Subjects, roles)
	}
	for _, b := range of[*rbacv1.RoleBinding](t) {
		checkBinding(t, b.Name, b.RoleRef, b.Subjects, roles)
	}
}

func TestNoRightIsGrantedTwice(t *testing.T) {
	everywhere := map[string]string{} // role by right
	check := func(role, right string) {
		if before, twice := everywhere[right]; twice {
			t.Errorf("role %s grants %q, as does role %s", role, right, before)
		}
	}
	for _, r := range of[*rbacv1.ClusterRole](t) {
		for _, rule := range r.Rules {
			for _, right := range rights(rule) {
				check(r.Name, right)
				if len(rule.ResourceNames) == 0 {
					everywhere[right] = r.Name
				}
			}
		}
	}
	for _, r := range of[*rbacv1.Role](t) {
		for _, rule := range r.Rules {
			for _, right := range rights(rule) {
				check(r.Namespace+"/"+r.Name, right)
			}
		}
	}
}

func checkBinding(t *testing.T, name string, role rbacv1.RoleRef, subjects []rbacv1.Subject, roles []string) {
	t.Helper()
	if !slices.Contains(roles, role.Name) {
		t.Errorf("binding %s: there is no role %s", name, role.Name)
	}
	account := of[*v1.ServiceAccount](t)[0]
	want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: account.Name, Namespace: account.Namespace}}
	if diff := cmp.Diff(want, subjects); diff != "" {
		t.Errorf("binding %s: subjects (-want +got):\n%s", name, diff)
	}
}

// rights returns the combinations of API group, resource and verb of a rule.
func rights(rule rbacv1.PolicyRule) []string {
	var all []string
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				all = append(all, fmt.Sprintf("%s %s/%s", verb, group, resource))
			}
		}
	}
	return all
}

func TestPodsHaveNoPrivileges(t *testing.T) {
	for _, d := range of[*appsv1.Deployment](t) {
		pod := d.Spec.Template.Spec
		if pod.HostPID || pod.HostIPC {
			t.Errorf("deployment %s shares processes or memory with the host", d.Name)
		}
		for _, volume := range pod.Volumes {
			if volume.HostPath != nil {
				t.Errorf("deployment %s mounts the host's %s", d.Name, volume.HostPath.Path)
			}
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			yes, no, user := true, false, int64(65532)
			want := v1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user, SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}}
			if diff := cmp.Diff(&want, pod.SecurityContext); diff != "" {
				t.Errorf("deployment %s: pod's security context (-want +got):\n%s", d.Name, diff)
			}
			inner := v1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}}}
			if diff := cmp.Diff(&inner, c.SecurityContext); diff != "" {
				t.Errorf("deployment %s, container %s: security context (-want +got):\n%s", d.Name, c.Name, diff)
			}
		}
	}
}

func TestSelectorsMatchTheirPods(t *testing.T) {
	var deployment *appsv1.Deployment
	for _, d := range of[*appsv1.Deployment](t) {
		if d.Spec.Selector != nil { // the other one is a patch
			deployment = d
		}
	}
	ours := deployment.Spec.Template.Labels
	if diff := cmp.Diff(ours, deployment.Spec.Selector.MatchLabels); diff != "" {
		t.Errorf("deployment's selector (-labels +selector):\n%s", diff)
	}
	if diff := cmp.Diff(ours, of[*policyv1.PodDisruptionBudget](t)[0].Spec.Selector.MatchLabels); diff != "" {
		t.Errorf("disruption budget's selector (-labels +selector):\n%s", diff)
	}
	proxies := map[string]string{plan.LabelName: plan.ProxyName}
	if diff := cmp.Diff(proxies, of[*networkingv1.NetworkPolicy](t)[0].Spec.PodSelector.MatchLabels); diff != "" {
		t.Errorf("network policy's selector (-labels +selector):\n%s", diff)
	}
}

func TestDeploymentReadsTheGeneratedConfig(t *testing.T) {
	for _, d := range of[*appsv1.Deployment](t) {
		if d.Spec.Selector == nil {
			continue
		}
		container := d.Spec.Template.Spec.Containers[0]
		want := "--cloud-config=" + container.VolumeMounts[0].MountPath + "/" + cloudConfig
		if !slices.Contains(container.Args, want) {
			t.Errorf("deployment's arguments %q lack %s", container.Args, want)
		}
	}
}

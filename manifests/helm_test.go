package manifests

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

const chart = "helm/hostport-ccm"

// cloudConfigName is the name of the ConfigMap, which ends with a hash of its content.
var cloudConfigName = regexp.MustCompile(`hostport-cloud-config-[a-z0-9]+`)

// tool runs helm or kustomize, and returns what it prints. The flags are those of the sandbox's
// programs, so that what is shared is compiled once.
func tool(t *testing.T, name string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"tool", "-modfile=../test/sandbox/tools/helm/go.mod", name}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, err
}

// template returns the objects of a chart in a namespace.
func template(t *testing.T, chart, namespace string, args ...string) []runtime.Object {
	t.Helper()
	out, err := tool(t, "helm", append([]string{"template", "hostport-ccm", chart, "--namespace", namespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return decodeRenamed(t, "the chart", out)
}

// decodeRenamed decodes objects, with the name of the ConfigMap without its hash.
func decodeRenamed(t *testing.T, what string, content []byte) []runtime.Object {
	t.Helper()
	return decode(t, what, split(t, what, cloudConfigName.ReplaceAll(content, []byte("hostport-cloud-config"))))
}

// example returns the path of the values of an overlay's example.
func example(profile string) string { return filepath.Join("helm", "examples", profile+".yaml") }

var profiles = []string{"baremetal", "gce", "gke"}

func TestTheChartHasTheObjectsOfTheOverlays(t *testing.T) {
	for _, profile := range profiles {
		t.Run(profile, func(t *testing.T) {
			out, err := tool(t, "kustomize", "build", "overlays/"+profile)
			if err != nil {
				t.Fatal(err)
			}
			want := decodeRenamed(t, profile, out)
			want = slices.DeleteFunc(want, func(o runtime.Object) bool { _, ok := o.(*v1.Namespace); return ok })
			wantObjects(t, want, template(t, chart, namespace, "-f", example(profile)))
		})
	}
}

// wantObjects compares objects in any order, and cloud configs by their meaning.
func wantObjects(t *testing.T, want, got []runtime.Object) {
	t.Helper()
	byName := func(objects []runtime.Object) map[string]any {
		all := map[string]any{}
		for _, object := range objects {
			o, kind := object.(metav1.Object), object.GetObjectKind().GroupVersionKind().Kind
			name := strings.Join([]string{kind, o.GetNamespace(), o.GetName()}, " ")
			if _, twice := all[name]; twice {
				t.Errorf("%s is there twice", name)
			}
			all[name] = object
			if m, ok := object.(*v1.ConfigMap); ok {
				cfg, err := config.Parse([]byte(m.Data[cloudConfig]))
				if err != nil {
					t.Error(err)
				}
				all[name] = cfg
			}
		}
		return all
	}
	if diff := cmp.Diff(byName(want), byName(got)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// The chart shares files with the overlays by symbolic links. Its package has the files.
func TestThePackageOfTheChartHasTheSameObjects(t *testing.T) {
	dir := t.TempDir()
	if _, err := tool(t, "helm", "package", chart, "--destination", dir, "--version", "1.2.3", "--app-version", "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	args := []string{"-f", example("gce"), "--set", "direct.enabled=true,admission.enabled=true,monitoring.enabled=true"}
	got := template(t, filepath.Join(dir, "hostport-ccm-1.2.3.tgz"), namespace, args...)
	wantObjects(t, template(t, chart, namespace, append(args, "--set", "image.tag=v1.2.3,proxyImage.tag=v1.2.3")...), got)
}

func TestTheChartHasTheComponents(t *testing.T) {
	before := template(t, chart, namespace, "-f", example("gce"))
	for _, component := range []string{"direct", "admission", "monitoring"} {
		t.Run(component, func(t *testing.T) {
			var want []runtime.Object
			for _, path := range files(t, "") {
				if strings.HasPrefix(path, "components/"+component+"/") {
					want = append(want, decode(t, path, documents(t, path))...)
				}
			}
			for i, object := range want {
				if _, ok := object.(*admissionv1.ValidatingAdmissionPolicy); ok && component == "admission" {
					want[i] = policyWith(t, defaultSettings(t))
				}
			}
			// The settings are no object of the cluster.
			want = slices.DeleteFunc(want, func(o runtime.Object) bool { _, ok := o.(*v1.ConfigMap); return ok })
			wantObjects(t, slices.Concat(before, want), template(t, chart, namespace, "-f", example("gce"), "--set", component+".enabled=true"))
		})
	}
}

// The settings of the policy are those of the cloud config.
func TestTheChartsAdmissionPolicyHasTheCloudConfig(t *testing.T) {
	strict := admissionConfigs(t)["strict"]
	settings := maps.Clone(strict.settings)
	// Without the reasons, which the cloud config does not have.
	settings["reservedPorts"] = strings.Join(strict.lb.ReservedPorts, "\n")
	settings["ports"] = strings.TrimSpace(settings["ports"])
	values := filepath.Join(t.TempDir(), "values.yaml")
	lb := map[string]any{
		"classes": strict.lb.Classes, "firewall": strict.lb.Firewall, "nodePortRange": strict.lb.NodePortRange, "reservedPorts": strict.lb.ReservedPorts,
		"policy": map[string]any{
			"maxDrainSeconds": strict.lb.Policy.MaxDrainSeconds, "maxPorts": strict.lb.Policy.MaxPorts, "maxSourceRanges": strict.lb.Policy.MaxSourceRanges,
			"priorityClassNames": strict.lb.Policy.PriorityClassNames, "directNamespaces": strict.lb.Policy.DirectNamespaces,
			"firewallNamespaces": []string{}, "ports": strict.lb.Policy.Ports,
		},
	}
	writeYAML(t, values, map[string]any{"cloudConfig": map[string]any{"loadBalancer": lb}})
	got := template(t, chart, namespace, "-f", example("gce"), "-f", values, "--set", "admission.enabled=true")
	i := slices.IndexFunc(got, func(o runtime.Object) bool { _, ok := o.(*admissionv1.ValidatingAdmissionPolicy); return ok })
	policy := got[i].(*admissionv1.ValidatingAdmissionPolicy)
	if diff := cmp.Diff(policyWith(t, settings).Spec, policy.Spec); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	compile(t, policy)
}

func writeYAML(t *testing.T, path string, content any) {
	t.Helper()
	data, err := yaml.Marshal(content)
	if err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheChartIsInItsReleasesNamespace(t *testing.T) {
	const other = "load-balancers"
	objects := template(t, chart, other, "-f", example("gce"), "--set", "direct.enabled=true,admission.enabled=true,monitoring.enabled=true")
	for _, object := range objects {
		data, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(namespace)) {
			t.Errorf("%T %s mentions the default namespace:\n%s", object, object.(metav1.Object).GetName(), data)
		}
		if m, ok := object.(*v1.ConfigMap); ok {
			cfg, err := config.Parse([]byte(m.Data[cloudConfig]))
			if err != nil || cfg.LoadBalancer.Namespace != other {
				t.Errorf("the cloud config has the proxies in another namespace than %s (%v):\n%s", other, err, m.Data[cloudConfig])
			}
		}
	}
}

func TestEveryValueOfTheChartHasItsEffect(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(`
image: {repository: registry.example/ccm, tag: v9, pullPolicy: Always}
proxyImage: {repository: registry.example/proxy, tag: v8}
imagePullSecrets: [{name: registry}]
replicas: 3
logLevel: 4
extraArgs: [--kube-api-qps=50]
env: [{name: HTTPS_PROXY, value: "http://proxy.example:3128"}]
serviceAccount: {annotations: {iam.gke.io/gcp-service-account: ccm@p.iam.gserviceaccount.com}}
podAnnotations: {example.com/team: network}
priorityClassName: ""
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
resources: {limits: {memory: 1Gi}}
nodeSelector: {pool: infra}
affinity: {nodeAffinity: {}}
tolerations: [{operator: Exists}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	objects := template(t, chart, namespace, "-f", example("baremetal"), "-f", values)
	written, err := yaml.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"image: registry.example/ccm:v9", "imagePullPolicy: Always", "proxyImage: registry.example/proxy:v8", "imagePullSecrets:\n        - name: registry",
		"replicas: 3", "- --v=4", "- --kube-api-qps=50", "name: HTTPS_PROXY", "iam.gke.io/gcp-service-account: ccm@p.iam.gserviceaccount.com",
		"example.com/team: network", "hostNetwork: true", "dnsPolicy: ClusterFirstWithHostNet", "memory: 1Gi", "pool: infra", "nodeAffinity: {}", "- operator: Exists",
	} {
		if !strings.Contains(string(written), want) {
			t.Errorf("there is no %q in\n%s", want, written)
		}
	}
	if strings.Contains(string(written), "priorityClassName") {
		t.Error("the pods have a priority class")
	}
}

// A change of the cloud config replaces the pods, which read it at their start only, and leaves that of the pods
// that run as it is.
func TestTheChartsCloudConfigHasItsHashInItsName(t *testing.T) {
	name := func(args ...string) string {
		out, err := tool(t, "helm", append([]string{"template", "hostport-ccm", chart, "--namespace", namespace, "-f", example("gce")}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		names := cloudConfigName.FindAllString(string(out), -1)
		if len(names) != 2 || names[0] != names[1] || !strings.Contains(string(out), "helm.sh/resource-policy: keep") {
			t.Errorf("the ConfigMap and the Deployment have the names %v, want one, which Helm keeps", names)
		}
		return names[0]
	}
	before, same, changed := name(), name("--set", "logLevel=4"), name("--set", "cloudConfig.loadBalancer.failover=kubernetes")
	if before != same || before == changed {
		t.Errorf("names %q, with another log level %q, with another cloud config %q", before, same, changed)
	}
}

// The schema reports all wrong values at once.
func TestTheChartRefusesWrongValues(t *testing.T) {
	for _, wrong := range []map[string]string{
		{
			"cloudConfig.clusterID=My_Cluster":             "/cloudConfig/clusterID",
			"cloudConfig.provider=aws":                     "/cloudConfig/provider",
			"cloudConfig.loadBalancer.datapth=direct":      "'datapth'",
			"cloudConfig.loadBalancer.datapath=fast":       "/cloudConfig/loadBalancer/datapath",
			"cloudConfig.loadBalancer.policy.maxPorts=no":  "/cloudConfig/loadBalancer/policy/maxPorts",
			"cloudConfig.loadBalancer.nodePortRange=1:2":   "/cloudConfig/loadBalancer/nodePortRange",
			"cloudConfig.loadBalancer.reservedPorts={ssh}": "/cloudConfig/loadBalancer/reservedPorts/0",
			"cloudConfig.gce.nodeTags=tag":                 "/cloudConfig/gce/nodeTags",
			"replica=3":                                    "'replica'",
			"direct=true":                                  "/direct",
			"image.pullPolicy=Sometimes":                   "/image/pullPolicy",
			"image.repository=registry.example/ccm:v1":     "/image/repository",
			"proxyImage.repository=r.example/p@sha256:01":  "/proxyImage/repository",
			"nodeSelector.gpu=true":                        "/nodeSelector/gpu",
			"logLevel=null":                                "'logLevel'",
		},
		{
			"cloudConfig.clusterID=":                      "/cloudConfig/clusterID",
			"cloudConfig.provider=none":                   "/cloudConfig/gce",
			"cloudConfig.loadBalancer.proxyImage=p":       "'proxyImage'",
			"cloudConfig.loadBalancer.policy.maxPorts=-1": "/cloudConfig/loadBalancer/policy/maxPorts",
		},
	} {
		args := []string{"-f", example("gce")}
		for set := range wrong {
			args = append(args, "--set", set)
		}
		wantRefused(t, namespace, args, slices.Collect(maps.Values(wrong))...)
	}
	wantRefused(t, namespace, nil, "/cloudConfig/clusterID", "/cloudConfig/provider")
	wantRefused(t, metav1.NamespaceSystem, []string{"-f", example("gce")}, "kube-system is not for hostport-ccm")
	wantRefused(t, namespace, []string{"-f", example("baremetal"), "--set", "direct.enabled=true"}, "direct.enabled grants")
}

// wantRefused checks that the chart cannot be rendered, with an error that has all words.
func wantRefused(t *testing.T, namespace string, args []string, words ...string) {
	t.Helper()
	_, err := tool(t, "helm", append([]string{"template", "hostport-ccm", chart, "--namespace", namespace}, args...)...)
	if err == nil {
		t.Errorf("the chart accepts %v", args)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error has no %q: %v", word, err)
		}
	}
}

func TestHelmLintsTheChart(t *testing.T) {
	for _, profile := range profiles {
		if _, err := tool(t, "helm", "lint", "--strict", chart, "--namespace", namespace, "-f", example(profile)); err != nil {
			t.Error(err)
		}
	}
}

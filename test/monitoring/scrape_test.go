package monitoring

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
)

const guide = "../../docs/how-to/monitoring.md"

// scrapeConfig is what the guide has for a Prometheus without the operator.
func scrapeConfig(t *testing.T) string {
	t.Helper()
	const begin, end = "```yaml\nscrape_configs:\n", "```"
	_, config, found := strings.Cut(read(t, guide), begin)
	if !found {
		t.Fatalf("%s has no scrape_configs", guide)
	}
	config, _, _ = strings.Cut(config, end)
	return "scrape_configs:\n" + config
}

func TestPrometheusAcceptsTheScrapeConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(scrapeConfig(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "config", "--syntax-only", file)
}

// relabelings returns the rules for a job in the guide.
func relabelings(t *testing.T, job string) []*relabel.Config {
	t.Helper()
	var file struct {
		Scrapes []struct {
			Job     string            `yaml:"job_name"`
			Configs []*relabel.Config `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal([]byte(scrapeConfig(t)), &file); err != nil {
		t.Fatal(err)
	}
	for _, s := range file.Scrapes {
		if s.Job == job {
			return s.Configs
		}
	}
	t.Fatalf("there is no job %s", job)
	return nil
}

// ofMonitor returns the rules of the PodMonitor, after those that the operator adds, as far as they matter.
func ofMonitor(t *testing.T) []*relabel.Config {
	t.Helper()
	monitor := document[monitoringv1.PodMonitor](t, "monitors.yaml", 2)
	endpoint := monitor.Spec.PodMetricsEndpoints[0]
	if endpoint.Port != nil || endpoint.PortNumber != nil || len(monitor.Spec.PodMetricsEndpoints) != 1 {
		t.Fatalf("endpoints %+v: the pods declare no port of their metrics", monitor.Spec.PodMetricsEndpoints)
	}
	var all []*relabel.Config
	add := func(source, target string) {
		c := relabel.DefaultRelabelConfig
		c.SourceLabels, c.TargetLabel = model.LabelNames{model.LabelName(source)}, target
		all = append(all, &c)
	}
	add("__meta_kubernetes_namespace", "namespace")
	add("__meta_kubernetes_pod_container_name", "container")
	add("__meta_kubernetes_pod_name", "pod")
	for _, r := range endpoint.RelabelConfigs {
		c := relabel.DefaultRelabelConfig
		for _, label := range r.SourceLabels {
			c.SourceLabels = append(c.SourceLabels, model.LabelName(label))
		}
		c.TargetLabel = r.TargetLabel
		if r.Regex != "" {
			c.Regex = relabel.MustNewRegexp(r.Regex)
		}
		if r.Replacement != nil {
			c.Replacement = *r.Replacement
		}
		if r.Action != "" {
			c.Action = relabel.Action(strings.ToLower(r.Action))
		}
		all = append(all, &c)
	}
	return all
}

// pod is a pod as Prometheus' service discovery shows it: a target for each declared port of a container,
// or one without a port.
type pod struct {
	name, ip    string
	annotations map[string]string
	containers  map[string][]int
}

func (p pod) targets() (all []labels.Labels) {
	for name, ports := range p.containers {
		for _, port := range append(ports, 0)[:max(1, len(ports))] {
			b := labels.NewBuilder(labels.FromStrings(
				"__meta_kubernetes_namespace", "hostport-system", "__meta_kubernetes_pod_name", p.name, "__meta_kubernetes_pod_ip", p.ip,
				"__meta_kubernetes_pod_container_name", name, "__meta_kubernetes_pod_node_name", "n1", "__meta_kubernetes_pod_phase", "Running",
				"__meta_kubernetes_pod_label_app_kubernetes_io_name", "hostport-nodeproxy",
				"__meta_kubernetes_pod_label_hostport_ccm_io_service_namespace", "shop", "__meta_kubernetes_pod_label_hostport_ccm_io_service_name", "web",
				"__address__", p.ip))
			if port != 0 {
				b.Set("__address__", fmt.Sprintf("%s:%d", p.ip, port)).Set("__meta_kubernetes_pod_container_port_number", fmt.Sprint(port))
			}
			for key, value := range p.annotations {
				b.Set("__meta_kubernetes_pod_annotation_"+strings.NewReplacer(".", "_", "-", "_", "/", "_").Replace(key), value)
			}
			all = append(all, b.Labels())
		}
	}
	return all
}

func TestEachProxyIsOneTarget(t *testing.T) {
	for way, configs := range map[string][]*relabel.Config{"PodMonitor": ofMonitor(t), "scrape config": relabelings(t, "hostport-nodeproxy")} {
		for _, c := range configs {
			c.NameValidationScheme = model.UTF8Validation // As by default.
		}
		for _, c := range []struct {
			pod  pod
			want string
		}{
			{pod{"web-a", "10.1.0.5", nil, map[string][]int{"proxy": {80, 443}}}, "10.1.0.5:10270"},
			{pod{"web-b", "fd00:1::5", nil, map[string][]int{"proxy": {80}, "forward-ipv6": nil}}, "[fd00:1::5]:10270"},
			{pod{"web-c", "10.1.0.6", map[string]string{"hostport-ccm.io/metrics-port": "10272"}, map[string][]int{"proxy": {10270, 10271}}}, "10.1.0.6:10272"},
			{pod{"web-d", "fd00:1::6", map[string]string{"hostport-ccm.io/metrics-port": "10271"}, map[string][]int{"proxy": {10270}}}, "[fd00:1::6]:10271"},
		} {
			found := map[string]labels.Labels{}
			for _, target := range c.pod.targets() {
				b := labels.NewBuilder(target)
				if !relabel.ProcessBuilder(b, configs...) {
					continue
				}
				b.Labels().Range(func(l labels.Label) { // Prometheus ignores the others.
					if strings.HasPrefix(l.Name, "__") && l.Name != model.AddressLabel {
						b.Del(l.Name)
					}
				})
				found[b.Labels().String()] = b.Labels()
			}
			if len(found) != 1 {
				t.Errorf("%s, pod %s: targets %v, want one", way, c.pod.name, slices.Collect(maps.Keys(found)))
				continue
			}
			for _, target := range found {
				for label, want := range map[string]string{"__address__": c.want, "namespace": "hostport-system", "pod": c.pod.name, "node": "n1", "service_namespace": "shop", "service_name": "web"} {
					if got := target.Get(label); got != want {
						t.Errorf("%s, pod %s: %s is %q, want %q", way, c.pod.name, label, got, want)
					}
				}
			}
		}
	}
}

func TestTheServiceMonitorReadsTheServicesPort(t *testing.T) {
	monitor := document[monitoringv1.ServiceMonitor](t, "monitors.yaml", 1)
	endpoint := monitor.Spec.Endpoints[0]
	//lint:ignore SA1019 there is no other field for Prometheus' own token
	if endpoint.Port != "https" || endpoint.BearerTokenFile == "" || endpoint.TLSConfig == nil {
		t.Errorf("endpoint %+v", endpoint)
	}
}

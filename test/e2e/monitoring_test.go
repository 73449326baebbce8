//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// TestMonitoringWithPrometheus runs Prometheus on the host control with the scrape config of
// docs/how-to/monitoring.md, and asks it what the dashboard asks. `make monitoring` runs it, as to build
// Prometheus takes minutes.
func TestMonitoringWithPrometheus(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	web := newService(t, ns, "web", withAnnotation("hostport-ccm.io/max-connections-per-client", "1000"), servicePort(v1.ProtocolTCP, port))
	wantAddresses(t, web, time.Minute, externalIPs()...)
	prom := startPrometheus(t, ns)
	// Metrics that count what happens rise from here.
	loser := newService(t, ns, "loser", nil, servicePort(v1.ProtocolTCP, port))
	editService(t, web, func(s *v1.Service) { s.Spec.LoadBalancerSourceRanges = []string{cluster.InternetIP + "/32"} })
	for _, address := range externalIPs() {
		live := openLiveConns(t, 5, address, port)
		t.Cleanup(func() { live.wantAlive(t) })
	}

	prom.wantSeries(t, `sum(up{job="hostport-ccm"}) == 2`)
	prom.wantSeries(t, `sum(up{job="hostport-nodeproxy",service_namespace="`+ns+`",service_name="web"}) == 3`)
	for _, query := range dashboardQueries(t) {
		prom.wantSeries(t, query)
	}
	prom.wantSeries(t, `hostport_ccm_services{state="published"} == 1 and on() hostport_ccm_services{state="conflict"} == 1`)
	prom.wantSeries(t, `hostport_ccm_service_warnings{reason="PortConflict"} == 1`)
	prom.wantSeries(t, `hostport_ccm_proxies{state="ready"} == 3`)
	prom.wantSeries(t, `sum(hostport_nodeproxy_port_tracked_connections{service_name="web"}) >= 15`)
	prom.wantSeries(t, `ALERTS{alertname="HostportServiceIncomplete",state="conflict",alertstate="pending"}`)
	if others := prom.query(t, `ALERTS{alertname!="HostportServiceIncomplete"}`); len(others) > 0 {
		t.Errorf("there are alerts although all is well: %s", others)
	}
	deleteService(t, loser)
	prom.wantSeries(t, `hostport_ccm_services{state="conflict"} == 0`)
}

// prometheus is one that runs on the host control.
type prometheus struct{ http http.Client }

const prometheusAddress = "127.0.0.1:9090"

// startPrometheus starts one that has the rights that the documentation says, until the test ends.
func startPrometheus(t *testing.T, namespace string) prometheus {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "prometheus")
	build := exec.CommandContext(t.Context(), "go", "-C", "../monitoring", "build", "-tags", "remove_all_sd,enable_kubernetes_sd", "-o", program, "github.com/prometheus/prometheus/cmd/prometheus")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Prometheus: %v\n%s", err, out)
	}
	token := filepath.Join(dir, "token")
	writeFile(t, token, []byte(tokenOfPrometheus(t, namespace)))
	config := filepath.Join(dir, "prometheus.yaml")
	writeFile(t, config, scrapeConfig(t, token))
	writeFile(t, filepath.Join(dir, "rules.yaml"), alertRules(t))
	log, stop, err := sandbox.Daemon(cluster.Control, "prometheus", program, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAddress)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	p := prometheus{http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return sandbox.Dial(ctx, cluster.Control, network, address)
	}}}}
	eventually(t, time.Minute, "Prometheus answers, its log is "+log, func(ctx context.Context) error {
		_, err := p.ask(ctx, "up")
		return err
	})
	return p
}

// tokenOfPrometheus returns a token of a new ServiceAccount with the role of the component.
func tokenOfPrometheus(t *testing.T, namespace string) string {
	t.Helper()
	if _, err := sandbox.Kubectl(t.Context(), "apply", "-f", "../../manifests/components/monitoring/rbac.yaml"); err != nil {
		t.Fatal(err)
	}
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "prometheus"}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-prometheus"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "hostport-ccm:metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account.Name}},
	}
	bindings := client.RbacV1().ClusterRoleBindings()
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bindings.Delete(context.WithoutCancel(t.Context()), binding.Name, metav1.DeleteOptions{}) })
	request, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// scrapeConfig returns the documented config, for a Prometheus that is no pod: with a kubeconfig to find
// pods, and the path of its token.
func scrapeConfig(t *testing.T, token string) []byte {
	t.Helper()
	page, err := os.ReadFile("../../docs/how-to/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```yaml\n(scrape_configs:.*?)```").FindSubmatch(page)
	if block == nil {
		t.Fatal("the page has no scrape config")
	}
	text := strings.ReplaceAll(string(block[1]), "/var/run/secrets/kubernetes.io/serviceaccount/token", token)
	text = strings.ReplaceAll(text, "- role: pod\n", "- role: pod\n    kubeconfig_file: "+sandbox.Kubeconfig()+"\n")
	return []byte("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yaml]\n" + text)
}

// alertRules returns the alerts as a rule file.
func alertRules(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../../manifests/components/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rule struct{ Spec map[string]any }
	if err := yaml.Unmarshal(text, &rule); err != nil {
		t.Fatal(err)
	}
	rules, err := yaml.Marshal(rule.Spec)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// dashboardQueries returns the queries of all panels, for all Services.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	text, err := os.ReadFile("../../manifests/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "30s", "$namespace", ".*", "$service", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, variables.Replace(target.Expr))
		}
	}
	if len(queries) < 20 {
		t.Fatalf("the dashboard has %d queries only", len(queries))
	}
	return queries
}

// wantSeries waits until a query has a result that is not empty.
func (p prometheus) wantSeries(t *testing.T, query string) {
	t.Helper()
	eventually(t, time.Minute, query, func(ctx context.Context) error {
		result, err := p.ask(ctx, query)
		if err == nil && len(result) == 0 {
			err = fmt.Errorf("there is no such series")
		}
		return err
	})
}

func (p prometheus) query(t *testing.T, query string) []json.RawMessage {
	t.Helper()
	result, err := p.ask(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// ask returns the series of a query's result.
func (p prometheus) ask(ctx context.Context, query string) ([]json.RawMessage, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+prometheusAddress+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return nil, err
	}
	response, err := p.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var reply struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	if reply.Status != "success" {
		return nil, fmt.Errorf("%s: %s", query, reply.Error)
	}
	return reply.Data.Result, nil
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const auditLog = `{"verb":"patch","requestURI":"/api/v1/namespaces/a/services/s/status","objectRef":{"resource":"services","subresource":"status","namespace":"a","name":"s","apiVersion":"v1"},"responseStatus":{"code":200}}
{"verb":"create","requestURI":"/api/v1/namespaces/h/pods?dryRun=All","objectRef":{"resource":"pods","namespace":"h"},"responseStatus":{"code":403}}
{"verb":"update","requestURI":"/apis/coordination.k8s.io/v1/namespaces/h/leases/l","objectRef":{"resource":"leases","namespace":"h","name":"l","apiGroup":"coordination.k8s.io"}}
{"verb":"create","requestURI":"/api/v1/namespaces/hostport-system/events","objectRef":{"resource":"events","namespace":"hostport-system"}}
{"verb":"create","requestURI":"/api/v1/namespaces/a/events","objectRef":{"resource":"events","namespace":"a"}}
{"verb":"list","requestURI":"/api/v1/nodes","objectRef":{"resource":"nodes"}}
`

func TestAuditLogsAreParsed(t *testing.T) {
	got, length, err := parseAudit([]byte(auditLog + `{"verb":"pat`))
	want := []request{
		{Verb: "patch", Resource: "services/status", Namespace: "a", Name: "s"},
		{Verb: "dry-run", Resource: "pods", Namespace: "h", Refused: 403},
		{Verb: "create", Resource: "events", Namespace: "a"},
		{Verb: "list", Resource: "nodes"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil || length != len(auditLog) {
		t.Errorf("%d of %d bytes, error %v, requests (-want +got):\n%s", length, len(auditLog), err, diff)
	}
	if _, _, err := parseAudit([]byte("not JSON\n")); err == nil {
		t.Error("no error for a line that is no JSON")
	}
}

func TestAuditReaderReturnsWhatIsNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	reader := auditReader{path: path}
	half := strings.Index(auditLog, "coordination")
	for _, step := range []struct {
		log  string
		want int
	}{{auditLog[:half], 2}, {auditLog, 2}, {auditLog, 0}} {
		if err := os.WriteFile(path, []byte(step.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := reader.next(); err != nil || len(got) != step.want {
			t.Errorf("%d requests, %v; want %d", len(got), err, step.want)
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	requests := []request{
		{Verb: "patch", Resource: "services/status", Namespace: "a", Name: "s"},
		{Verb: "patch", Resource: "services/status", Namespace: "a", Name: "s"},
		{Verb: "patch", Resource: "services/status", Namespace: "b", Name: "s"},
		{Verb: "patch", Resource: "services/status", Namespace: "b", Name: "hostport-s-1"},
		{Verb: "patch", Resource: "services/status", Namespace: "b", Name: "hostport-s-1"},
		{Verb: "patch", Resource: "services/status", Namespace: "b", Name: "hostport-s-1"},
		{Verb: "dry-run", Resource: "pods"},
		{Verb: "get", Resource: "services"},
		{Verb: "watch", Resource: "services"},
		{Verb: "create", Resource: "services", Refused: 403},
	}
	if got := count(requests, request.isWrite).String(); got != "6 patch services/status, 1 create services (status 403)" {
		t.Errorf("writes: %s", got)
	}
	if got := count(requests, isRead).String(); got != "1 dry-run pods, 1 get services" {
		t.Errorf("reads: %s", got)
	}
	if got := count(nil, isRead).String(); got != "none" {
		t.Errorf("no requests: %s", got)
	}
	if got := mostStatusWrites(requests); got != 2 {
		t.Errorf("most writes to a status: %d", got)
	}
}

func TestUsageIsParsed(t *testing.T) {
	const status = "Name:\thost\nVmPeak:\t 999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"
	const stat = "77 (host (x) y) S 1 77 77 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 1 1 1"
	got, err := parseUsage(status, stat)
	if want := (usage{RSS: 1024, Peak: 2048, CPU: 3 * time.Second}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for name, input := range map[string][2]string{
		"no VmRSS": {"VmHWM: 1 kB", stat}, "a short stat": {status, "77 (x) S 1"}, "no number": {status, strings.Replace(stat, "250", "x", 1)},
	} {
		if _, err := parseUsage(input[0], input[1]); err == nil {
			t.Errorf("no error for %s", name)
		}
	}
	if u, err := usageOf(os.Getpid()); err != nil || u.RSS == 0 || u.Peak < u.RSS {
		t.Errorf("of this process: %+v, %v", u, err)
	}
}

func TestTheServiceQueueIsReadFromMetrics(t *testing.T) {
	const metrics = `# TYPE workqueue_depth gauge
workqueue_depth{name="node"} 9
workqueue_depth{name="service"} 4
# TYPE workqueue_work_duration_seconds histogram
workqueue_work_duration_seconds_bucket{name="service",le="+Inf"} 12
workqueue_work_duration_seconds_sum{name="service"} 0.5
workqueue_work_duration_seconds_count{name="service"} 12
`
	if done, waiting, err := serviceQueue(metrics); err != nil || done != 12 || waiting != 4 {
		t.Errorf("%d done, %d waiting, %v", done, waiting, err)
	}
	if done, waiting, err := serviceQueue(""); err != nil || done != 0 || waiting != 0 {
		t.Errorf("without metrics: %d done, %d waiting, %v", done, waiting, err)
	}
}

package gcesim

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"google.golang.org/api/compute/v1"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

const (
	project = "sandbox"
	zoneA   = "europe-west1-a"
	zoneB   = "europe-west1-b"
)

var atOnce = Settings{OperationLatency: &metav1.Duration{}}

func TestOperationChangesTheRuleInItsLastState(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	latency := Settings{OperationLatency: &metav1.Duration{Duration: 10 * time.Second}}
	var snapshots []Snapshot
	sim, err := New(Config{Settings: latency}, clock, func(s Snapshot) { snapshots = append(snapshots, s) })
	if err != nil {
		t.Fatal(err)
	}
	client := service(t, sim)
	op, err := client.Firewalls.Insert(project, webRule()).Do()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after  time.Duration
		status string
		exists bool
	}{{0, "PENDING", false}, {5 * time.Second, "RUNNING", false}, {5 * time.Second, "DONE", true}} {
		clock.Step(step.after)
		if step.exists {
			if _, err := client.GlobalOperations.Wait(project, op.Name).Do(); err != nil {
				t.Fatal(err)
			}
		}
		if op, err = client.GlobalOperations.Get(project, op.Name).Do(); err != nil || op.Status != step.status {
			t.Fatalf("status %v, %v, want %s", op.Status, err, step.status)
		}
		if _, err := client.Firewalls.Get(project, "web").Do(); (err == nil) != step.exists {
			t.Errorf("when %s: get returns %v", step.status, err)
		}
	}
	if op.Kind != "compute#operation" || op.Progress != 100 || op.OperationType != "insert" || op.EndTime == "" || op.TargetId == 0 {
		t.Errorf("operation is incomplete: %+v", op)
	}
	if len(snapshots) != 2 || len(snapshots[0].Firewalls) != 0 || len(snapshots[1].Firewalls) != 1 {
		t.Errorf("snapshots %+v, want one without and one with the rule", snapshots)
	}
}

func TestWaitReturnsWhenTheOperationIsDone(t *testing.T) {
	client := service(t, newSim(t, Config{}))
	op, err := client.Firewalls.Insert(project, webRule()).Do()
	if err != nil || op.Status == "DONE" {
		t.Fatalf("%+v, %v", op, err)
	}
	if op, err = client.GlobalOperations.Wait(project, op.Name).Do(); err != nil || op.Status != "DONE" {
		t.Errorf("after wait: %+v, %v", op, err)
	}
}

func TestDefaultsAndZerosAreReturned(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	mustInsert(t, client, &compute.Firewall{Name: "plain", Allowed: []*compute.FirewallAllowed{{IPProtocol: "icmp"}}})
	mustInsert(t, client, &compute.Firewall{Name: "zero", ForceSendFields: []string{"Priority"}, Allowed: []*compute.FirewallAllowed{{IPProtocol: "all"}}})
	got, err := client.Firewalls.Get(project, "plain").Do()
	if err != nil {
		t.Fatal(err)
	}
	want := &compute.Firewall{
		Kind: "compute#firewall", Name: "plain", Direction: "INGRESS", Priority: 1000, SourceRanges: []string{"0.0.0.0/0"},
		Network: selfLinkBase + "projects/sandbox/global/networks/default", SelfLink: selfLinkBase + "projects/sandbox/global/firewalls/plain",
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "icmp"}}, LogConfig: &compute.FirewallLogConfig{},
	}
	ignore := cmpopts.IgnoreFields(compute.Firewall{}, "Id", "CreationTimestamp", "ServerResponse")
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("rule (-want +got):\n%s", diff)
	}
	if zero, err := client.Firewalls.Get(project, "zero").Do(); err != nil || zero.Priority != 0 {
		t.Errorf("priority %v, %v, want 0", zero, err)
	}
}

func TestPatchMergesAndUpdateReplaces(t *testing.T) {
	client := service(t, newSim(t, Config{Settings: atOnce}))
	mustInsert(t, client, webRule())
	patch := &compute.Firewall{Description: "patched", NullFields: []string{"TargetTags"}}
	if _, err := client.Firewalls.Patch(project, "web", patch).Do(); err != nil {
		t.Fatal(err)
	}
	got, err := client.Firewalls.Get(project, "web").Do()
	if err != nil || got.Description != "patched" || len(got.TargetTags) != 0 || got.SourceRanges[0] != "198.51.100.0/24" {
		t.Errorf("after patch: %+v, %v", got, err)
	}
	whole := &compute.Firewall{Name: "web", Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp"}}}
	if _, err := client.Firewalls.Update(project, "web", whole).Do(); err != nil {
		t.Fatal(err)
	}
	got, err = client.Firewalls.Get(project, "web").Do()
	if err != nil || got.Description != "" || got.SourceRanges[0] != "0.0.0.0/0" {
		t.Errorf("after update: %+v, %v", got, err)
	}
}

func TestInvalidRulesAreRefused(t *testing.T) {
	client := service(t, newSim(t, Config{Settings: atOnce}))
	for name, spoil := range map[string]func(*compute.Firewall){
		"name with capitals": func(f *compute.Firewall) { f.Name = "Web" },
		"name too long":      func(f *compute.Firewall) { f.Name = "a123456789012345678901234567890123456789012345678901234567890123" },
		"no name":            func(f *compute.Firewall) { f.Name = "" },
		"families of source and destination": func(f *compute.Firewall) {
			f.SourceRanges, f.DestinationRanges = []string{"10.0.0.0/8"}, []string{"2001:db8::1/128"}
		},
		"a destination that is none": func(f *compute.Firewall) { f.DestinationRanges = []string{"node1"} },
		"too many destinations": func(f *compute.Firewall) {
			f.DestinationRanges = slices.Repeat([]string{"10.0.0.1/32"}, maxDestinationRanges+1)
		},
		"mixed families":            func(f *compute.Firewall) { f.SourceRanges = []string{"10.0.0.0/8", "2001:db8::/32"} },
		"host bits set":             func(f *compute.Firewall) { f.SourceRanges = []string{"10.0.0.1/8"} },
		"range that is no range":    func(f *compute.Firewall) { f.SourceRanges = []string{"everybody"} },
		"protocol in capitals":      func(f *compute.Firewall) { f.Allowed[0].IPProtocol = "TCP" },
		"protocol number too large": func(f *compute.Firewall) { f.Allowed[0].IPProtocol = "256" },
		"port too large":            func(f *compute.Firewall) { f.Allowed[0].Ports = []string{"65536"} },
		"range of ports backwards":  func(f *compute.Firewall) { f.Allowed[0].Ports = []string{"90-80"} },
		"ports of icmp":             func(f *compute.Firewall) { f.Allowed[0].IPProtocol = "icmp" },
		"nothing allowed or denied": func(f *compute.Firewall) { f.Allowed = nil },
		"both allowed and denied":   func(f *compute.Firewall) { f.Denied = []*compute.FirewallDenied{{IPProtocol: "all"}} },
		"direction":                 func(f *compute.Firewall) { f.Direction = "SIDEWAYS" },
		"priority":                  func(f *compute.Firewall) { f.Priority = 65536 },
		"description too long":      func(f *compute.Firewall) { f.Description = string(make([]byte, 2049)) },
		"tags and accounts":         func(f *compute.Firewall) { f.TargetServiceAccounts = []string{"a@b"} },
		"tag with capitals":         func(f *compute.Firewall) { f.TargetTags = []string{"Node"} },
		"unknown network":           func(f *compute.Firewall) { f.Network = "global/networks/nowhere" },
		"network of another project": func(f *compute.Firewall) {
			f.Network = "projects/other/global/networks/default"
		},
	} {
		t.Run(name, func(t *testing.T) {
			rule := webRule()
			spoil(rule)
			_, err := client.Firewalls.Insert(project, rule).Do()
			wantError(t, err, http.StatusBadRequest, "invalid")
		})
	}
}

func TestUnchangeableFieldsAreNotChanged(t *testing.T) {
	client := service(t, newSim(t, Config{Settings: atOnce, Instances: []Instance{{Name: "x", Zone: zoneA, Interface: Interface{Network: "second"}}}}))
	mustInsert(t, client, webRule())
	for _, patch := range []*compute.Firewall{
		{Name: "other"},
		{Network: "global/networks/second"},
		{Direction: "EGRESS", NullFields: []string{"SourceRanges"}},
		{Denied: []*compute.FirewallDenied{{IPProtocol: "all"}}, NullFields: []string{"Allowed"}},
	} {
		_, err := client.Firewalls.Patch(project, "web", patch).Do()
		wantError(t, err, http.StatusBadRequest, "invalid")
	}
}

func TestUnknownFieldIsRefused(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	server := httptest.NewServer(sim)
	defer server.Close()
	body := `{"name":"web","allowed":[{"IPProtocol":"tcp"}],"colour":"red"}`
	status, reply := post(t, server.URL+basePath+"projects/sandbox/global/firewalls", body)
	const message = `Invalid JSON payload received. Unknown name \"colour\" at 'resource': Cannot find field.`
	want := `{"error":{"code":400,"message":"` + message + `","errors":[{"message":"` + message + `","domain":"global","reason":"badRequest"}]}}`
	if status != http.StatusBadRequest || reply != want {
		t.Errorf("reply %d %s, want %s", status, reply, want)
	}
}

func TestRepeatedRequestIsServedOnce(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	id := uuid.NewString()
	first, err := client.Firewalls.Insert(project, webRule()).RequestId(id).Do()
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.Firewalls.Insert(project, webRule()).RequestId(id).Do()
	if err != nil || first.Name != second.Name {
		t.Errorf("operations %s and %v, %v, want the same", first.Name, second, err)
	}
	_, err = client.Firewalls.Insert(project, webRule()).RequestId(uuid.NewString()).Do()
	wantError(t, err, http.StatusConflict, "alreadyExists")
	_, err = client.Firewalls.Insert(project, webRule()).RequestId(uuid.Nil.String()).Do()
	wantError(t, err, http.StatusBadRequest, "invalid")
}

func TestRuleWithAnOperationIsNotReady(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	mustInsert(t, client, webRule())
	sim.Set(Settings{OperationLatency: &metav1.Duration{Duration: time.Hour}})
	if _, err := client.Firewalls.Delete(project, "web").Do(); err != nil {
		t.Fatal(err)
	}
	_, err := client.Firewalls.Patch(project, "web", &compute.Firewall{Description: "x"}).Do()
	wantError(t, err, http.StatusBadRequest, "resourceNotReady")
	_, err = client.Firewalls.Insert(project, webRule()).Do()
	wantError(t, err, http.StatusBadRequest, "resourceNotReady")
	if _, err := client.Firewalls.Get(project, "web").Do(); err != nil {
		t.Errorf("a rule is gone before its deletion has ended: %v", err)
	}
}

func TestQuotaCountsRulesThatAreBeingCreated(t *testing.T) {
	sim := newSim(t, Config{Settings: Settings{FirewallQuota: new(1), OperationLatency: &metav1.Duration{Duration: time.Hour}}})
	client := service(t, sim)
	mustInsert(t, client, webRule())
	second := webRule()
	second.Name = "second"
	_, err := client.Firewalls.Insert(project, second).Do()
	wantError(t, err, http.StatusForbidden, "quotaExceeded")
	sim.Set(Settings{FirewallQuota: new(2)})
	mustInsert(t, client, second)
}

func TestListsAreFilteredAndPaged(t *testing.T) {
	client := service(t, newSim(t, Config{Settings: atOnce}))
	for _, name := range []string{"web-a", "web-b", "web-c", "other"} {
		rule := webRule()
		rule.Name, rule.Description = name, `{"of":"`+name+`"}`
		mustInsert(t, client, rule)
	}
	for filter, want := range map[string][]string{
		"":                                {"other", "web-a", "web-b", "web-c"},
		"name = web-a":                    {"web-a"},
		`name eq "web-.*"`:                {"web-a", "web-b", "web-c"},
		"name eq web":                     nil,
		"name ne 'web-.*'":                {"other"},
		"(name != web-a) (name != other)": {"web-b", "web-c"},
		`description eq ".*web-b.*"`:      {"web-b"},
		"description:other":               {"other"},
		"priority = 1000":                 {"other", "web-a", "web-b", "web-c"},
	} {
		var got []string
		err := client.Firewalls.List(project).Filter(filter).MaxResults(2).Pages(t.Context(), func(page *compute.FirewallList) error {
			if len(page.Items) > 2 {
				t.Errorf("%s: a page of %d", filter, len(page.Items))
			}
			for _, rule := range page.Items {
				got = append(got, rule.Name)
			}
			return nil
		})
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("filter %q: %v (-want +got):\n%s", filter, err, diff)
		}
	}
	_, err := client.Firewalls.List(project).Filter("name like web").Do()
	wantError(t, err, http.StatusBadRequest, "invalid")
}

func TestFaultsAffectMatchingRequestsAndEnd(t *testing.T) {
	for kind, want := range map[FaultKind]struct {
		code   int
		reason string
	}{
		FaultForbidden:    {403, "forbidden"},
		FaultQuota:        {403, "quotaExceeded"},
		FaultNotFound:     {404, "notFound"},
		FaultExists:       {409, "alreadyExists"},
		FaultNotReady:     {400, "resourceNotReady"},
		FaultRateLimit:    {429, "rateLimitExceeded"},
		FaultRateLimit403: {403, "rateLimitExceeded"},
		FaultUnavailable:  {503, "backendError"},
	} {
		t.Run(string(kind), func(t *testing.T) {
			sim := newSim(t, Config{Settings: atOnce})
			client := service(t, sim)
			if err := sim.AddFault(Fault{Kind: kind, Verb: "firewalls.*", Resource: "we?", Count: 1}); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Firewalls.List(project).Do(); err != nil {
				t.Errorf("a list was affected: %v", err)
			}
			_, err := client.Firewalls.Insert(project, webRule()).Do()
			wantError(t, err, want.code, want.reason)
			mustInsert(t, client, webRule())
		})
	}
}

func TestRequestWithLostReplyIsServed(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	if err := sim.AddFault(Fault{Kind: FaultLostReply, Verb: "firewalls.insert", Count: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Firewalls.Insert(project, webRule()).Do(); err == nil {
		t.Error("the reply was not lost")
	}
	if _, err := client.Firewalls.Get(project, "web").Do(); err != nil {
		t.Error(err)
	}
	want := []Request{{Verb: "firewalls.insert", Resource: "web"}, {Verb: "firewalls.get", Resource: "web", Status: 200}}
	if diff := cmp.Diff(want, sim.Requests()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestOperationEndsWithAnError(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	if err := sim.AddFault(Fault{Kind: FaultOperation, Code: "QUOTA_EXCEEDED", Count: 1}); err != nil {
		t.Fatal(err)
	}
	op, err := client.Firewalls.Insert(project, webRule()).Do()
	if err != nil || op.Status != "PENDING" || op.Error != nil {
		t.Fatalf("%+v, %v", op, err)
	}
	op, err = client.GlobalOperations.Get(project, op.Name).Do()
	if err != nil || op.HttpErrorStatusCode != 403 || op.HttpErrorMessage != "FORBIDDEN" || op.Error.Errors[0].Code != "QUOTA_EXCEEDED" {
		t.Errorf("%+v, %v", op, err)
	}
	_, err = client.Firewalls.Get(project, "web").Do()
	wantError(t, err, http.StatusNotFound, "notFound")
}

func TestLatencyEndsWhenTheClientCancels(t *testing.T) {
	sim := newSim(t, Config{Settings: atOnce})
	client := service(t, sim)
	if err := sim.AddFault(Fault{Kind: FaultLatency, Latency: metav1.Duration{Duration: time.Hour}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := client.Firewalls.List(project).Context(ctx).Do(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want a deadline", err)
	}
}

// service returns the real client over a real connection.
func service(t *testing.T, sim *Sim) *compute.Service {
	t.Helper()
	server := httptest.NewServer(sim)
	t.Cleanup(server.Close)
	client, err := compute.NewService(t.Context(), option.WithEndpoint(server.URL+basePath), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func newSim(t *testing.T, config Config) *Sim {
	t.Helper()
	sim, err := New(config, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sim
}

func webRule() *compute.Firewall {
	return &compute.Firewall{
		Name: "web", Network: "global/networks/default", SourceRanges: []string{"198.51.100.0/24"}, TargetTags: []string{"node"},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: []string{"80", "443"}}, {IPProtocol: "udp"}},
	}
}

// mustInsert creates a rule in a simulator without latency.
func mustInsert(t *testing.T, client *compute.Service, rule *compute.Firewall) {
	t.Helper()
	if _, err := client.Firewalls.Insert(project, rule).Do(); err != nil {
		t.Fatal(err)
	}
}

// wantError checks an error of the real client.
func wantError(t *testing.T, err error, code int, reason string) {
	t.Helper()
	var apiErr *googleapi.Error
	if !errors.As(err, &apiErr) || apiErr.Code != code || len(apiErr.Errors) == 0 || apiErr.Errors[0].Reason != reason {
		t.Errorf("error %v, want %d %s", err, code, reason)
	}
}

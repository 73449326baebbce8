package gce

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/compute/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

var quick = wait.Backoff{Duration: time.Microsecond, Steps: 4}

func latency(d time.Duration) gcesim.Settings {
	return gcesim.Settings{OperationLatency: &metav1.Duration{Duration: d}}
}

// newClient returns the real client with a simulator, without a network.
func newClient(t *testing.T, config gcesim.Config) (*Client, *gcesim.Sim) {
	t.Helper()
	sim, err := gcesim.New(config, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := New(t.Context(), Options{Project: "sandbox", Network: "default", Endpoint: "http://sim", HTTPClient: sim.Client(), Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	return client, sim
}

func rule(name string) *compute.Firewall {
	return &compute.Firewall{Name: name, Description: "of " + name, Network: "global/networks/default", Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp"}}}
}

func fault(t *testing.T, sim *gcesim.Sim, f gcesim.Fault) {
	t.Helper()
	if err := sim.AddFault(f); err != nil {
		t.Fatal(err)
	}
}

func TestAChangeReturnsWhenItIsInForce(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{Settings: latency(20 * time.Millisecond)})
	ctx := t.Context()
	if err := client.InsertFirewall(ctx, rule("web")); err != nil {
		t.Fatal(err)
	}
	if err := client.PatchFirewall(ctx, "web", &compute.Firewall{Description: "new"}); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Firewall(ctx, "web"); err != nil || got.Description != "new" {
		t.Errorf("rule %+v, %v", got, err)
	}
	if err := client.DeleteFirewall(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Firewall(ctx, "web"); KindOf(err) != KindNotFound {
		t.Errorf("error %v, want not found", err)
	}
	if rules := sim.Snapshot().Firewalls; len(rules) != 0 {
		t.Errorf("left: %v", rules)
	}
}

func TestTransientFailuresAreRetriedAndTheChangeIsMadeOnce(t *testing.T) {
	for _, kind := range []gcesim.FaultKind{gcesim.FaultRateLimit, gcesim.FaultRateLimit403, gcesim.FaultUnavailable, gcesim.FaultNotReady, gcesim.FaultLostReply, gcesim.FaultOperation} {
		t.Run(string(kind), func(t *testing.T) {
			client, sim := newClient(t, gcesim.Config{Settings: latency(0)})
			fault(t, sim, gcesim.Fault{Kind: kind, Verb: "firewalls.insert", Count: 2})
			if err := client.InsertFirewall(t.Context(), rule("web")); err != nil {
				t.Fatal(err)
			}
			if n := len(sim.Snapshot().Firewalls); n != 1 {
				t.Errorf("%d rules, want 1", n)
			}
		})
	}
}

func TestRetriesOfOneChangeCarryOneRequestID(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{Settings: latency(0)})
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultLostReply, Verb: "firewalls.insert", Count: 1})
	if err := client.InsertFirewall(t.Context(), rule("web")); err != nil {
		t.Fatal(err)
	}
	requests := sim.Requests()
	if requests[0].RequestID == "" || requests[0].RequestID != requests[1].RequestID {
		t.Errorf("request ids differ: %+v", requests[:2])
	}
}

func TestOtherFailuresAreReturnedAtOnceWithTheirKind(t *testing.T) {
	for failure, kind := range map[gcesim.FaultKind]Kind{
		gcesim.FaultForbidden: KindForbidden,
		gcesim.FaultQuota:     KindQuota,
		gcesim.FaultNotFound:  KindNotFound,
		gcesim.FaultExists:    KindExists,
	} {
		t.Run(string(failure), func(t *testing.T) {
			client, sim := newClient(t, gcesim.Config{})
			fault(t, sim, gcesim.Fault{Kind: failure})
			err := client.InsertFirewall(t.Context(), rule("web"))
			if KindOf(err) != kind || len(sim.Requests()) != 1 {
				t.Errorf("error %v after %d requests", err, len(sim.Requests()))
			}
		})
	}
}

func TestTransientFailuresThatPersistAreReturnedWithTheirKind(t *testing.T) {
	for failure, kind := range map[gcesim.FaultKind]Kind{
		gcesim.FaultRateLimit:    KindRateLimited,
		gcesim.FaultRateLimit403: KindRateLimited,
		gcesim.FaultUnavailable:  KindTransient,
		gcesim.FaultNotReady:     KindNotReady,
		gcesim.FaultLostReply:    KindTransient,
	} {
		t.Run(string(failure), func(t *testing.T) {
			client, sim := newClient(t, gcesim.Config{})
			fault(t, sim, gcesim.Fault{Kind: failure})
			_, err := client.Firewalls(t.Context(), "")
			if KindOf(err) != kind || len(sim.Requests()) != quick.Steps {
				t.Errorf("error %v after %d requests, want %d", err, len(sim.Requests()), quick.Steps)
			}
		})
	}
}

func TestAFailedOperationIsReturnedWithItsKind(t *testing.T) {
	for code, kind := range map[string]Kind{
		"QUOTA_EXCEEDED":     KindQuota,
		"PERMISSIONS_ERROR":  KindForbidden,
		"RESOURCE_NOT_FOUND": KindNotFound,
		"INTERNAL_ERROR":     KindTransient,
		"SOMETHING_NEW":      KindTransient,
	} {
		client, sim := newClient(t, gcesim.Config{Settings: latency(0)})
		fault(t, sim, gcesim.Fault{Kind: gcesim.FaultOperation, Code: code})
		if err := client.InsertFirewall(t.Context(), rule("web")); KindOf(err) != kind {
			t.Errorf("%s: error %v", code, err)
		}
	}
}

func TestAnOperationThatIsNotFoundDoesNotMeanThatTheRuleIsMissing(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{Settings: latency(0)})
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultNotFound, Verb: "globalOperations.*"})
	err := client.InsertFirewall(t.Context(), rule("web"))
	if KindOf(err) != KindTransient || KindOf(err) == KindNotFound {
		t.Errorf("error %v, want transient", err)
	}
}

func TestASlowOperationDelaysNoOtherCall(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{Settings: latency(time.Hour)})
	ctx, cancel := context.WithCancel(t.Context())
	slow := make(chan error, 1)
	go func() { slow <- client.InsertFirewall(ctx, rule("slow")) }()
	for len(sim.Requests()) == 0 {
		<-time.After(time.Millisecond) // Until the slow operation has begun.
	}
	sim.Set(latency(0))
	if err := client.InsertFirewall(t.Context(), rule("quick")); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-slow; !errors.Is(err, context.Canceled) {
		t.Errorf("the slow operation ended with %v", err)
	}
}

func TestARequestEndsAtItsTimeout(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{})
	client.options.RequestTimeout = 5 * time.Millisecond
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultLatency, Latency: metav1.Duration{Duration: time.Hour}})
	if _, err := client.Firewall(t.Context(), "web"); KindOf(err) != KindTransient || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want a transient one for the deadline", err)
	}
}

func TestListsAreReadToTheEnd(t *testing.T) {
	client, _ := newClient(t, gcesim.Config{Settings: gcesim.Settings{FirewallQuota: new(1000), OperationLatency: &metav1.Duration{}}})
	for i := range maxPage + 1 {
		if err := client.InsertFirewall(t.Context(), rule("web-"+strings.Repeat("a", i%50)+"-"+string(rune('a'+i/50)))); err != nil {
			t.Fatal(err)
		}
	}
	if rules, err := client.Firewalls(t.Context(), ""); err != nil || len(rules) != maxPage+1 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
	if rules, err := client.Firewalls(t.Context(), `description eq "of web-a-.*"`); err != nil || len(rules) != 10 {
		t.Errorf("%d rules filtered, %v", len(rules), err)
	}
}

func TestErrorsNameMethodObjectEndpointAndRemedy(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{})
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultForbidden})
	err := client.InsertFirewall(t.Context(), rule("web"))
	for _, part := range []string{"firewalls.insert", "projects/sandbox/global/firewalls/web", "http://sim", "compute.firewalls.create", "grant"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

func TestAnEndpointThatIsDownIsNamed(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close()
	client, err := New(t.Context(), Options{Project: "p", Network: "n", Endpoint: server.URL, Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.ListInstances(t.Context())
	if KindOf(err) != KindTransient || !strings.Contains(err.Error(), server.URL) {
		t.Errorf("error %v, want it to name %s", err, server.URL)
	}
}

func TestWhatIsNotConfiguredComesFromTheMetadataServer(t *testing.T) {
	for name, c := range map[string]struct {
		given                            Options
		config                           gcesim.Config
		project, networkProject, network string
	}{
		"all of it":                 {Options{}, gcesim.Config{Network: "vpc"}, "sandbox", "sandbox", "vpc"},
		"a shared VPC, by number":   {Options{}, gcesim.Config{NetworkProject: "host", Network: "vpc"}, "sandbox", "100000000002", "vpc"},
		"a shared VPC, host known":  {Options{NetworkProject: "h"}, gcesim.Config{NetworkProject: "host", Network: "vpc"}, "sandbox", "h", "vpc"},
		"the network only":          {Options{Project: "p"}, gcesim.Config{}, "p", "p", "default"},
		"nothing":                   {Options{Project: "p", Network: "n"}, gcesim.Config{}, "p", "p", "n"},
		"nothing, network by URL":   {Options{Project: "p", Network: "https://www.googleapis.com/compute/v1/projects/h/global/networks/n"}, gcesim.Config{}, "p", "h", "n"},
		"nothing, network by path":  {Options{Project: "p", Network: "projects/h/global/networks/n"}, gcesim.Config{}, "p", "h", "n"},
		"nothing, host project too": {Options{Project: "p", NetworkProject: "q", Network: "projects/h/global/networks/n"}, gcesim.Config{}, "p", "q", "n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.Instances = []gcesim.Instance{{Name: "vm", Zone: "z-a"}}
			sim, err := gcesim.New(c.config, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(sim)
			defer server.Close()
			t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
			c.given.Endpoint = server.URL
			client, err := New(t.Context(), c.given)
			if err != nil {
				t.Fatal(err)
			}
			if client.Project() != c.project || client.NetworkProject() != c.networkProject || client.Network() != c.network {
				t.Errorf("got %s, %s, %s, want %s, %s, %s", client.Project(), client.NetworkProject(), client.Network(), c.project, c.networkProject, c.network)
			}
		})
	}
}

func TestWithoutMetadataServerTheErrorNamesTheOption(t *testing.T) {
	t.Setenv("GCE_METADATA_HOST", "127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, Options{Network: "n"}); err == nil || !strings.Contains(err.Error(), "set gce.project") {
		t.Errorf("error %v", err)
	}
	if _, err := New(ctx, Options{Project: "p"}); err == nil || !strings.Contains(err.Error(), "set gce.network") {
		t.Errorf("error %v", err)
	}
}

func TestEndpointsAreAcceptedInAnyForm(t *testing.T) {
	for _, endpoint := range []string{"http://h:1", "http://h:1/", "http://h:1/compute/v1", "http://h:1/compute/v1/"} {
		if got := basePath(endpoint); got != "http://h:1/compute/v1/" {
			t.Errorf("%s became %s", endpoint, got)
		}
	}
}

func TestRequestsAreMeasured(t *testing.T) {
	client, sim := newClient(t, gcesim.Config{})
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultForbidden})
	before := sampleCount(t, "firewalls.get", "forbidden")
	if _, err := client.Firewall(t.Context(), "web"); KindOf(err) != KindForbidden {
		t.Fatal(err)
	}
	if after := sampleCount(t, "firewalls.get", "forbidden"); after != before+1 {
		t.Errorf("counted %d, want %d", after, before+1)
	}
}

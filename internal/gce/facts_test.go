package gce

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/compute/v1"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

func TestAnInstanceIsConvertedFromTheAPI(t *testing.T) {
	nic := func(network, internal, external, internal6, external6 string) gcesim.Interface {
		return gcesim.Interface{Network: network, NetworkIP: internal, NatIP: external, IPv6Address: internal6, ExternalIPv6: external6}
	}
	for name, c := range map[string]struct {
		instance           gcesim.Instance
		internal, external []string
		hostname           string
		off                bool
	}{
		"IPv4 only":             {instance: gcesim.Instance{Interface: nic("", "10.0.0.1", "203.0.113.1", "", "")}, internal: []string{"10.0.0.1"}, external: []string{"203.0.113.1"}},
		"no external address":   {instance: gcesim.Instance{Interface: nic("", "10.0.0.1", "", "", "")}, internal: []string{"10.0.0.1"}},
		"internal IPv6":         {instance: gcesim.Instance{Interface: nic("", "10.0.0.1", "", "fd20::1", "")}, internal: []string{"10.0.0.1", "fd20::1"}},
		"external IPv6":         {instance: gcesim.Instance{Interface: nic("", "10.0.0.1", "203.0.113.1", "", "2001:db8::1")}, internal: []string{"10.0.0.1"}, external: []string{"203.0.113.1", "2001:db8::1"}},
		"IPv6 only":             {instance: gcesim.Instance{Interface: nic("", "", "", "", "2001:db8::1")}, external: []string{"2001:db8::1"}},
		"another network first": {instance: gcesim.Instance{Interface: nic("storage", "10.9.0.1", "203.0.113.9", "", ""), MoreInterfaces: []gcesim.Interface{nic("", "10.0.0.1", "203.0.113.1", "", "")}}, internal: []string{"10.0.0.1"}, external: []string{"203.0.113.1"}},
		"a custom host name":    {instance: gcesim.Instance{Hostname: "n1.example.com"}, hostname: "n1.example.com"},
		"stopped":               {instance: gcesim.Instance{Status: "STOPPED"}, off: true},
		"terminated":            {instance: gcesim.Instance{Status: "TERMINATED"}, off: true},
		"suspended":             {instance: gcesim.Instance{Status: "SUSPENDED"}, off: true},
		"stopping":              {instance: gcesim.Instance{Status: "STOPPING"}},
		"in repair":             {instance: gcesim.Instance{Status: "REPAIRING"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.instance.Name, c.instance.Zone = "n1", zone
			cache, _, _ := newCache(t, c.instance)
			listed, err := cache.ByNodeName(t.Context(), "n1")
			if err != nil {
				t.Fatal(err)
			}
			read, err := cache.api.Instance(t.Context(), listed.ID)
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range []Instance{listed, read} {
				if diff := cmp.Diff([][]string{c.internal, c.external}, [][]string{texts(got.InternalIPs), texts(got.ExternalIPs)}); diff != "" {
					t.Errorf("internal, external (-want +got):\n%s", diff)
				}
				if got.Hostname != c.hostname || got.Shutdown() != c.off {
					t.Errorf("host name %q, shut down %t", got.Hostname, got.Shutdown())
				}
			}
		})
	}
}

func TestNetworksOfOneNameInTwoProjectsAreDistinguished(t *testing.T) {
	in := &compute.Instance{Name: "n", Zone: "z/" + zone, NetworkInterfaces: []*compute.NetworkInterface{
		{Network: "https://compute.googleapis.com/compute/v1/projects/own/global/networks/default", NetworkIP: "10.9.0.1"},
		{Network: "https://compute.googleapis.com/compute/v1/projects/host/global/networks/default", NetworkIP: "10.0.0.1"},
	}}
	for network, want := range map[string][]string{
		"projects/host/global/networks/default":         {"10.0.0.1"},
		"projects/own/global/networks/default":          {"10.9.0.1"},
		"projects/100000000002/global/networks/default": {"10.0.0.1", "10.9.0.1"}, // A number matches neither.
		"projects/host/global/networks/other":           nil,
	} {
		got := texts(instanceOf("own", network, in).InternalIPs)
		if len(got) == 2 {
			got = []string{min(got[0], got[1]), max(got[0], got[1])}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", network, diff)
		}
	}
}

// Application Default Credentials, here from their last source, the service
// account of the VM.
func TestRequestsCarryTheCredentialsOfTheVM(t *testing.T) {
	sim, err := gcesim.New(gcesim.Config{Instances: []gcesim.Instance{vm("n1", "203.0.113.1")}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	metadata := httptest.NewServer(sim)
	defer metadata.Close()
	var authorization string
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization = r.Header.Get("Authorization")
		sim.ServeHTTP(w, r)
	}))
	defer api.Close()
	usual := http.DefaultTransport
	http.DefaultTransport = api.Client().Transport // It trusts the certificate of the test server.
	t.Cleanup(func() { http.DefaultTransport = usual })
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir()) // gcloud stores credentials there.
	t.Setenv("CLOUDSDK_CONFIG", "")
	client, err := New(t.Context(), Options{Endpoint: api.URL, Backoff: quick})
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.ListInstances(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if authorization != "Bearer simulated" {
		t.Errorf("authorization %q, want the token of the metadata server", authorization)
	}
}

func TestCredentialsThatCannotBeReadAreExplained(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/key.json")
	_, err := New(t.Context(), Options{Project: "p", Network: "n"})
	for _, part := range []string{"project p", "/nonexistent/key.json", "Application Default Credentials"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %v", part, err)
		}
	}
}

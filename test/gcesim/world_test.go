package gcesim

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloud.google.com/go/compute/metadata"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/compute/v1"
)

func TestInstancesAreReturnedAsByComputeEngine(t *testing.T) {
	client := service(t, newSim(t, sharedVPC()))
	got, err := client.Instances.Get(project, zoneA, "n1").Do()
	if err != nil {
		t.Fatal(err)
	}
	nic := got.NetworkInterfaces[0]
	facts := []string{got.Status, got.MachineType, got.Zone, got.Tags.Items[0], nic.NetworkIP, nic.AccessConfigs[0].NatIP, nic.Ipv6AccessConfigs[0].ExternalIpv6, nic.Network, got.NetworkInterfaces[1].Ipv6Address}
	want := []string{"RUNNING", selfLinkBase + "projects/sandbox/zones/europe-west1-a/machineTypes/e2-small", selfLinkBase + "projects/sandbox/zones/europe-west1-a",
		"node", "10.0.0.1", "203.0.113.1", "2001:db8::1", selfLinkBase + "projects/host/global/networks/vpc", "fd00::1"}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("instance (-want +got):\n%s", diff)
	}
	_, err = client.Instances.Get(project, zoneB, "n1").Do()
	wantError(t, err, http.StatusNotFound, "notFound")
	list, err := client.Instances.List(project, zoneA).Filter("status = TERMINATED").Do()
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "n2" {
		t.Errorf("list %+v, %v", list, err)
	}
}

func TestAggregatedListHasEveryZone(t *testing.T) {
	client := service(t, newSim(t, sharedVPC()))
	var names []string
	err := client.Instances.AggregatedList(project).MaxResults(1).Pages(t.Context(), func(page *compute.InstanceAggregatedList) error {
		if warning := page.Items["zones/"+zoneB].Warning; warning == nil || warning.Code != "NO_RESULTS_ON_PAGE" {
			t.Errorf("the empty zone has warning %+v", warning)
		}
		for _, in := range page.Items["zones/"+zoneA].Instances {
			names = append(names, in.Name)
		}
		return nil
	})
	if diff := cmp.Diff([]string{"n1", "n2"}, names); diff != "" || err != nil {
		t.Errorf("%v, names (-want +got):\n%s", err, diff)
	}
}

func TestSharedNetworkIsInItsHostProject(t *testing.T) {
	client := service(t, newSim(t, sharedVPC()))
	host, err := client.Projects.GetXpnHost(project).Do()
	if err != nil || host.Name != "host" {
		t.Errorf("host %+v, %v", host, err)
	}
	for _, id := range []string{"host", networkProjectNumber} {
		if network, err := client.Networks.Get(id, "vpc").Do(); err != nil || network.Name != "vpc" {
			t.Errorf("network in %s: %+v, %v", id, network, err)
		}
	}
	_, err = client.Networks.Get(project, "vpc").Do()
	wantError(t, err, http.StatusNotFound, "notFound")
	if sub, err := client.Subnetworks.Get("host", "europe-west1", "vpc").Do(); err != nil || !strings.HasSuffix(sub.Network, "/vpc") {
		t.Errorf("subnetwork %+v, %v", sub, err)
	}
	_, err = client.Firewalls.List("unknown").Do()
	wantError(t, err, http.StatusNotFound, "notFound")
	if p, err := client.Projects.Get("host").Do(); err != nil || p.Quotas[0].Metric != "FIREWALLS" {
		t.Errorf("project %+v, %v", p, err)
	}
	if networks, err := client.Networks.List("host").Do(); err != nil || len(networks.Items) != 2 {
		t.Errorf("networks %+v, %v", networks, err)
	}
}

func TestZonesComeFromConfigAndInstances(t *testing.T) {
	client := service(t, newSim(t, sharedVPC()))
	zones, err := client.Zones.List(project).Do()
	if err != nil || len(zones.Items) != 2 || zones.Items[1].Name != zoneB {
		t.Errorf("zones %+v, %v", zones, err)
	}
	if zone, err := client.Zones.Get(project, zoneA).Do(); err != nil || !strings.HasSuffix(zone.Region, "/europe-west1") {
		t.Errorf("zone %+v, %v", zone, err)
	}
	_, err = client.Zones.Get(project, "nowhere-1-a").Do()
	wantError(t, err, http.StatusNotFound, "notFound")
}

func TestMetadataServerAnswersItsClient(t *testing.T) {
	server := httptest.NewServer(newSim(t, sharedVPC()))
	defer server.Close()
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
	client := metadata.NewClient(nil)
	var got []string
	for _, path := range []string{"project/project-id", "instance/name", "instance/zone", "instance/network-interfaces/0/network"} {
		value, err := client.GetWithContext(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		got = append(got, value)
	}
	want := []string{"sandbox", "n2", "projects/100000000001/zones/europe-west1-a", "projects/100000000002/networks/vpc"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if _, err := client.GetWithContext(t.Context(), "instance/nothing"); err == nil {
		t.Error("an unknown path has a value")
	}
	reply, err := http.Get(server.URL + metadataPath + "instance/name")
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusForbidden {
		t.Errorf("without the header: %s", reply.Status)
	}
}

func TestAdminClientChangesTheState(t *testing.T) {
	sim := newSim(t, sharedVPC())
	server := httptest.NewServer(sim)
	defer server.Close()
	ctx, admin := t.Context(), AdminClient{BaseURL: server.URL}
	steps := []error{
		admin.PatchInstance(ctx, zoneA, "n1", map[string]any{"natIP": "203.0.113.77", "tags": []string{"a", "b"}}),
		admin.PatchInstance(ctx, zoneA, "n2", map[string]any{"networkIP": nil}),
		admin.PutInstance(ctx, Instance{Name: "n3", Zone: zoneB, Interface: Interface{NetworkIP: "10.0.0.3"}}),
		admin.RemoveInstance(ctx, zoneA, "n2"),
		admin.Set(ctx, Settings{FirewallQuota: new(3)}),
		admin.AddFault(ctx, Fault{Kind: FaultForbidden, Verb: "zones.list", Count: 2}),
	}
	for i, err := range steps {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	state, err := admin.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := sharedVPC().withDefaults().Instances[1:]
	want[0].NatIP, want[0].Tags = "203.0.113.77", []string{"a", "b"}
	want = append(want, Instance{Name: "n3", Zone: zoneB, Interface: Interface{NetworkIP: "10.0.0.3"}}.withDefaults("vpc"))
	if diff := cmp.Diff(want, state.Instances); diff != "" {
		t.Errorf("instances (-want +got):\n%s", diff)
	}
	if *sim.Settings().FirewallQuota != 3 || len(sim.Faults()) != 1 {
		t.Errorf("settings %+v, faults %+v", sim.Settings(), sim.Faults())
	}
	if err := admin.ClearFaults(ctx); err != nil || len(sim.Faults()) != 0 {
		t.Errorf("faults %v, %v", sim.Faults(), err)
	}
}

func TestAdminClientReadsTheLog(t *testing.T) {
	sim := newSim(t, sharedVPC())
	client, ctx := service(t, sim), t.Context()
	admin := AdminClient{BaseURL: strings.TrimSuffix(client.BasePath, basePath)}
	if _, err := client.Firewalls.Insert("host", &compute.Firewall{Name: "x"}).Do(); err == nil {
		t.Fatal("an empty rule was accepted")
	}
	requests, err := admin.Requests(ctx)
	want := []Request{{Verb: "firewalls.insert", Resource: "x", Status: 400}}
	if diff := cmp.Diff(want, requests); diff != "" || err != nil || !requests[0].IsWrite() {
		t.Errorf("%v, log (-want +got):\n%s", err, diff)
	}
	if err := admin.ForgetRequests(ctx); err != nil || len(sim.Requests()) != 0 {
		t.Errorf("log %v, %v", sim.Requests(), err)
	}
}

func TestInvalidAdminRequestsAreErrors(t *testing.T) {
	sim := newSim(t, sharedVPC())
	server := httptest.NewServer(sim)
	defer server.Close()
	ctx, admin := t.Context(), AdminClient{BaseURL: server.URL}
	for name, err := range map[string]error{
		"unknown instance":     admin.PatchInstance(ctx, zoneB, "n1", nil),
		"unknown instance, rm": admin.RemoveInstance(ctx, zoneB, "n1"),
		"no address":           admin.PatchInstance(ctx, zoneA, "n1", map[string]any{"natIP": "nowhere"}),
		"wrong type":           admin.PatchInstance(ctx, zoneA, "n1", map[string]any{"natIP": 7}),
		"unknown fault":        admin.AddFault(ctx, Fault{Kind: "meteor"}),
		"broken pattern":       admin.AddFault(ctx, Fault{Kind: FaultQuota, Verb: "["}),
		"wrong name":           admin.PutInstance(ctx, Instance{Name: "N", Zone: zoneA}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if diff := cmp.Diff(sharedVPC().withDefaults().Instances, sim.Snapshot().Instances); diff != "" {
		t.Errorf("something changed (-want +got):\n%s", diff)
	}
}

func TestConfigFileIsReadStrictly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sim.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("project: p\nfirewallQuota: 7\noperationLatency: 3s\ninstances:\n- {name: n, zone: z-a, networkIP: 10.0.0.1, natIP: 203.0.113.1}\n")
	config, err := LoadConfig(file)
	if err != nil || *config.FirewallQuota != 7 || config.OperationLatency.Seconds() != 3 || config.Instances[0].NatIP != "203.0.113.1" {
		t.Errorf("config %+v, %v", config, err)
	}
	write("projekt: p\n")
	if _, err := LoadConfig(file); err == nil || !strings.Contains(err.Error(), "projekt") {
		t.Errorf("error %v, want the unknown field named", err)
	}
}

func sharedVPC() Config {
	return Config{
		NetworkProject: "host", Network: "vpc", Zones: []string{zoneB}, Settings: atOnce,
		Instances: []Instance{
			{Name: "n2", Zone: zoneA, MachineType: "n1-standard-1", Status: "TERMINATED", Interface: Interface{NetworkIP: "10.0.0.2"}},
			{Name: "n1", Zone: zoneA, Tags: []string{"node"}, Interface: Interface{NetworkIP: "10.0.0.1", NatIP: "203.0.113.1", ExternalIPv6: "2001:db8::1"},
				MoreInterfaces: []Interface{{Network: "second", NetworkIP: "10.1.0.1", IPv6Address: "fd00::1"}}},
		},
	}
}

func post(t *testing.T, url, body string) (int, string) {
	t.Helper()
	reply, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, squeeze(string(text))
}

// squeeze removes the indentation of JSON.
func squeeze(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.Replace(strings.TrimSpace(line), `": `, `":`, 1))
	}
	return b.String()
}

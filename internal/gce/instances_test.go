package gce

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/compute/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/component-base/metrics/legacyregistry"
	clocktesting "k8s.io/utils/clock/testing"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

const zone = "europe-west1-b"

func vm(name, natIP string) gcesim.Instance {
	return gcesim.Instance{Name: name, Zone: zone, Tags: []string{"b", "a"}, Interface: gcesim.Interface{NetworkIP: "10.0.0.1", NatIP: natIP}}
}

// newCache returns an instance cache with a simulator and a clock that stands still.
func newCache(t *testing.T, vms ...gcesim.Instance) (*Instances, *gcesim.Sim, *clocktesting.FakePassiveClock) {
	t.Helper()
	client, sim := newClient(t, gcesim.Config{Instances: vms})
	clock := clocktesting.NewFakePassiveClock(time.Now())
	return newInstances(client, time.Minute, clock), sim, clock
}

// sampleCount returns the number of samples in the histogram.
func sampleCount(t *testing.T, verb, result string) uint64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := m.GetLabel()
			if family.GetName() == "hostport_ccm_gce_request_duration_seconds" && labels[0].GetValue() == result && labels[1].GetValue() == verb {
				return m.GetHistogram().GetSampleCount()
			}
		}
	}
	return 0
}

func TestAnInstanceIsFoundByProviderIDAndByNodeName(t *testing.T) {
	cache, sim, _ := newCache(t, vm("n1", "203.0.113.1"), vm("n2", ""))
	want := Instance{
		ID: ProviderID{"sandbox", zone, "n1"}, MachineType: "e2-small", Status: "RUNNING", Tags: []string{"a", "b"},
		InternalIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, ExternalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
	}
	compare := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	byID, err := cache.ByProviderID(t.Context(), "gce://sandbox/europe-west1-b/n1")
	if diff := cmp.Diff(want, byID, compare); diff != "" || err != nil {
		t.Errorf("by provider id: %v (-want +got):\n%s", err, diff)
	}
	byName, err := cache.ByNodeName(t.Context(), "n1.c.sandbox.internal")
	if diff := cmp.Diff(want, byName, compare); diff != "" || err != nil {
		t.Errorf("by name: %v (-want +got):\n%s", err, diff)
	}
	if byID.Region() != "europe-west1" || byID.Zone() != zone || byID.Name() != "n1" || byID.ProviderID() != "gce://sandbox/europe-west1-b/n1" || byID.Shutdown() {
		t.Errorf("parts of %+v", byID)
	}
	if n2, err := cache.ByNodeName(t.Context(), "n2"); err != nil || len(n2.ExternalIPs) != 0 {
		t.Errorf("an instance without external address: %+v, %v", n2, err)
	}
	if n := len(sim.Requests()); n != 1 {
		t.Errorf("%d requests, want one list for all", n)
	}
}

func TestTagsAreCountedAmongTheInstancesOfTheNetwork(t *testing.T) {
	elsewhere := vm("n3", "")
	elsewhere.Network = "other"
	n2 := vm("n2", "")
	n2.Tags = []string{"b"}
	cache, _, _ := newCache(t, vm("n1", ""), n2, elsewhere)
	counts, err := cache.CountByTag(t.Context())
	if diff := cmp.Diff(map[string]int{"a": 1, "b": 2}, counts); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestTheListIsReadAgainAfterItsTTL(t *testing.T) {
	cache, sim, clock := newCache(t, vm("n1", "203.0.113.1"))
	external := func() string {
		in, err := cache.ByNodeName(t.Context(), "n1")
		if err != nil {
			t.Fatal(err)
		}
		return in.ExternalIPs[0].String()
	}
	external()
	if err := sim.UpdateInstance(zone, "n1", func(in *gcesim.Instance) { in.NatIP = "203.0.113.2" }); err != nil {
		t.Fatal(err)
	}
	if got := external(); got != "203.0.113.1" {
		t.Errorf("within the TTL: %s", got)
	}
	clock.SetTime(clock.Now().Add(2 * time.Minute))
	if got := external(); got != "203.0.113.2" {
		t.Errorf("after the TTL: %s", got)
	}
}

func TestAnInstanceThatIsNotInTheListIsFoundAtOnce(t *testing.T) {
	cache, sim, clock := newCache(t, vm("n1", ""))
	if _, err := cache.ByNodeName(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if err := sim.PutInstance(vm("n2", "")); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(time.Second))
	if _, err := cache.ByNodeName(t.Context(), "n2"); err != nil {
		t.Error(err)
	}
}

func TestOnlyAnInstanceThatDoesNotExistIsNotFound(t *testing.T) {
	const gone = "gce://sandbox/europe-west1-b/gone"
	cache, sim, _ := newCache(t, vm("n1", ""))
	if _, err := cache.ByProviderID(t.Context(), gone); !errors.Is(err, cloudprovider.InstanceNotFound) {
		t.Errorf("by provider id: %v, want not found", err)
	}
	requests := sim.Requests()
	if last := requests[len(requests)-1]; last.Verb != "instances.get" || last.Status != 404 {
		t.Errorf("the instance was not requested by itself: %+v", requests)
	}
	if _, err := cache.ByNodeName(t.Context(), "gone"); !errors.Is(err, cloudprovider.InstanceNotFound) {
		t.Errorf("by name: %v, want not found", err)
	}
	for _, kind := range []gcesim.FaultKind{gcesim.FaultForbidden, gcesim.FaultUnavailable, gcesim.FaultRateLimit, gcesim.FaultLostReply} {
		for _, verb := range []string{"instances.get", "instances.aggregatedList"} {
			cache, sim, _ := newCache(t, vm("n1", ""))
			fault(t, sim, gcesim.Fault{Kind: kind, Verb: verb})
			if _, err := cache.ByProviderID(t.Context(), gone); err == nil || errors.Is(err, cloudprovider.InstanceNotFound) {
				t.Errorf("%s of %s: %v, want another error than not found", kind, verb, err)
			}
		}
	}
	cache, sim, _ = newCache(t, vm("n1", ""))
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultNotFound, Verb: "instances.aggregatedList"})
	if _, err := cache.ByProviderID(t.Context(), gone); err == nil || errors.Is(err, cloudprovider.InstanceNotFound) {
		t.Errorf("a project that is not found: %v, want another error than not found", err)
	}
}

func TestAnOldListIsNotUsedWhenTheAPIFails(t *testing.T) {
	cache, sim, clock := newCache(t, vm("n1", ""))
	if _, err := cache.ByNodeName(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(clock.Now().Add(2 * time.Minute))
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultUnavailable})
	if _, err := cache.ByNodeName(t.Context(), "n1"); KindOf(err) != KindTransient {
		t.Errorf("error %v, want transient", err)
	}
}

func TestANameInTwoZonesIsAmbiguous(t *testing.T) {
	twin := vm("n1", "")
	twin.Zone = "europe-west1-c"
	cache, _, _ := newCache(t, vm("n1", ""), twin)
	if _, err := cache.ByNodeName(t.Context(), "n1"); err == nil || errors.Is(err, cloudprovider.InstanceNotFound) || !strings.Contains(err.Error(), "spec.providerID") {
		t.Errorf("error %v", err)
	}
	if in, err := cache.ByProviderID(t.Context(), "gce://sandbox/europe-west1-c/n1"); err != nil || in.Zone() != "europe-west1-c" {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestConcurrentCallersShareOneReading(t *testing.T) {
	cache, sim, _ := newCache(t, vm("n1", ""))
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultLatency, Latency: metav1.Duration{Duration: 20 * time.Millisecond}})
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if tags, err := cache.Tags(t.Context(), "gce://sandbox/europe-west1-b/n1"); err != nil || len(tags) != 2 {
				t.Errorf("%v, %v", tags, err)
			}
		})
	}
	group.Wait()
	if n := len(sim.Requests()); n != 1 {
		t.Errorf("%d readings, want 1", n)
	}
}

func TestACallerWhoseContextEndsDoesNotWait(t *testing.T) {
	cache, sim, _ := newCache(t, vm("n1", ""))
	fault(t, sim, gcesim.Fault{Kind: gcesim.FaultLatency, Latency: metav1.Duration{Duration: 100 * time.Millisecond}, Count: 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := cache.ByNodeName(ctx, "n1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline", err)
	}
	if _, err := cache.ByNodeName(t.Context(), "n1"); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestAddressesAreThoseOfTheConfiguredNetwork(t *testing.T) {
	in := &compute.Instance{Name: "n", Zone: "z/" + zone, NetworkInterfaces: []*compute.NetworkInterface{
		{Network: "x/global/networks/other", NetworkIP: "10.9.9.9", AccessConfigs: []*compute.AccessConfig{{NatIP: "203.0.113.9"}}},
		{Network: "x/global/networks/vpc", NetworkIP: "10.0.0.1", Ipv6Address: "fd00::1", Ipv6AccessType: "INTERNAL", AccessConfigs: []*compute.AccessConfig{{NatIP: ""}}},
		{Network: "x/global/networks/vpc", NetworkIP: "10.0.0.2", Ipv6AccessType: "EXTERNAL", Ipv6Address: "2001:db8::1",
			Ipv6AccessConfigs: []*compute.AccessConfig{{ExternalIpv6: "2001:db8::1"}}, AccessConfigs: []*compute.AccessConfig{{NatIP: "203.0.113.1"}}},
	}}
	got := instanceOf("p", "vpc", in)
	if diff := cmp.Diff([]string{"10.0.0.1", "10.0.0.2", "fd00::1"}, texts(got.InternalIPs)); diff != "" {
		t.Errorf("internal (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"203.0.113.1", "2001:db8::1"}, texts(got.ExternalIPs)); diff != "" {
		t.Errorf("external (-want +got):\n%s", diff)
	}
}

func texts(addrs []netip.Addr) []string {
	var written []string
	for _, a := range addrs {
		written = append(written, a.String())
	}
	return written
}

func TestAnIncompleteListIsAnError(t *testing.T) {
	full := &compute.InstanceAggregatedList{Items: map[string]compute.InstancesScopedList{
		"zones/a": {}, "zones/b": {Warning: &compute.InstancesScopedListWarning{Code: "NO_RESULTS_ON_PAGE"}},
	}}
	if err := checkComplete(full); err != nil {
		t.Errorf("a full list: %v", err)
	}
	full.Items["zones/c"] = compute.InstancesScopedList{Warning: &compute.InstancesScopedListWarning{Code: "UNREACHABLE", Message: "zone c"}}
	if err := checkComplete(full); err == nil || !strings.Contains(err.Error(), "zone c") {
		t.Errorf("a warning: %v", err)
	}
	if err := checkComplete(&compute.InstanceAggregatedList{Unreachables: []string{"zones/d"}}); err == nil {
		t.Error("an unreachable zone is no error")
	}
}

func TestOnlyInstancesThatAreOffAreShutDown(t *testing.T) {
	for status, want := range map[string]bool{
		"STOPPED": true, "TERMINATED": true, "SUSPENDED": true, "RUNNING": false, "STOPPING": false, "STAGING": false, "PROVISIONING": false, "REPAIRING": false, "SUSPENDING": false, "": false,
	} {
		if got := (Instance{Status: status}).Shutdown(); got != want {
			t.Errorf("%s: %v", status, got)
		}
	}
}

func TestProviderIDsAreParsedAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z][-a-z0-9]{0,62}`)
		id := ProviderID{rapid.StringMatching(`([a-z]+\.com:)?[a-z][-a-z0-9]{0,29}`).Draw(t, "project"), name.Draw(t, "zone"), name.Draw(t, "name")}
		if got, err := ParseProviderID(id.String()); err != nil || got != id {
			t.Errorf("%v became %v, %v", id, got, err)
		}
	})
}

func TestOtherProviderIDsAreErrors(t *testing.T) {
	for _, s := range []string{"", "gce://", "gce://p/z", "gce://p/z/n/x", "aws://p/z/n", "gce:///z/n", "gce://p/z/N", " gce://p/z/n"} {
		if _, err := ParseProviderID(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func FuzzParseProviderID(f *testing.F) {
	f.Add("gce://project/zone/name")
	f.Add("gce://example.com:project/zone/name")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseProviderID(s); err == nil && id.String() != s {
			t.Errorf("%q became %q", s, id)
		}
	})
}

package gce

import (
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

const zone = "europe-west1-b"

// world is a Firewall that uses the real client and a simulator of the API.
type world struct {
	*Firewall
	sim *gcesim.Sim
}

func newWorld(t *testing.T, tags ...string) world {
	t.Helper()
	sim, err := gcesim.New(gcesim.Config{
		Settings: gcesim.Settings{OperationLatency: &metav1.Duration{}},
		Instances: []gcesim.Instance{
			{Name: "n1", Zone: zone, Tags: []string{"node", "web", "blue"}, Interface: gcesim.Interface{NetworkIP: "10.0.0.1"}},
			{Name: "n2", Zone: zone, Tags: []string{"web", "node"}, Interface: gcesim.Interface{NetworkIP: "10.0.0.2"}},
			{Name: "n3", Zone: zone, Tags: []string{"other"}, Interface: gcesim.Interface{NetworkIP: "10.0.0.3"}},
		},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	client, err := gce.New(t.Context(), gce.Options{
		Project: "sandbox", Network: "default", Endpoint: "http://sim", HTTPClient: sim.Client(),
		Backoff: wait.Backoff{Duration: time.Microsecond, Steps: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	return world{New(client, gce.NewInstances(client, 0), Options{Tags: tags}, firewall.Cluster{ID: "prod", Services: ownersOf()}), sim}
}

func node(name string) string { return "gce://sandbox/" + zone + "/" + name }

func testOwner() firewall.Owner {
	return firewall.Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: "traefik"}, UID: "uid-1"}
}

func testSpec() firewall.Spec {
	return firewall.Spec{
		Owner: testOwner(), Ports: []firewall.Port{{Protocol: v1.ProtocolTCP, Port: 80}, {Protocol: v1.ProtocolUDP, Port: 53}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8::/32")},
		Nodes:        []string{node("n1"), node("n2")},
		Addresses:    addresses("10.0.0.1", "10.0.0.2", "203.0.113.1", "203.0.113.2", "2001:db8::1", "2001:db8::2"),
	}
}

func addresses(written ...string) []netip.Addr {
	var parsed []netip.Addr
	for _, w := range written {
		parsed = append(parsed, netip.MustParseAddr(w))
	}
	return parsed
}

// rules returns the rules of the simulator as this package reads them.
func (w world) rules(t *testing.T) []firewall.Rule {
	t.Helper()
	listed, err := w.api.Firewalls(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	var rules []firewall.Rule
	for _, in := range listed {
		rules = append(rules, fromAPI(in))
	}
	return rules
}

// writes returns the number of change requests since the log was last emptied.
func (w world) writes() int {
	return len(slices.DeleteFunc(w.sim.Requests(), func(r gcesim.Request) bool { return !r.IsWrite() }))
}

func (w world) mustEnsure(t *testing.T, spec firewall.Spec) []string {
	t.Helper()
	changes, err := w.Ensure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

// wantRules compares the simulator's rules with those that spec needs.
func (w world) wantRules(t *testing.T, spec firewall.Spec, tags ...string) {
	t.Helper()
	want, err := firewall.Desired(spec, firewall.Target{Network: "default", Tags: tags})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, w.rules(t)); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

// edit changes a rule as an administrator would.
func (w world) edit(t *testing.T, name, patch string) {
	t.Helper()
	w.request(t, "PATCH", "/"+name, patch)
}

// request sends a request to the Compute API as an administrator would.
func (w world) request(t *testing.T, method, path, body string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://sim/compute/v1/projects/sandbox/global/firewalls"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := w.sim.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(reply.Body); reply.StatusCode != http.StatusOK || err != nil {
		t.Fatalf("%s %s: %s %v", method, path, text, err)
	}
}

func TestRulesAreMadeOnceForATagThatAllNodesHave(t *testing.T) {
	w := newWorld(t)
	if changes := w.mustEnsure(t, testSpec()); len(changes) != 2 || !strings.HasPrefix(changes[0], "created firewall rule hostport-web-traefik-") {
		t.Errorf("changes %v", changes)
	}
	w.wantRules(t, testSpec(), "node")
	w.sim.ForgetRequests()
	if changes := w.mustEnsure(t, testSpec()); len(changes) != 0 || w.writes() != 0 {
		t.Errorf("the second time: %v, %d writes", changes, w.writes())
	}
}

func TestConfiguredTagsAreUsedWithoutReadingInstances(t *testing.T) {
	w := newWorld(t, "configured")
	w.mustEnsure(t, testSpec())
	w.wantRules(t, testSpec(), "configured")
	if slices.ContainsFunc(w.sim.Requests(), func(r gcesim.Request) bool { return strings.HasPrefix(r.Verb, "instances.") }) {
		t.Error("instances were read")
	}
}

func TestTheWholeNetworkIsNeverOpened(t *testing.T) {
	w := newWorld(t)
	s := testSpec()
	s.Nodes = append(s.Nodes, node("n3"))
	_, err := w.Ensure(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "gce.nodeTags") || !strings.Contains(err.Error(), "web/traefik") {
		t.Errorf("without a common tag: %v", err)
	}
	s.Nodes = []string{node("gone")}
	if _, err := w.Ensure(t.Context(), s); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("without any VM: %v", err)
	}
	if rules := w.rules(t); len(rules) != 0 || w.writes() != 0 {
		t.Errorf("rules %v after %d writes", rules, w.writes())
	}
}

func TestANodeWhoseInstanceIsGoneDoesNotCount(t *testing.T) {
	w := newWorld(t)
	s := testSpec()
	s.Nodes = append(s.Nodes, node("gone"))
	w.mustEnsure(t, s)
	w.wantRules(t, s, "node")
}

func TestOnlyWhatDiffersIsChanged(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	v6 := w.rules(t)[1].Name
	for name, c := range map[string]struct{ patch, line string }{
		"a tag removed":            {`{"targetTags":null}`, "targetTags [] -> [node]"},
		"another port":             {`{"allowed":[{"IPProtocol":"tcp"}]}`, "allowed [tcp] -> [tcp:80 udp:53]"},
		"another range":            {`{"sourceRanges":["2001:db8:1::/48"]}`, "sourceRanges [2001:db8:1::/48] -> [2001:db8::/32]"},
		"disabled":                 {`{"disabled":true}`, "disabled [true] -> [false]"},
		"first priority":           {`{"priority":0}`, "priority [0] -> [1000]"},
		"narrowed by destination":  {`{"destinationRanges":["2001:db8::1/128"]}`, "destinationRanges [2001:db8::1/128] -> [2001:db8::1/128 2001:db8::2/128]"},
		"every destination":        {`{"destinationRanges":null}`, "destinationRanges [] -> [2001:db8::1/128 2001:db8::2/128]"},
		"widened by source tags":   {`{"sourceTags":["x"]}`, "sourceTags [x] -> []"},
		"several things at a time": {`{"priority":5,"disabled":true}`, "priority [5] -> [1000], disabled [true] -> [false]"},
	} {
		t.Run(name, func(t *testing.T) {
			w.edit(t, v6, c.patch)
			w.sim.ForgetRequests()
			changes := w.mustEnsure(t, testSpec())
			if diff := cmp.Diff([]string{"updated firewall rule " + v6 + ": " + c.line}, changes); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if w.writes() != 1 {
				t.Errorf("%d writes, want 1", w.writes())
			}
			w.wantRules(t, testSpec(), "node")
		})
	}
}

func TestLoggingOfARuleStaysAsItIs(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	name := w.rules(t)[0].Name
	w.edit(t, name, `{"logConfig":{"enable":true},"disabled":true}`)
	w.mustEnsure(t, testSpec())
	if rule := w.sim.Snapshot().Firewalls[0]; rule.Disabled || !rule.LogConfig.Enable {
		t.Errorf("rule %+v", rule)
	}
}

func TestARuleThatCannotBeUpdatedIsReplaced(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	rule := w.sim.Snapshot().Firewalls[0]
	w.request(t, "DELETE", "/"+rule.Name, "")
	description := strings.ReplaceAll(rule.Description, `"`, `\"`)
	w.request(t, "POST", "", `{"name":"`+rule.Name+`","description":"`+description+`","denied":[{"IPProtocol":"all"}]}`)
	if changes := w.mustEnsure(t, testSpec()); len(changes) != 1 || !strings.HasPrefix(changes[0], "replaced firewall rule "+rule.Name) {
		t.Errorf("changes %v", changes)
	}
	w.wantRules(t, testSpec(), "node")
}

func TestTheRuleOfAFamilyThatIsNoLongerWantedIsDeleted(t *testing.T) {
	w := newWorld(t, "node")
	w.mustEnsure(t, testSpec())
	s := testSpec()
	s.SourceRanges = s.SourceRanges[:1]
	if changes := w.mustEnsure(t, s); len(changes) != 1 || !strings.HasPrefix(changes[0], "deleted firewall rule") {
		t.Errorf("changes %v", changes)
	}
	w.wantRules(t, s, "node")
}

func TestARuleWithoutOurMarkIsNeverChanged(t *testing.T) {
	other := testOwner()
	other.ClusterID = "another"
	for name, description := range map[string]string{
		"an administrator's": "created by an administrator", "another cluster's": firewall.FormatMark(other), "our mark, edited": firewall.FormatMark(testOwner()) + " ",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "node")
			taken := firewall.RuleName(testOwner(), firewall.IPv4)
			w.request(t, "POST", "", `{"name":"`+taken+`","description":"`+strings.ReplaceAll(description, `"`, `\"`)+`","allowed":[{"IPProtocol":"tcp"}]}`)
			before := w.rules(t)
			_, err := w.Ensure(t.Context(), testSpec())
			if err == nil || !strings.Contains(err.Error(), taken) || !strings.Contains(err.Error(), "does not carry our mark") {
				t.Errorf("ensure: %v", err)
			}
			if err := w.Delete(t.Context(), testOwner()); err != nil {
				t.Errorf("delete: %v", err)
			}
			if diff := cmp.Diff(before, w.rules(t)); diff != "" {
				t.Errorf("rules (-before +after):\n%s", diff)
			}
		})
	}
}

func TestDeleteAndExistsGoByTheMarkWhateverTheName(t *testing.T) {
	w := newWorld(t, "node")
	mark := strings.ReplaceAll(firewall.FormatMark(testOwner()), `"`, `\"`)
	w.request(t, "POST", "", `{"name":"renamed","description":"`+mark+`","allowed":[{"IPProtocol":"tcp"}]}`)
	for _, want := range []bool{true, false} {
		if exists, err := w.Exists(t.Context(), testOwner()); err != nil || exists != want {
			t.Errorf("exists: %v, %v, want %v", exists, err, want)
		}
		if err := w.Delete(t.Context(), testOwner()); err != nil {
			t.Error(err)
		}
	}
	if rules := w.rules(t); len(rules) != 0 {
		t.Errorf("left: %v", rules)
	}
}

func TestWithAFailingAPINothingIsReportedAsDeleted(t *testing.T) {
	for _, kind := range []gcesim.FaultKind{gcesim.FaultForbidden, gcesim.FaultNotFound, gcesim.FaultRateLimit, gcesim.FaultUnavailable, gcesim.FaultLostReply} {
		w := newWorld(t, "node")
		w.mustEnsure(t, testSpec())
		if err := w.sim.AddFault(gcesim.Fault{Kind: kind, Verb: "firewalls.list"}); err != nil {
			t.Fatal(err)
		}
		if exists, err := w.Exists(t.Context(), testOwner()); err == nil {
			t.Errorf("%s: exists is %v without an error", kind, exists)
		}
		if err := w.Delete(t.Context(), testOwner()); err == nil {
			t.Errorf("%s: delete returns no error", kind)
		}
	}
}

func TestARuleWhoseCreationWasNotConfirmedIsOurs(t *testing.T) {
	w := newWorld(t, "node")
	s := testSpec()
	s.SourceRanges = s.SourceRanges[:1]
	want, err := firewall.Desired(s, firewall.Target{Network: "default", Tags: []string{"node"}})
	if err != nil {
		t.Fatal(err)
	}
	mark := strings.ReplaceAll(want[0].Description, `"`, `\"`)
	w.request(t, "POST", "", `{"name":"`+want[0].Name+`","description":"`+mark+`","targetTags":["node"],"allowed":[{"IPProtocol":"tcp"}]}`)
	for _, begins := range []string{"updated", "created"} { // First it differs, then it is equal.
		line, err := w.apply(t.Context(), testOwner(), firewall.Change{Action: firewall.Create, Rule: want[0]})
		if err != nil || !strings.HasPrefix(line, begins) {
			t.Errorf("%q, %v, want one that begins with %s", line, err, begins)
		}
	}
	w.wantRules(t, s, "node")
}

func TestChangesBeforeAFailureAreReturned(t *testing.T) {
	w := newWorld(t, "node")
	w.sim.Set(gcesim.Settings{FirewallQuota: new(1)})
	changes, err := w.Ensure(t.Context(), testSpec())
	if len(changes) != 1 || !firewall.IsQuota(err) || !strings.Contains(err.Error(), "web/traefik") {
		t.Errorf("%v, %v", changes, err)
	}
	w.sim.Set(gcesim.Settings{FirewallQuota: new(2)})
	w.mustEnsure(t, testSpec())
	w.wantRules(t, testSpec(), "node")
}

func TestPortsAreParsedInEveryFormOfTheAPI(t *testing.T) {
	for _, c := range []struct {
		protocol string
		ports    []string
		want     []firewall.Allow
	}{
		{"tcp", nil, []firewall.Allow{{Protocol: "tcp"}}},
		{"6", []string{"80", "90-91"}, []firewall.Allow{{Protocol: "tcp", From: 80, To: 80}, {Protocol: "tcp", From: 90, To: 91}}},
		{"TCP", []string{"0-65535"}, []firewall.Allow{{Protocol: "tcp", From: 0, To: 65535}}},
		{"47", nil, []firewall.Allow{{Protocol: "47"}}},
	} {
		if diff := cmp.Diff(c.want, parseAllows(c.protocol, c.ports)); diff != "" {
			t.Errorf("%s %v (-want +got):\n%s", c.protocol, c.ports, diff)
		}
	}
}

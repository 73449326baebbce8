//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/compute/v1"
	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/gcloud"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDeletedFirewallRuleIsRestoredAndOtherRulesAreKept(t *testing.T) {
	t.Parallel()
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	const other = "manually-created"
	insertRule(t, &compute.Firewall{
		Name: other, Description: "not yours", TargetTags: []string{cluster.NodeTag},
		Allowed: []*compute.FirewallAllowed{{IPProtocol: "tcp", Ports: []string{"7777"}}},
	})
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	rule := ruleNames(t, svc)[0]

	deleteRule(t, rule)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	wantEvent(t, svc, "FirewallRepaired", "created", rule)

	asAdministrator(t, http.MethodPatch, "/"+rule, `{"targetTags":["elsewhere"]}`)
	wantEvent(t, svc, "FirewallRepaired", rule, "targetTags", "elsewhere", cluster.NodeTag)
	wantOpen(t, getTCP, "web", port, externalIPs()...)

	deleteService(t, svc)
	wantNothingLeft(t, svc)
	state, err := sim.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(state.Firewalls, func(f gcesim.Firewall) bool { return f.Name == other && f.Description == "not yours" }) {
		t.Errorf("rule %s was changed or deleted, the rules are %+v", other, state.Firewalls)
	}
}

// deleteRule deletes a firewall rule and waits until it is gone.
func deleteRule(t *testing.T, name string) {
	t.Helper()
	asAdministrator(t, http.MethodDelete, "/"+name, "")
	eventually(t, 10*time.Second, "the simulator has removed rule "+name, func(ctx context.Context) error {
		state, err := sim.State(ctx)
		for _, rule := range state.Firewalls {
			if rule.Name == name && err == nil {
				err = fmt.Errorf("it is still there")
			}
		}
		return err
	})
}

// asAdministrator sends a request on firewall rules to the Compute API.
func asAdministrator(t *testing.T, method, path, body string) {
	t.Helper()
	url := sim.BaseURL + "/compute/v1/projects/" + cluster.Project + "/global/firewalls" + path
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", method, url, reply.Status)
	}
}

// gcloudCommand matches a gcloud command on a firewall rule with its flags, quoted or not.
var gcloudCommand = regexp.MustCompile(`gcloud compute firewall-rules [a-z]+ \S+(?: (?:--[-\w./:=,@%+]+|'(?:[^']|'\\'')*'))+`)

func TestInReportModeTheCommandInTheEventOpensThePort(t *testing.T) {
	t.Parallel()
	port, another := freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	svc := newService(t, ns, "web", func(s *v1.Service) {
		s.Annotations = map[string]string{"hostport-ccm.io/firewall": "report"}
	}, servicePort(v1.ProtocolTCP, port))
	run := func(verb string) {
		message := wantEvent(t, svc, "LoadBalancerManualChange", "gcloud compute firewall-rules "+verb)
		command := strings.TrimRight(gcloudCommand.FindString(message), ".,:;")
		if err := gcloud.Run(http.DefaultClient, sim.BaseURL, command); err != nil {
			t.Fatalf("%s: %v", command, err)
		}
	}
	wantAddresses(t, svc, time.Minute, externalIPs()...)
	wantClosed(t, getTCP, port, externalIPs()...)
	run("create")
	wantOpen(t, getTCP, "web", port, externalIPs()...)
	editService(t, svc, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, another)) })
	run("update")
	wantOpen(t, getTCP, "web", another, externalIPs()...)
	deleteService(t, svc)
	run("delete")
	wantNothingLeft(t, svc)
	wantClosed(t, getTCP, port, externalIPs()...)
}

func TestExhaustedFirewallQuotaIsReportedAndRecoveredFrom(t *testing.T) {
	ns, port := newNamespace(t), freePort()
	newBackend(t, ns, "web")
	limit := func(n int) {
		if err := sim.Set(context.WithoutCancel(t.Context()), gcesim.Settings{FirewallQuota: &n}); err != nil {
			t.Error(err)
		}
	}
	limit(0)
	t.Cleanup(func() { limit(100) })
	svc := newService(t, ns, "web", nil, servicePort(v1.ProtocolTCP, port))
	wantEvent(t, svc, "FirewallQuotaExceeded", "Quota 'FIREWALLS' exceeded")
	if got, err := addresses(t.Context(), svc); err != nil || len(got) > 0 {
		t.Errorf("addresses %v are published although the port is closed (%v)", got, err)
	}
	limit(100)
	wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	wantOpen(t, getTCP, "web", port, externalIPs()...)
}

func TestServicesShareAFirewallRuleAndReturnToTheirOwn(t *testing.T) {
	first, second, third := freePort(), freePort(), freePort()
	ns := newNamespace(t)
	newBackend(t, ns, "one")
	newBackend(t, ns, "two")
	newBackend(t, ns, "three")
	one := newService(t, ns, "one", nil, servicePort(v1.ProtocolTCP, first))
	two := newService(t, ns, "two", nil, servicePort(v1.ProtocolTCP, second))
	three := newService(t, ns, "three", nil, servicePort(v1.ProtocolTCP, third))
	wantOpen(t, getTCP, "one", first, externalIPs()...)
	wantOpen(t, getTCP, "two", second, externalIPs()...)
	wantOpen(t, getTCP, "three", third, externalIPs()...)

	restore := setFirewallLayout(t, "shared")
	t.Cleanup(restore)
	eventually(t, time.Minute, "one rule is shared", func(ctx context.Context) error {
		state, err := sim.State(ctx)
		if err == nil && (len(state.Firewalls) != 1 || !strings.HasPrefix(state.Firewalls[0].Name, "hostport-shared-")) {
			err = fmt.Errorf("the rules are %+v", state.Firewalls)
		}
		return err
	})
	wantOpen(t, getTCP, "one", first, externalIPs()...)
	wantOpen(t, getTCP, "two", second, externalIPs()...)
	editService(t, three, func(s *v1.Service) { s.Annotations = map[string]string{"hostport-ccm.io/firewall": "report"} })
	remove := func(svc *v1.Service) {
		deleteService(t, svc)
		wantNothingLeft(t, svc)
	}
	remove(one)
	wantClosed(t, getTCP, first, externalIPs()...)
	wantOpen(t, getTCP, "two", second, externalIPs()...)
	wantOpen(t, getTCP, "three", third, externalIPs()...)
	remove(three)
	eventually(t, time.Minute, "a deleted Service's port is in no rule", func(ctx context.Context) error {
		state, err := sim.State(ctx)
		for _, rule := range state.Firewalls {
			if err == nil && strings.Contains(fmt.Sprint(rule.Allowed), fmt.Sprint(third)) {
				err = fmt.Errorf("rule %s has it: %v", rule.Name, rule.Allowed)
			}
		}
		return err
	})
	restore()
	wantRule(t, two, fmt.Sprintf("tcp:%d", second))
	wantOpen(t, getTCP, "two", second, externalIPs()...)
}

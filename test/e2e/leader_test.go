//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestStandbyContinuesAndRepeatsNothingThatWasFinished(t *testing.T) {
	ns := newNamespace(t)
	newBackend(t, ns, "web")
	make := func(name string, port int32) *v1.Service {
		return newService(t, ns, name, func(s *v1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }, servicePort(v1.ProtocolTCP, port))
	}
	kept, edited, deleted := make("kept", 80), make("edited", 81), make("deleted", 82)
	for _, svc := range []*v1.Service{kept, edited, deleted} {
		wantAddresses(t, svc, time.Minute, externalIPs()...)
	}
	before, keptRules := versions(t, kept), ruleNames(t, kept)
	if err := sim.ForgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}

	var made []*v1.Service
	for i := range int32(3) {
		made = append(made, make(fmt.Sprint("made", i), 90+i))
	}
	if err := client.CoreV1().Services(ns).Delete(t.Context(), deleted.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	editService(t, edited, func(s *v1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePort(v1.ProtocolTCP, 443)) })
	eventually(t, time.Minute, "some of the work is done", func(ctx context.Context) error {
		if done, err := finishedWrites(ctx); err != nil || len(done) > 0 {
			return err
		}
		return errors.New("no firewall rule was written")
	})
	killLeader(t)

	for _, svc := range append(made, kept) {
		wantAddresses(t, svc, 2*time.Minute, externalIPs()...)
	}
	wantRule(t, edited, "tcp:81,443")
	wantNothingLeft(t, deleted)
	wantOpen(t, getTCP, "web", 443, externalIPs()...)
	wantOpen(t, getTCP, "web", 92, externalIPs()...)
	wantNoWrites(t, keptRules)
	if diff := cmp.Diff(before, versions(t, kept)); diff != "" {
		t.Errorf("what was finished before was written again (-before +after):\n%s", diff)
	}
	done, err := finishedWrites(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for write, n := range done {
		if n > 1 {
			t.Errorf("%s was done %d times", write, n)
		}
	}
}

// finishedWrites counts the changes of firewall rules that were made, by verb
// and rule.
func finishedWrites(ctx context.Context) (map[string]int, error) {
	requests, err := sim.Requests(ctx)
	if err != nil {
		return nil, err
	}
	done := map[string]int{}
	for _, r := range slices.DeleteFunc(requests, func(r gcesim.Request) bool { return !r.IsWrite() || r.Status != 200 }) {
		done[r.Verb+" "+r.Resource]++
	}
	return done, nil
}

// killLeader kills the controller manager that leads, without warning, and
// waits until the other one does.
func killLeader(t *testing.T) {
	t.Helper()
	node := leadersNode(t)
	before, err := leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pods, err := controllerPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if p.Spec.NodeName != node.Name {
			continue
		}
		if err := client.CoreV1().Pods(cluster.ProductNamespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 2*time.Minute, "another controller manager leads", func(ctx context.Context) error {
		now, err := leader(ctx)
		if err == nil && (now == "" || now == before) {
			err = fmt.Errorf("the leader is %q", now)
		}
		return err
	})
}

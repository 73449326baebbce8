package publish

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

var conflicts = []plan.Conflict{{Port: snapshot.Port{Protocol: v1.ProtocolTCP, Number: 80}, Reason: plan.PortConflict, Message: "port 80/TCP is taken"}}

func condition(kind string, status metav1.ConditionStatus, reason, message string, at int64) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Unix(at, 0)}
}

func TestConditionsReportPortConflicts(t *testing.T) {
	foreign := condition("example.com/Foreign", metav1.ConditionTrue, "R", "m", 1)
	bad := condition(v1.LoadBalancerPortsError, metav1.ConditionTrue, plan.PortConflict, "port 80/TCP is taken", 5)
	good := condition(v1.LoadBalancerPortsError, metav1.ConditionFalse, ReasonAllPortsServed, "", 9)
	for name, c := range map[string]struct {
		previous  []metav1.Condition
		conflicts []plan.Conflict
		want      []metav1.Condition
	}{
		"no condition without a conflict":                {nil, nil, nil},
		"conditions of others stay":                      {[]metav1.Condition{foreign}, nil, []metav1.Condition{foreign}},
		"an existing conflict keeps its transition time": {[]metav1.Condition{bad}, conflicts, []metav1.Condition{bad}},
		"a resolved conflict becomes False":              {[]metav1.Condition{foreign, bad}, nil, []metav1.Condition{foreign, good}},
		"a recurring conflict becomes True again":        {[]metav1.Condition{condition(v1.LoadBalancerPortsError, metav1.ConditionFalse, "x", "", 3)}, conflicts, []metav1.Condition{condition(v1.LoadBalancerPortsError, metav1.ConditionTrue, plan.PortConflict, "port 80/TCP is taken", 9)}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Conditions(c.previous, c.conflicts, time.Unix(9, 0))); diff != "" {
				t.Errorf("conditions differ (-want +got):\n%s", diff)
			}
		})
	}
	if diff := cmp.Diff([]metav1.Condition{foreign}, WithoutConditions([]metav1.Condition{bad, foreign})); diff != "" {
		t.Errorf("without ours (-want +got):\n%s", diff)
	}
}

func TestASummaryNamesTheFirstConflictsAndTheNumberOfTheOthers(t *testing.T) {
	var many []plan.Conflict
	for _, message := range []string{"a", "b", "c", "d", "e"} {
		many = append(many, plan.Conflict{Message: message})
	}
	for n, want := range map[int]string{1: "a", 3: "a; b; c", 5: "a; b; c; and 2 more ports, which the Service's condition LoadBalancerPortsError names"} {
		if got := Summary(many[:n]); got != want {
			t.Errorf("%d conflicts: %s", n, got)
		}
	}
}

func TestPortsListsEachPort(t *testing.T) {
	svc := &v1.Service{Spec: v1.ServiceSpec{Ports: []v1.ServicePort{{Port: 443}, {Port: 80}, {Port: 80, Protocol: v1.ProtocolUDP}}}}
	reason := "hostport-ccm.io/PortConflict"
	want := []v1.PortStatus{
		{Port: 80, Protocol: v1.ProtocolTCP, Error: &reason},
		{Port: 80, Protocol: v1.ProtocolUDP},
		{Port: 443, Protocol: v1.ProtocolTCP},
	}
	if diff := cmp.Diff(want, Ports(svc, conflicts)); diff != "" {
		t.Errorf("ports differ (-want +got):\n%s", diff)
	}
}

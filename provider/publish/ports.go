package publish

import (
	"strings"
	"time"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

// ReasonAllPortsServed is the reason of the condition LoadBalancerPortsError
// once it does not hold any more.
const ReasonAllPortsServed = "AllPortsServed"

// Ports returns what the status of a Service says about its ports: each port,
// with an error or without. The form of the errors is prescribed by the
// documentation of v1.PortStatus.
func Ports(svc *v1.Service, conflicts []plan.Conflict) []v1.PortStatus {
	errors := map[string]*string{}
	for _, c := range conflicts {
		reason := options.Prefix + c.Reason
		errors[plan.PortKey(c.Protocol, c.Port)] = &reason
	}
	var list []v1.PortStatus
	for _, p := range plan.Ports(svc) {
		list = append(list, v1.PortStatus{Port: p.Port, Protocol: p.Protocol, Error: errors[plan.PortKey(p.Protocol, p.Port)]})
	}
	return list
}

// Conditions returns the conditions that a Service should have in place of
// those it has. A Service that never had a conflict gets none from us.
func Conditions(previous []metav1.Condition, conflicts []plan.Conflict, now time.Time) []metav1.Condition {
	next := append([]metav1.Condition(nil), previous...)
	condition := metav1.Condition{Type: v1.LoadBalancerPortsError, LastTransitionTime: metav1.Time{Time: now}}
	switch {
	case len(conflicts) > 0:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionTrue, conflicts[0].Reason, Sentences(conflicts)
	case meta.FindStatusCondition(previous, v1.LoadBalancerPortsError) == nil:
		return next
	default:
		condition.Status, condition.Reason = metav1.ConditionFalse, ReasonAllPortsServed
	}
	meta.SetStatusCondition(&next, condition)
	return next
}

// WithoutConditions returns the conditions that are not ours.
func WithoutConditions(previous []metav1.Condition) []metav1.Condition {
	next := append([]metav1.Condition(nil), previous...)
	meta.RemoveStatusCondition(&next, v1.LoadBalancerPortsError)
	return next
}

// Sentences writes conflicts in one line.
func Sentences(conflicts []plan.Conflict) string {
	var list []string
	for _, c := range conflicts {
		list = append(list, c.Message)
	}
	return strings.Join(list, "; ")
}

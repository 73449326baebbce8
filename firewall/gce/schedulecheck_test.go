package gce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// observe is called with every state of the rules, also those between two calls.
func (s *schedule) observe(now gcesim.Snapshot) {
	for _, rule := range now.Firewalls {
		if len(rule.TargetTags) == 0 && rule.Name != foreign && s.broken == nil {
			s.broken = fmt.Errorf("rule %s applied to the whole network", rule.Name)
		}
	}
	s.checkRequired(now)
}

// checkRequired checks that all traffic that must be allowed all the time is.
func (s *schedule) checkRequired(now gcesim.Snapshot) {
	if len(s.required) == 0 || s.broken != nil {
		return
	}
	var rules []firewall.Rule
	for _, rule := range now.Firewalls {
		in := firewall.Rule{Name: rule.Name, Disabled: rule.Disabled, SourceRanges: rule.SourceRanges, DestinationRanges: canonical(rule.DestinationRanges), TargetTags: rule.TargetTags}
		for _, entry := range rule.Allowed {
			in.Allowed = append(in.Allowed, parseAllows(entry.IPProtocol, entry.Ports)...)
		}
		rules = append(rules, in)
	}
	allowed := traffic(rules)
	for what := range s.required {
		if !allowed[what] {
			s.broken = fmt.Errorf("for a moment %s was not allowed", what)
		}
	}
}

// requestsAreIdempotent returns an error if a change of ours had no request id.
func (s *schedule) requestsAreIdempotent() error {
	for _, r := range s.sim.Requests() {
		if r.IsWrite() && r.RequestID == "" && r.Resource != foreign && r.Resource != theirs && !s.tampered[r.Resource] {
			return fmt.Errorf("%s of %s has no request id", r.Verb, r.Resource)
		}
	}
	return nil
}

// check compares the allowed traffic with what is wanted, and the rules of others
// with what they were.
func (s *schedule) check() error {
	tags := s.tags
	if len(tags) == 0 {
		tags = s.nodeTags[:1]
	}
	var want []firewall.Rule
	for uid, spec := range s.wanted {
		rules, err := firewall.Desired(spec, firewall.Target{Network: "default", Tags: tags})
		if err != nil {
			return err
		}
		if kept, reports := s.frozen[uid]; reports {
			rules = kept
		}
		for _, r := range rules {
			r.NodeSelection = "" // It is not in the cloud.
			want = append(want, r)
		}
	}
	got, err := s.firewall.list(context.Background(), "")
	if err != nil {
		return err
	}
	if diff := cmp.Diff(traffic(want), traffic(got)); diff != "" {
		return fmt.Errorf("traffic in layout %s (-want +got):\n%s", s.firewall.options.Layout, diff)
	}
	return errors.Join(s.checkForm(want, got), s.checkOthers(got))
}

// checkForm compares the rules in every field with those of the layout.
func (s *schedule) checkForm(want, got []firewall.Rule) error {
	ours := slices.DeleteFunc(slices.Clone(got), func(r firewall.Rule) bool { return r.Name == foreign || r.Name == theirs })
	if s.firewall.options.Layout == firewall.PerService {
		byName := func(a, b firewall.Rule) int { return strings.Compare(a.Name, b.Name) }
		slices.SortFunc(want, byName)
		slices.SortFunc(ours, byName)
		if diff := cmp.Diff(want, ours); diff != "" && len(want)+len(ours) > 0 {
			return fmt.Errorf("rules (-want +got):\n%s", diff)
		}
		return nil
	}
	for _, r := range ours {
		if !r.IsSharedIn("prod") || r.Disabled || r.Priority != 1000 || len(r.SourceTags) > 0 {
			return fmt.Errorf("rule %+v is no shared rule", r)
		}
	}
	return nil
}

func (s *schedule) checkOthers(got []firewall.Rule) error {
	by := firewall.Rule{
		Name: foreign, Description: "created by an administrator", Network: "default", Direction: firewall.Ingress, Priority: 1000,
		Allowed: []firewall.Allow{{Protocol: "tcp"}}, SourceRanges: []string{"0.0.0.0/0"}, TargetTags: []string{"node"},
	}
	their := by
	their.Name, their.Description, their.Allowed = theirs, theirMark, []firewall.Allow{{Protocol: "udp"}}
	others := slices.DeleteFunc(slices.Clone(got), func(r firewall.Rule) bool { return r.Name != foreign && r.Name != theirs })
	if diff := cmp.Diff([]firewall.Rule{by, their}, others); diff != "" {
		return fmt.Errorf("rules of others (-want +got):\n%s", diff)
	}
	return nil
}

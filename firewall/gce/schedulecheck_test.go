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

// watch sees every state of the rules, those between two calls included.
func (s *schedule) watch(now gcesim.Snapshot) {
	for _, rule := range now.Firewalls {
		if len(rule.TargetTags) == 0 && rule.Name != strangers && s.broken == nil {
			s.broken = fmt.Errorf("rule %s opened the whole network", rule.Name)
		}
	}
	s.watchOpen(now)
}

// watchOpen checks that nothing is closed which has to stay open.
func (s *schedule) watchOpen(now gcesim.Snapshot) {
	if len(s.mustStay) == 0 || s.broken != nil {
		return
	}
	var rules []firewall.Rule
	for _, rule := range now.Firewalls {
		in := firewall.Rule{Name: rule.Name, Disabled: rule.Disabled, SourceRanges: rule.SourceRanges, TargetTags: rule.TargetTags}
		for _, entry := range rule.Allowed {
			in.Allowed = append(in.Allowed, parseAllows(entry.IPProtocol, entry.Ports)...)
		}
		rules = append(rules, in)
	}
	is := letIn(rules)
	for what := range s.mustStay {
		if !is[what] {
			s.broken = fmt.Errorf("for a moment %s was closed", what)
		}
	}
}

// requestsAreIdempotent looks for changes of ours without a request id.
func (s *schedule) requestsAreIdempotent() error {
	for _, r := range s.sim.Requests() {
		if r.IsWrite() && r.RequestID == "" && r.Resource != strangers && r.Resource != theirs && !s.tampered[r.Resource] {
			return fmt.Errorf("%s of %s has no request id", r.Verb, r.Resource)
		}
	}
	return nil
}

// check compares what is open with what is wanted, and the rules of others with
// what they were.
func (s *schedule) check() error {
	tags := s.tags
	if len(tags) == 0 {
		tags = s.nodeTags
	}
	var want []firewall.Rule
	for uid, spec := range s.wanted {
		rules, err := firewall.Desired(spec, firewall.Target{Network: "default", Tags: tags})
		if err != nil {
			return err
		}
		if had, reports := s.frozen[uid]; reports {
			rules = had
		}
		want = append(want, rules...)
	}
	got, err := s.firewall.list(context.Background(), "")
	if err != nil {
		return err
	}
	if diff := cmp.Diff(letIn(want), letIn(got)); diff != "" {
		return fmt.Errorf("open in layout %s (-want +got):\n%s", s.firewall.Layout, diff)
	}
	return errors.Join(s.checkForm(want, got), s.checkOthers(got))
}

// checkForm wants the rules to be, in every field, the very rules of the layout.
func (s *schedule) checkForm(want, got []firewall.Rule) error {
	ours := slices.DeleteFunc(slices.Clone(got), func(r firewall.Rule) bool { return r.Name == strangers || r.Name == theirs })
	if s.firewall.Layout == firewall.PerService {
		byName := func(a, b firewall.Rule) int { return strings.Compare(a.Name, b.Name) }
		slices.SortFunc(want, byName)
		slices.SortFunc(ours, byName)
		if diff := cmp.Diff(want, ours); diff != "" && len(want)+len(ours) > 0 {
			return fmt.Errorf("rules (-want +got):\n%s", diff)
		}
		return nil
	}
	for _, r := range ours {
		if !r.IsSharedBy("prod") || r.Disabled || r.Priority != 1000 || len(r.SourceTags) > 0 {
			return fmt.Errorf("rule %+v is no shared rule", r)
		}
	}
	return nil
}

func (s *schedule) checkOthers(got []firewall.Rule) error {
	by := firewall.Rule{
		Name: strangers, Description: "by hand", Network: "default", Direction: firewall.Ingress, Priority: 1000,
		Allowed: []firewall.Allow{{Protocol: "tcp"}}, SourceRanges: []string{"0.0.0.0/0"}, TargetTags: []string{"node"},
	}
	their := by
	their.Name, their.Description, their.Allowed = theirs, theirMark, []firewall.Allow{{Protocol: "udp"}}
	others := slices.DeleteFunc(slices.Clone(got), func(r firewall.Rule) bool { return r.Name != strangers && r.Name != theirs })
	if diff := cmp.Diff([]firewall.Rule{by, their}, others); diff != "" {
		return fmt.Errorf("rules of others (-want +got):\n%s", diff)
	}
	return nil
}

// Package gce implements firewall.Firewall for a VPC network of Google Compute
// Engine, with one rule per Service and IP family or with rules that Services
// share. It reads before it writes, changes only what differs, and never changes
// a rule without our mark.
package gce

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/api/compute/v1"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
)

// API is the part of the Compute API that firewall rules need. *gce.Client implements it. A method
// that changes a rule returns when the change is in force. Errors have a gce.Kind.
type API interface {
	// Firewall returns one rule.
	Firewall(ctx context.Context, name string) (*compute.Firewall, error)
	// Firewalls returns the rules of the project that match filter; all if it is empty. The filter
	// has the syntax of the Compute API: FIELD eq "REGEXP", in the syntax of RE2, which has to match
	// the whole value of the field.
	Firewalls(ctx context.Context, filter string) ([]*compute.Firewall, error)
	// InsertFirewall creates a rule. The kind of the error is gce.KindExists if there is one of
	// the same name.
	InsertFirewall(ctx context.Context, rule *compute.Firewall) error
	// PatchFirewall changes the fields of a rule that patch sends.
	PatchFirewall(ctx context.Context, name string, patch *compute.Firewall) error
	// DeleteFirewall deletes a rule. The kind of the error is gce.KindNotFound if there is none.
	DeleteFirewall(ctx context.Context, name string) error
	// NetworkProject returns the project of the network and its rules.
	NetworkProject() string
	// Network returns the name of the network that rules are created in.
	Network() string
}

// Options configure how rules are made.
type Options struct {
	// Tags are the target tags of all rules. Empty: one that all nodes of a
	// Service have in common.
	Tags []string
	// Layout is how Services are spread over rules. Empty: PerService.
	Layout firewall.Layout
}

// Firewall implements firewall.Firewall. Create it with New.
type Firewall struct {
	api     API
	tagger  Tagger
	options Options
	cluster firewall.Cluster
	ensured ensuredStates
	chosen  chosenTags
	needs   sharedRuleNeeds
	listing listing
	// destinations are shared by Services on the same nodes.
	destinations firewall.RecentDestinations
}

var _ firewall.Firewall = &Firewall{}

// New returns a Firewall that makes rules through api. It uses tagger if options
// have no tags. cluster.Services must not be nil.
func New(api API, tagger Tagger, options Options, cluster firewall.Cluster) *Firewall {
	return &Firewall{api: api, tagger: tagger, options: options, cluster: cluster, ensured: newEnsuredStates(), chosen: newChosenTags(), needs: newSharedRuleNeeds(), listing: newListing()}
}

// Ensure implements firewall.Firewall. Without the permission to change rules it
// returns a *firewall.ManualChangeError, as in report mode.
func (f *Firewall) Ensure(ctx context.Context, spec firewall.Spec) ([]string, error) {
	want, target, err := f.desired(ctx, spec, nil)
	if err != nil {
		return nil, err
	}
	var changes []string
	if spec.Report {
		f.needs.forget(spec.Owner)
		err = f.report(ctx, spec.Owner, want, target.NodeTags, nil)
	} else if changes, err = f.manageSince(ctx, spec.Owner, want, spec.Since); firewall.IsForbidden(err) {
		err = f.report(ctx, spec.Owner, want, target.NodeTags, err)
	}
	f.ensured.record(spec, target.Tags, want, err)
	return changes, err
}

// Delete implements firewall.Firewall.
func (f *Firewall) Delete(ctx context.Context, owner firewall.Owner) error {
	f.forget(owner)
	_, err := f.manageSince(ctx, owner, nil, time.Time{})
	if firewall.IsForbidden(err) {
		return cmp.Or(f.report(ctx, owner, nil, nil, err), err)
	}
	return err
}

// Release implements firewall.Firewall.
func (f *Firewall) Release(ctx context.Context, owner firewall.Owner) error {
	f.forget(owner)
	f.needs.forget(owner)
	return f.report(ctx, owner, nil, nil, nil)
}

func (f *Firewall) forget(owner firewall.Owner) {
	f.ensured.forget(owner)
	f.chosen.forget(owner)
}

// Exists implements firewall.Firewall.
func (f *Firewall) Exists(ctx context.Context, owner firewall.Owner) (bool, error) {
	own, shared, err := f.find(ctx, owner, time.Time{})
	return len(own) > 0 || slices.ContainsFunc(shared, func(r firewall.Rule) bool { return r.IsSharedBy(owner) }), err
}

// Owners implements firewall.Firewall.
func (f *Firewall) Owners(ctx context.Context, clusterID string) ([]firewall.Owner, error) {
	rules, err := f.list(ctx, fmt.Sprintf(`description eq ".*%s.*"`, clusterID))
	if err != nil {
		return nil, fmt.Errorf("listing the firewall rules of cluster %s: %w", clusterID, err)
	}
	return firewall.OwnersAmong(rules, clusterID), nil
}

// desired returns the rules that a Service needs in the layout PerService, and what they apply to.
// rules are as in chooseTag.
func (f *Firewall) desired(ctx context.Context, spec firewall.Spec, rules []firewall.Rule) ([]firewall.Rule, firewall.Target, error) {
	target, err := f.target(ctx, spec, rules)
	if err != nil {
		return nil, target, err
	}
	want, err := firewall.Desired(spec, target)
	return want, target, err
}

// manageSince makes owner's rules equal to want. Rules that were read before, and that somebody has
// deleted since, are read again. since is as in firewall.Spec, but in the layout Shared at latest now:
// the list that another Service waits for serves those too that wait for it.
func (f *Firewall) manageSince(ctx context.Context, owner firewall.Owner, want []firewall.Rule, since time.Time) ([]string, error) {
	if since.IsZero() && f.options.Layout == firewall.Shared {
		since = time.Now()
	}
	lines, err := f.manage(ctx, owner, want, since)
	if firewall.KindOf(err) != firewall.Kind(gce.KindNotFound) || since.IsZero() {
		return lines, err
	}
	more, err := f.manage(ctx, owner, want, time.Time{})
	return append(lines, more...), err
}

// manage makes owner's rules equal to want. It allows traffic before it removes
// rules, also from one layout to the other. since is as in firewall.Spec.
func (f *Firewall) manage(ctx context.Context, owner firewall.Owner, want []firewall.Rule, since time.Time) ([]string, error) {
	if f.options.Layout == firewall.Shared {
		lines, own, err := f.updateSharedRules(ctx, owner, want, since)
		if err != nil {
			return lines, err
		}
		more, err := f.applyAll(ctx, owner, firewall.Changes(owner, own, nil))
		return append(lines, more...), err
	}
	own, shared, err := f.find(ctx, owner, since)
	if err != nil {
		return nil, err
	}
	lines, err := f.applyAll(ctx, owner, firewall.Changes(owner, own, want))
	if err != nil || len(shared) == 0 {
		return lines, err
	}
	more, _, err := f.updateSharedRules(ctx, owner, nil, since)
	return append(lines, more...), err
}

// report returns the changes that an administrator has to make for owner as a
// *firewall.ManualChangeError. If it may not list rules, it assumes that there
// are none.
func (f *Firewall) report(ctx context.Context, owner firewall.Owner, want []firewall.Rule, nodeTags [][]string, cause error) error {
	rules, err := f.listAll(ctx)
	if err != nil && !firewall.IsForbidden(err) {
		return err
	}
	commands, err := f.commands(owner, rules, want, nodeTags, cause)
	if err != nil || len(commands) == 0 {
		return err
	}
	return &firewall.ManualChangeError{Owner: owner, Commands: commands, Cause: cause}
}

// commands returns the gcloud commands that make owner's rules equal to want, except for traffic
// that other rules allow. If want is empty, they also remove owner's ports from shared rules,
// unless deleteOrphanedPorts will: then these commands would soon be outdated.
func (f *Firewall) commands(owner firewall.Owner, rules, want []firewall.Rule, nodeTags [][]string, cause error) ([]string, error) {
	changes, err := firewall.MissingChanges(owner, rules, want, nodeTags)
	if len(want) == 0 && (cause != nil || !f.cluster.DeleteOrphans) {
		changes = append(changes, firewall.ReleaseSharedRules(owner, sharedAmong(rules, owner.ClusterID))...)
	}
	return firewall.Gcloud(f.api.NetworkProject(), changes), err
}

// find returns the rules that have owner's mark, whatever their names, and those
// that Services of its cluster share. since is as in firewall.Spec.
func (f *Firewall) find(ctx context.Context, owner firewall.Owner, since time.Time) (own, shared []firewall.Rule, err error) {
	if !since.IsZero() {
		marked, err := f.markedSince(ctx, since)
		if err != nil {
			return nil, nil, fmt.Errorf("looking for firewall rules of Service %s: %w", owner.Service, err)
		}
		for _, rule := range marked {
			switch {
			case rule.owner == owner:
				own = append(own, rule.Rule)
			case rule.isShared:
				shared = append(shared, rule.Rule)
			}
		}
		return own, shared, nil
	}
	// A filter cannot match two fields of the mark by pattern. The UID is
	// selective enough, and the mark is compared afterwards.
	rules, err := f.list(ctx, fmt.Sprintf(`description eq ".*(%s|%s).*"`, owner.UID, firewall.SharedMarkField))
	if err != nil {
		return nil, nil, fmt.Errorf("looking for firewall rules of Service %s: %w", owner.Service, err)
	}
	return ownAmong(rules, owner), sharedAmong(rules, owner.ClusterID), nil
}

func ownAmong(rules []firewall.Rule, owner firewall.Owner) []firewall.Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r firewall.Rule) bool { return !r.BelongsTo(owner) })
}

func sharedAmong(rules []firewall.Rule, clusterID string) []firewall.Rule {
	return slices.DeleteFunc(slices.Clone(rules), func(r firewall.Rule) bool { return !r.IsSharedIn(clusterID) })
}

func (f *Firewall) list(ctx context.Context, filter string) ([]firewall.Rule, error) {
	listed, err := f.api.Firewalls(ctx, filter)
	var rules []firewall.Rule
	for _, in := range listed {
		rules = append(rules, fromAPI(in))
	}
	return rules, withKind(err)
}

// withKind converts an error of the Compute API to one of package firewall.
func withKind(err error) error {
	if kind := gce.KindOf(err); kind != "" {
		return &firewall.Error{Kind: firewall.Kind(kind), Err: err}
	}
	return err
}

// applyAll makes the changes and returns one line for each, also if a later one
// fails.
func (f *Firewall) applyAll(ctx context.Context, owner firewall.Owner, changes []firewall.Change) ([]string, error) {
	var lines []string
	for _, change := range changes {
		line, err := f.apply(ctx, owner, change)
		if err != nil {
			return lines, fmt.Errorf("changing the firewall for Service %s: %w", owner.Service, withKind(err))
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// apply makes one change and returns the line that describes it.
func (f *Firewall) apply(ctx context.Context, owner firewall.Owner, change firewall.Change) (line string, err error) {
	defer func() { f.remember(change, err) }()
	switch change.Action {
	case firewall.Create:
		if err = f.api.InsertFirewall(ctx, toAPI(change.Rule)); gce.KindOf(err) == gce.KindExists {
			return f.adopt(ctx, owner, change.Rule)
		}
	case firewall.Update:
		err = f.api.PatchFirewall(ctx, change.Rule.Name, patchFor(change))
	case firewall.Replace:
		if err = f.delete(ctx, change.Rule.Name); err == nil {
			err = f.api.InsertFirewall(ctx, toAPI(change.Rule))
		}
	case firewall.Remove:
		err = f.delete(ctx, change.Rule.Name)
	}
	if err != nil {
		return "", err
	}
	klog.FromContext(ctx).V(2).Info("Changed the firewall", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name), "change", change.String())
	return change.String(), nil
}

// remember records the outcome of a change in the listing.
func (f *Firewall) remember(change firewall.Change, err error) {
	switch {
	case err != nil:
		f.listing.forget()
	case change.Action == firewall.Remove:
		f.listing.changed(change.Rule.Name, markedRule{})
	default:
		f.listing.changed(change.Rule.Name, f.marked(change.Rule))
	}
}

// delete deletes a rule. It is no error if the rule does not exist.
func (f *Firewall) delete(ctx context.Context, name string) error {
	err := f.api.DeleteFirewall(ctx, name)
	if gce.KindOf(err) == gce.KindNotFound {
		return nil
	}
	return err
}

// adopt handles a rule that exists although it was to be created. With our mark
// it is one whose creation was not confirmed, as the reply was lost: it is
// updated if it differs. Without, it belongs to somebody else.
func (f *Firewall) adopt(ctx context.Context, owner firewall.Owner, want firewall.Rule) (string, error) {
	found, err := f.api.Firewall(ctx, want.Name)
	if err != nil {
		return "", err
	}
	rule := fromAPI(found)
	if rule.Description != want.Description {
		return "", &firewall.NotOursError{Rule: want.Name, Owner: owner, Mark: want.Description}
	}
	if changes := firewall.Changes(owner, []firewall.Rule{rule}, []firewall.Rule{want}); len(changes) > 0 {
		return f.apply(ctx, owner, changes[0])
	}
	return firewall.Change{Action: firewall.Create, Rule: want}.String(), nil
}

// Package gce opens what Services need in the firewall of a Compute Engine
// network: one rule per Service and IP family, or rules that Services share. It
// looks before it writes, changes only what differs, and never touches a rule
// that does not carry our mark.
package gce

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"google.golang.org/api/compute/v1"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
)

// API is the part of the Compute API that firewall rules need. *gce.Client
// has it. Changes return when they are in force.
type API interface {
	Firewall(ctx context.Context, name string) (*compute.Firewall, error)
	Firewalls(ctx context.Context, filter string) ([]*compute.Firewall, error)
	InsertFirewall(ctx context.Context, rule *compute.Firewall) error
	PatchFirewall(ctx context.Context, name string, patch *compute.Firewall) error
	DeleteFirewall(ctx context.Context, name string) error
	// NetworkProject and Network say where rules are made.
	NetworkProject() string
	Network() string
}

// Tagger knows the network tags of instances. *gce.Instances is one.
type Tagger interface {
	// Tags returns the tags of the instance with this provider id, or an
	// error for which gce.IsNotFound holds if there is no such instance.
	Tags(ctx context.Context, providerID string) ([]string, error)
}

// Firewall implements firewall.Firewall. Its exported fields are set before it
// is used.
type Firewall struct {
	// ClusterID is the cluster in whose shared rules is closed what is open for
	// Services that are gone. Empty: in none, it is for somebody else to do.
	ClusterID string
	// Layout is how Services are spread over rules. Empty: one's own for each.
	Layout firewall.Layout
	// Roster lets shared rules be narrowed although some Services have not yet
	// been Ensured. Nil: shared rules cannot be changed.
	Roster firewall.Roster

	api    API
	tagger Tagger
	tags   []string
	left   left
	shares shares
}

var _ firewall.Firewall = &Firewall{}

// New makes rules through api. Their target tags are those given; if there are
// none, the tags that all of a Service's nodes bear, according to tagger.
func New(api API, tagger Tagger, tags []string) *Firewall {
	return &Firewall{api: api, tagger: tagger, tags: tags, left: newLeft(), shares: newShares()}
}

// Ensure implements firewall.Firewall. Without the right to change rules it
// says what somebody else has to do, as it does in report mode.
func (f *Firewall) Ensure(ctx context.Context, spec firewall.Spec) ([]string, error) {
	want, err := f.desired(ctx, spec)
	if err != nil {
		return nil, err
	}
	var changes []string
	if spec.Report {
		f.shares.forget(spec.Owner)
		err = f.report(ctx, spec.Owner, want, nil)
	} else if changes, err = f.manage(ctx, spec.Owner, want); gce.IsForbidden(err) {
		err = f.report(ctx, spec.Owner, want, err)
	}
	f.left.remember(spec, err)
	return changes, err
}

// Delete implements firewall.Firewall.
func (f *Firewall) Delete(ctx context.Context, owner firewall.Owner) error {
	f.left.forget(owner)
	_, err := f.manage(ctx, owner, nil)
	if gce.IsForbidden(err) {
		return cmp.Or(f.report(ctx, owner, nil, err), err)
	}
	return err
}

// Abandon implements firewall.Firewall.
func (f *Firewall) Abandon(ctx context.Context, owner firewall.Owner) error {
	f.left.forget(owner)
	f.shares.forget(owner)
	return f.report(ctx, owner, nil, nil)
}

// Exists implements firewall.Firewall.
func (f *Firewall) Exists(ctx context.Context, owner firewall.Owner) (bool, error) {
	own, shared, err := f.look(ctx, owner)
	return len(own) > 0 || slices.ContainsFunc(shared, func(r firewall.Rule) bool { return r.OpensFor(owner) }), err
}

// desired computes the rules that a Service has, or would have if it did not
// share them.
func (f *Firewall) desired(ctx context.Context, spec firewall.Spec) ([]firewall.Rule, error) {
	tags, err := f.targetTags(ctx, spec)
	if err != nil {
		return nil, err
	}
	return firewall.Desired(spec, firewall.Target{Network: f.api.Network(), Tags: tags})
}

// manage makes what is open for owner equal to want. What is opened is opened
// before anything is closed, from one layout to the other too.
func (f *Firewall) manage(ctx context.Context, owner firewall.Owner, want []firewall.Rule) ([]string, error) {
	if f.Layout == firewall.Shared {
		told, own, err := f.share(ctx, owner, want)
		if err != nil {
			return told, err
		}
		more, err := f.carryOut(ctx, owner, firewall.Changes(owner, own, nil))
		return append(told, more...), err
	}
	own, shared, err := f.look(ctx, owner)
	if err != nil {
		return nil, err
	}
	told, err := f.carryOut(ctx, owner, firewall.Changes(owner, own, want))
	if err != nil || len(shared) == 0 {
		return told, err
	}
	more, _, err := f.share(ctx, owner, nil)
	return append(told, more...), err
}

// Owners implements firewall.Firewall.
func (f *Firewall) Owners(ctx context.Context, clusterID string) ([]firewall.Owner, error) {
	listed, err := f.api.Firewalls(ctx, fmt.Sprintf(`description eq ".*%s.*"`, clusterID))
	if err != nil {
		return nil, fmt.Errorf("listing the firewall rules of cluster %s: %w", clusterID, err)
	}
	var rules []firewall.Rule
	for _, in := range listed {
		rules = append(rules, fromAPI(in))
	}
	return firewall.OwnersAmong(rules, clusterID), nil
}

// targetTags never returns nothing for nodes that are there: a rule without
// target tags opens every VM of the network.
func (f *Firewall) targetTags(ctx context.Context, spec firewall.Spec) ([]string, error) {
	if len(f.tags) > 0 || len(spec.Nodes) == 0 {
		return f.tags, nil
	}
	tags, err := f.commonTags(ctx, spec.Nodes)
	if err != nil {
		return nil, fmt.Errorf("finding the network tags of the nodes of Service %s: %w", spec.Owner.Service, err)
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("the %d nodes of Service %s have no network tag in common, and a firewall rule without target tags would open the whole network: "+
			"give the nodes' VMs a common tag (gcloud compute instances add-tags VM --tags=TAG), or set gce.nodeTags in the cloud config to the tags they bear",
			len(spec.Nodes), spec.Owner.Service)
	}
	return tags, nil
}

// commonTags leaves out nodes whose VM is gone for good; their Nodes go soon.
func (f *Firewall) commonTags(ctx context.Context, nodes []string) ([]string, error) {
	var common []string
	found := 0
	for _, node := range nodes {
		tags, err := f.tagger.Tags(ctx, node)
		if gce.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if found++; found == 1 {
			common = slices.Clone(tags)
			continue
		}
		common = slices.DeleteFunc(common, func(tag string) bool { return !slices.Contains(tags, tag) })
	}
	if found == 0 {
		return nil, fmt.Errorf("none of the VMs exists: %v; check gce.project in the cloud config, or delete the Nodes whose machines are gone", nodes)
	}
	return common, nil
}

// look lists the rules that carry owner's mark, whatever their names, and those
// that Services of its cluster share.
func (f *Firewall) look(ctx context.Context, owner firewall.Owner) (own, shared []firewall.Rule, err error) {
	// The API cannot match two fields by pattern at once. A UID is distinctive
	// enough; the mark decides.
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
	return slices.DeleteFunc(slices.Clone(rules), func(r firewall.Rule) bool { return !r.IsSharedBy(clusterID) })
}

func (f *Firewall) list(ctx context.Context, filter string) ([]firewall.Rule, error) {
	listed, err := f.api.Firewalls(ctx, filter)
	var rules []firewall.Rule
	for _, in := range listed {
		rules = append(rules, fromAPI(in))
	}
	return rules, err
}

// carryOut makes the changes, and tells what it changed even if it fails
// halfway.
func (f *Firewall) carryOut(ctx context.Context, owner firewall.Owner, changes []firewall.Change) ([]string, error) {
	var told []string
	for _, change := range changes {
		done, err := f.apply(ctx, owner, change)
		told = append(told, done...)
		if err != nil {
			return told, fmt.Errorf("changing the firewall for Service %s: %w", owner.Service, err)
		}
	}
	return told, nil
}

// report says what would have to be done for owner by hand. What it cannot see
// it takes not to be there.
func (f *Firewall) report(ctx context.Context, owner firewall.Owner, want []firewall.Rule, cause error) error {
	rules, err := f.list(ctx, "")
	if err != nil && !gce.IsForbidden(err) {
		return err
	}
	commands, err := f.commands(owner, rules, want, cause)
	if err != nil || len(commands) == 0 {
		return err
	}
	return &firewall.ByHandError{Owner: owner, Commands: commands, Cause: cause}
}

// commands has what is open for owner in shared rules closed only if sweep is
// not going to do it: such a command is outdated soon.
func (f *Firewall) commands(owner firewall.Owner, rules, want []firewall.Rule, cause error) ([]string, error) {
	everyTag := len(f.tags) == 0 // Then the tags are those that all nodes bear.
	changes, err := firewall.Unmet(owner, rules, want, everyTag)
	if len(want) == 0 && (cause != nil || f.ClusterID == "") {
		changes = append(changes, firewall.LeaveShared(owner, sharedAmong(rules, owner.ClusterID))...)
	}
	return firewall.Gcloud(f.api.NetworkProject(), changes), err
}

// apply makes one change, and returns the lines that tell of it.
func (f *Firewall) apply(ctx context.Context, owner firewall.Owner, change firewall.Change) ([]string, error) {
	var err error
	switch change.Action {
	case firewall.Create:
		if err = f.api.InsertFirewall(ctx, toAPI(change.Rule)); gce.IsAlreadyExists(err) {
			return f.adopt(ctx, owner, change.Rule)
		}
	case firewall.Update:
		err = f.api.PatchFirewall(ctx, change.Rule.Name, patchFor(change))
	case firewall.Replace:
		if err = f.remove(ctx, change.Rule.Name); err == nil {
			err = f.api.InsertFirewall(ctx, toAPI(change.Rule))
		}
	case firewall.Remove:
		err = f.remove(ctx, change.Rule.Name)
	}
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Changed the firewall", "service", klog.KRef(owner.Service.Namespace, owner.Service.Name), "change", change.String())
	return []string{change.String()}, nil
}

// remove deletes a rule. One that is gone already is no error.
func (f *Firewall) remove(ctx context.Context, name string) error {
	if err := f.api.DeleteFirewall(ctx, name); !gce.IsNotFound(err) {
		return err
	}
	return nil
}

// adopt looks at a rule that stands where one was to be created: ours after a
// lost reply, and then it is brought into shape, or a stranger's.
func (f *Firewall) adopt(ctx context.Context, owner firewall.Owner, want firewall.Rule) ([]string, error) {
	found, err := f.api.Firewall(ctx, want.Name)
	if err != nil {
		return nil, err
	}
	rule := fromAPI(found)
	if rule.Description != want.Description {
		return nil, &firewall.NotOursError{Rule: want.Name, Owner: owner, Mark: want.Description}
	}
	if changes := firewall.Changes(owner, []firewall.Rule{rule}, []firewall.Rule{want}); len(changes) > 0 {
		return f.apply(ctx, owner, changes[0])
	}
	return []string{firewall.Change{Action: firewall.Create, Rule: want}.String()}, nil
}

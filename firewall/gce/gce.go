// Package gce opens what Services need in the firewall of a Compute Engine
// network: one rule per Service and IP family. It looks before it writes,
// changes only what differs, and never touches a rule that does not carry our
// mark.
package gce

import (
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

// Firewall implements firewall.Firewall.
type Firewall struct {
	api    API
	tagger Tagger
	tags   []string
}

var _ firewall.Firewall = &Firewall{}

// New makes rules through api. Their target tags are those given; if there are
// none, the tags that all of a Service's nodes bear, according to tagger.
func New(api API, tagger Tagger, tags []string) *Firewall {
	return &Firewall{api: api, tagger: tagger, tags: tags}
}

// Ensure implements firewall.Firewall.
func (f *Firewall) Ensure(ctx context.Context, spec firewall.Spec) ([]string, error) {
	tags, err := f.targetTags(ctx, spec)
	if err != nil {
		return nil, err
	}
	want, err := firewall.Desired(spec, firewall.Target{Network: f.api.Network(), Tags: tags})
	if err != nil {
		return nil, err
	}
	return f.reconcile(ctx, spec.Owner, want)
}

// Delete implements firewall.Firewall.
func (f *Firewall) Delete(ctx context.Context, owner firewall.Owner) error {
	_, err := f.reconcile(ctx, owner, nil)
	return err
}

// Exists implements firewall.Firewall.
func (f *Firewall) Exists(ctx context.Context, owner firewall.Owner) (bool, error) {
	rules, err := f.owned(ctx, owner)
	return len(rules) > 0, err
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
		return nil, fmt.Errorf("none of the VMs exists: %v", nodes)
	}
	return common, nil
}

// owned lists the rules that carry owner's mark, whatever their names.
func (f *Firewall) owned(ctx context.Context, owner firewall.Owner) ([]firewall.Rule, error) {
	// The API cannot match two fields by pattern at once. A UID is distinctive
	// enough; the mark decides.
	listed, err := f.api.Firewalls(ctx, fmt.Sprintf(`description eq ".*%s.*"`, owner.UID))
	if err != nil {
		return nil, fmt.Errorf("looking for firewall rules of Service %s: %w", owner.Service, err)
	}
	var rules []firewall.Rule
	for _, in := range listed {
		if rule := fromAPI(in); rule.BelongsTo(owner) {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// reconcile makes owner's rules equal to want, and tells what it changed even
// if it fails halfway.
func (f *Firewall) reconcile(ctx context.Context, owner firewall.Owner, want []firewall.Rule) ([]string, error) {
	have, err := f.owned(ctx, owner)
	if err != nil {
		return nil, err
	}
	var told []string
	for _, change := range firewall.Changes(owner, have, want) {
		done, err := f.apply(ctx, owner, change)
		told = append(told, done...)
		if err != nil {
			return told, fmt.Errorf("opening the firewall for Service %s: %w", owner.Service, err)
		}
	}
	return told, nil
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
	if !rule.BelongsTo(owner) {
		return nil, &firewall.NotOursError{Rule: want.Name, Owner: owner}
	}
	if differences := firewall.Changes(owner, []firewall.Rule{rule}, []firewall.Rule{want}); len(differences) > 0 {
		return f.apply(ctx, owner, differences[0])
	}
	return []string{firewall.Change{Action: firewall.Create, Rule: want}.String()}, nil
}

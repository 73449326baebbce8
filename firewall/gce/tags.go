package gce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	cloudprovider "k8s.io/cloud-provider"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Tagger looks up the network tags of instances. *gce.Instances implements it.
type Tagger interface {
	// Tags returns the tags of the instance with this provider ID. The error
	// wraps cloudprovider.InstanceNotFound if the instance does not exist.
	Tags(ctx context.Context, providerID string) ([]string, error)
	// CountByTag returns how many instances bear each tag.
	CountByTag(ctx context.Context) (map[string]int, error)
}

// target returns what the rules of a Service apply to, with at least one target
// tag if it has nodes: a rule without target tags applies to every VM of the
// network. Further tags would only add VMs, as a rule applies to VMs with any of
// them, so of the tags that all nodes have it uses one. rules are as in
// chooseTag.
func (f *Firewall) target(ctx context.Context, spec firewall.Spec, rules []firewall.Rule) (firewall.Target, error) {
	target := firewall.Target{Network: f.api.Network(), Tags: f.options.Tags, Destinations: f.destinations.Of(spec.Addresses)}
	for _, tag := range target.Tags { // A node has one of them at least.
		target.NodeTags = append(target.NodeTags, []string{tag})
	}
	if len(target.Tags) > 0 || len(spec.Nodes) == 0 {
		return target, nil
	}
	common, err := f.commonTags(ctx, spec.Nodes)
	if err == nil && len(common) > 0 {
		target.NodeTags = [][]string{common}
		target.Tags, err = f.chooseTag(ctx, spec, common, rules)
	}
	if err != nil {
		return target, fmt.Errorf("finding the network tags of the nodes of Service %s: %w", spec.Owner.Service, withKind(err))
	}
	if len(common) == 0 {
		return target, fmt.Errorf("the %d nodes of Service %s have no network tag in common, and a firewall rule without target tags would open the whole network: "+
			"give the nodes' VMs a common tag (gcloud compute instances add-tags VM --tags=TAG), or set gce.nodeTags in the cloud config to tags that they have",
			len(spec.Nodes), spec.Owner.Service)
	}
	return target, nil
}

// chooseTag returns one of the tags that all nodes of owner have, as a list. It
// is the one chosen before, or after a restart one that owner's rules have: rules
// must not change because other VMs come and go. Otherwise it is the tag that
// the fewest VMs bear, the first by name of several. rules are all rules of the
// network; without them it finds those of owner.
func (f *Firewall) chooseTag(ctx context.Context, spec firewall.Spec, common []string, rules []firewall.Rule) ([]string, error) {
	owner := spec.Owner
	if tag := f.chosen.get(owner); slices.Contains(common, tag) {
		return []string{tag}, nil
	}
	if len(rules) == 0 {
		own, shared, err := f.find(ctx, owner, spec.Since)
		if err != nil && !firewall.IsForbidden(err) {
			return nil, err
		}
		rules = slices.Concat(own, shared)
	}
	candidates := tagsInRules(owner, common, rules)
	if len(candidates) == 0 {
		candidates = slices.Clone(common)
	}
	if len(candidates) > 1 {
		counts, err := f.tagger.CountByTag(ctx)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(candidates, func(a, b string) int { return cmp.Or(cmp.Compare(counts[a], counts[b]), cmp.Compare(a, b)) })
	}
	f.chosen.set(owner, candidates[0])
	return candidates[:1], nil
}

// tagsInRules returns those of the tags that are target tags of owner's rules.
func tagsInRules(owner firewall.Owner, tags []string, rules []firewall.Rule) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
		return !slices.ContainsFunc(rules, func(r firewall.Rule) bool {
			return (r.BelongsTo(owner) || r.IsSharedBy(owner)) && slices.Contains(r.TargetTags, tag)
		})
	})
}

// commonTags ignores nodes whose VM does not exist: the Nodes are about to be
// deleted.
func (f *Firewall) commonTags(ctx context.Context, nodes []string) ([]string, error) {
	var common []string
	found := 0
	for _, node := range nodes {
		tags, err := f.tagger.Tags(ctx, node)
		if errors.Is(err, cloudprovider.InstanceNotFound) {
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

// chosenTags are the target tags that were chosen for Services.
type chosenTags struct {
	mu      sync.Mutex
	byOwner map[firewall.Owner]string
}

func newChosenTags() chosenTags { return chosenTags{byOwner: map[firewall.Owner]string{}} }

func (c *chosenTags) get(owner firewall.Owner) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byOwner[owner]
}

func (c *chosenTags) set(owner firewall.Owner, tag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byOwner[owner] = tag
}

func (c *chosenTags) forget(owner firewall.Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byOwner, owner)
}

package gce

import (
	"context"
	"errors"
	"fmt"
	"slices"

	cloudprovider "k8s.io/cloud-provider"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Tagger looks up the network tags of instances. *gce.Instances implements it.
type Tagger interface {
	// Tags returns the tags of the instance with this provider ID. The error
	// wraps cloudprovider.InstanceNotFound if the instance does not exist.
	Tags(ctx context.Context, providerID string) ([]string, error)
}

// targetTags returns the target tags for a Service, at least one if it has
// nodes: a rule without target tags applies to every VM of the network.
func (f *Firewall) targetTags(ctx context.Context, spec firewall.Spec) ([]string, error) {
	if len(f.options.Tags) > 0 || len(spec.Nodes) == 0 {
		return f.options.Tags, nil
	}
	tags, err := f.commonTags(ctx, spec.Nodes)
	if err != nil {
		return nil, fmt.Errorf("finding the network tags of the nodes of Service %s: %w", spec.Owner.Service, withKind(err))
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("the %d nodes of Service %s have no network tag in common, and a firewall rule without target tags would open the whole network: "+
			"give the nodes' VMs a common tag (gcloud compute instances add-tags VM --tags=TAG), or set gce.nodeTags in the cloud config to tags that they have",
			len(spec.Nodes), spec.Owner.Service)
	}
	return tags, nil
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

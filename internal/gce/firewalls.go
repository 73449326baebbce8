package gce

import (
	"context"

	"google.golang.org/api/compute/v1"
)

// Firewall returns one rule.
func (c *Client) Firewall(ctx context.Context, name string) (*compute.Firewall, error) {
	var rule *compute.Firewall
	err := c.call(ctx, c.firewall("firewalls.get", name), c.options.RequestTimeout, func(ctx context.Context) (err error) {
		rule, err = c.service.Firewalls.Get(c.options.NetworkProject, name).Context(ctx).Do()
		return err
	})
	return rule, err
}

// Firewalls returns the rules that match filter, an expression of the Compute API
// such as `name eq "hostport-.*"`; all if it is empty.
func (c *Client) Firewalls(ctx context.Context, filter string) ([]*compute.Firewall, error) {
	request := c.service.Firewalls.List(c.options.NetworkProject).MaxResults(maxPage)
	if filter != "" {
		request.Filter(filter)
	}
	var rules []*compute.Firewall
	for {
		var list *compute.FirewallList
		err := c.call(ctx, c.firewall("firewalls.list", ""), c.options.RequestTimeout, func(ctx context.Context) (err error) {
			list, err = request.Context(ctx).Do()
			return err
		})
		if err != nil {
			return nil, err
		}
		rules = append(rules, list.Items...)
		if list.NextPageToken == "" {
			return rules, nil
		}
		request.PageToken(list.NextPageToken)
	}
}

// maxPage is the largest page size of lists.
const maxPage = 500

// InsertFirewall creates rule and waits until it is in force.
func (c *Client) InsertFirewall(ctx context.Context, rule *compute.Firewall) error {
	return c.change(ctx, c.firewall("firewalls.insert", rule.Name), func(ctx context.Context, id string) (*compute.Operation, error) {
		return c.service.Firewalls.Insert(c.options.NetworkProject, rule).RequestId(id).Context(ctx).Do()
	})
}

// PatchFirewall changes the fields that patch sends, ForceSendFields and NullFields
// included, and waits until they are in force.
func (c *Client) PatchFirewall(ctx context.Context, name string, patch *compute.Firewall) error {
	return c.change(ctx, c.firewall("firewalls.patch", name), func(ctx context.Context, id string) (*compute.Operation, error) {
		return c.service.Firewalls.Patch(c.options.NetworkProject, name, patch).RequestId(id).Context(ctx).Do()
	})
}

// DeleteFirewall deletes a rule and waits until it is gone.
func (c *Client) DeleteFirewall(ctx context.Context, name string) error {
	return c.change(ctx, c.firewall("firewalls.delete", name), func(ctx context.Context, id string) (*compute.Operation, error) {
		return c.service.Firewalls.Delete(c.options.NetworkProject, name).RequestId(id).Context(ctx).Do()
	})
}

func (c *Client) firewall(verb, name string) target {
	resource := "projects/" + c.options.NetworkProject + "/global/firewalls"
	if name != "" {
		resource += "/" + name
	}
	return target{verb, resource}
}

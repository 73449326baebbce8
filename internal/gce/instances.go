package gce

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/utils/clock"
)

// defaultInstanceTTL is how long a list of instances is used.
const defaultInstanceTTL = 10 * time.Second

// listTimeout bounds one reading of the list, retries included.
const listTimeout = time.Minute

// instanceAPI is the part of Client that Instances needs.
type instanceAPI interface {
	ListInstances(ctx context.Context) ([]Instance, error)
	Instance(ctx context.Context, id ProviderID) (Instance, error)
	Project() string
}

// Instances looks up instances in a cached list of the whole project. It reads
// the list again when it is older than the TTL or does not have the instance. A
// list that cannot be read is an error and never means that an instance does not
// exist.
type Instances struct {
	api    instanceAPI
	ttl    time.Duration
	clock  clock.PassiveClock
	flight singleflight.Group

	mu     sync.Mutex
	list   instanceList
	readAt time.Time // When the reading began; zero: never.
}

// instanceList is instances, indexed.
type instanceList struct {
	all  []Instance
	byID map[ProviderID]Instance
}

// NewInstances looks up instances through client. A TTL of zero is 10 s.
func NewInstances(client *Client, ttl time.Duration) *Instances {
	return newInstances(client, ttl, clock.RealClock{})
}

func newInstances(api instanceAPI, ttl time.Duration, clock clock.PassiveClock) *Instances {
	if ttl == 0 {
		ttl = defaultInstanceTTL
	}
	return &Instances{api: api, ttl: ttl, clock: clock}
}

// ByProviderID finds an instance by a Node's spec.providerID. The error wraps
// cloudprovider.InstanceNotFound only if the API, asked for this one instance,
// answered that it does not exist.
func (i *Instances) ByProviderID(ctx context.Context, providerID string) (Instance, error) {
	id, err := ParseProviderID(providerID)
	if err != nil {
		return Instance{}, err
	}
	if id.Project == i.api.Project() {
		found, err := i.find(ctx, func(list instanceList) []Instance {
			if in, found := list.byID[id]; found {
				return []Instance{in}
			}
			return nil
		})
		if err != nil {
			return Instance{}, err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return i.api.Instance(ctx, id)
}

// ByNodeName finds an instance by a Node's name: the instance's name, with or
// without a domain, or its custom host name. The error wraps
// cloudprovider.InstanceNotFound if a complete list that was read after the call
// has no such instance.
func (i *Instances) ByNodeName(ctx context.Context, nodeName string) (Instance, error) {
	name, _, _ := strings.Cut(nodeName, ".")
	found, err := i.find(ctx, func(list instanceList) []Instance {
		return slices.DeleteFunc(slices.Clone(list.all), func(in Instance) bool { return in.ID.Name != name && in.Hostname != nodeName })
	})
	switch {
	case err != nil:
		return Instance{}, err
	case len(found) == 0:
		return Instance{}, fmt.Errorf("no zone of project %s has an instance for node %s: %w", i.api.Project(), nodeName, cloudprovider.InstanceNotFound)
	case len(found) > 1:
		return Instance{}, fmt.Errorf("node name %s fits several instances, %s and %s among them: set the Node's spec.providerID",
			nodeName, found[0].ProviderID(), found[1].ProviderID())
	}
	return found[0], nil
}

// Tags returns the network tags of an instance.
func (i *Instances) Tags(ctx context.Context, providerID string) ([]string, error) {
	in, err := i.ByProviderID(ctx, providerID)
	return in.Tags, err
}

// CountByTag returns how many instances of the project bear each network tag, among those with an
// interface in the network.
func (i *Instances) CountByTag(ctx context.Context) (map[string]int, error) {
	list, err := i.listSince(ctx, i.clock.Now().Add(-i.ttl))
	counts := map[string]int{}
	for _, in := range list.all {
		if len(in.InternalIPs) == 0 {
			continue
		}
		for _, tag := range in.Tags {
			counts[tag]++
		}
	}
	return counts, err
}

// find searches the cached list and then, if there is no match, a list that is
// read after the call.
func (i *Instances) find(ctx context.Context, matching func(instanceList) []Instance) ([]Instance, error) {
	called := i.clock.Now()
	for _, begin := range []time.Time{called.Add(-i.ttl), called} {
		list, err := i.listSince(ctx, begin)
		if err != nil {
			return nil, err
		}
		if found := matching(list); len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

// listSince returns a list whose reading began at begin or later.
func (i *Instances) listSince(ctx context.Context, begin time.Time) (instanceList, error) {
	for {
		i.mu.Lock()
		list, readAt := i.list, i.readAt
		i.mu.Unlock()
		if !readAt.IsZero() && !readAt.Before(begin) {
			return list, nil
		}
		// Callers share one reading. If it began before begin, it is repeated.
		result := i.flight.DoChan("", func() (any, error) { return nil, i.read(context.WithoutCancel(ctx)) })
		select {
		case <-ctx.Done():
			return instanceList{}, fmt.Errorf("waiting for the list of instances of project %s: %w", i.api.Project(), ctx.Err())
		case r := <-result:
			if r.Err != nil {
				return instanceList{}, r.Err
			}
		}
	}
}

// read does not end with the context of the caller that started it, as others
// may wait for the result.
func (i *Instances) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	began := i.clock.Now()
	all, err := i.api.ListInstances(ctx)
	if err != nil {
		return err
	}
	list := instanceList{all, make(map[ProviderID]Instance, len(all))}
	for _, in := range all {
		list.byID[in.ID] = in
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list, i.readAt = list, began
	return nil
}

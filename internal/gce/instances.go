package gce

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/utils/clock"
)

// DefaultInstanceTTL is how long a list of instances is believed.
const DefaultInstanceTTL = 10 * time.Second

// listTimeout bounds one reading of the list, retries included.
const listTimeout = time.Minute

// instanceAPI is the part of Client that Instances needs.
type instanceAPI interface {
	ListInstances(ctx context.Context) ([]Instance, error)
	Instance(ctx context.Context, id ProviderID) (Instance, error)
	Project() string
}

// Instances looks up instances in one list of the whole project, read again
// when it is older than its TTL or does not know who is asked for. A list that
// cannot be read is an error, never an absence.
type Instances struct {
	api    instanceAPI
	ttl    time.Duration
	clock  clock.PassiveClock
	flight singleflight.Group

	mu     sync.Mutex
	list   []Instance
	readAt time.Time // When the reading began; zero: never.
}

// NewInstances looks up instances through client. A ttl of zero is
// DefaultInstanceTTL.
func NewInstances(client *Client, ttl time.Duration) *Instances {
	return newInstances(client, ttl, clock.RealClock{})
}

func newInstances(api instanceAPI, ttl time.Duration, clock clock.PassiveClock) *Instances {
	if ttl == 0 {
		ttl = DefaultInstanceTTL
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
		found, err := i.find(ctx, func(in Instance) bool { return in.ID == id })
		if err != nil || len(found) > 0 {
			return first(found), err
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
	found, err := i.find(ctx, func(in Instance) bool { return in.ID.Name == name || in.Hostname == nodeName })
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

// find looks in the cached list and, if nothing fits, in one that was read
// after the question was asked.
func (i *Instances) find(ctx context.Context, fits func(Instance) bool) ([]Instance, error) {
	asked := i.clock.Now()
	list, err := i.since(ctx, asked.Add(-i.ttl))
	if err != nil {
		return nil, err
	}
	if found := filter(list, fits); len(found) > 0 {
		return found, nil
	}
	list, err = i.since(ctx, asked)
	return filter(list, fits), err
}

// since returns a list whose reading began at the given time or later.
func (i *Instances) since(ctx context.Context, begin time.Time) ([]Instance, error) {
	for {
		if list, ok := i.cached(begin); ok {
			return list, nil
		}
		// A flight that others share may have begun too early: then once more.
		reply := i.flight.DoChan("", func() (any, error) { return nil, i.read(context.WithoutCancel(ctx)) })
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the list of instances of project %s: %w", i.api.Project(), ctx.Err())
		case result := <-reply:
			if result.Err != nil {
				return nil, result.Err
			}
		}
	}
}

func (i *Instances) cached(begin time.Time) ([]Instance, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.list, !i.readAt.IsZero() && !i.readAt.Before(begin)
}

// read is detached from the caller who happened to come first, so that his
// giving up does not fail the others.
func (i *Instances) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	began := i.clock.Now()
	list, err := i.api.ListInstances(ctx)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list, i.readAt = list, began
	return nil
}

func filter(list []Instance, fits func(Instance) bool) []Instance {
	var found []Instance
	for _, in := range list {
		if fits(in) {
			found = append(found, in)
		}
	}
	return found
}

func first(list []Instance) Instance {
	if len(list) == 0 {
		return Instance{}
	}
	return list[0]
}

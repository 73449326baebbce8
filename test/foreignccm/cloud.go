package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"k8s.io/api/core/v1"
	cloudprovider "k8s.io/cloud-provider"
)

const providerName = "foreign"

// cloud is the configuration file.
type cloud struct {
	Machines []machine `json:"machines"`
	// Balancers is the path of a file that always contains the Services with a load
	// balancer, as a JSON list of namespace/name.
	Balancers string `json:"balancers"`
}

type machine struct {
	Name        string   `json:"name"`
	ProviderID  string   `json:"providerID"`
	Type        string   `json:"type"`
	Zone        string   `json:"zone"`
	Region      string   `json:"region"`
	InternalIPs []string `json:"internalIPs"`
	ExternalIP  string   `json:"externalIP"`
}

// foreign implements cloudprovider.Interface.
type foreign struct {
	config cloud

	mu sync.Mutex
	// balancers maps Services to the addresses of their load balancers.
	balancers map[string]string
	assigned  int
}

var (
	_ cloudprovider.Interface    = &foreign{}
	_ cloudprovider.LoadBalancer = &foreign{}
	_ cloudprovider.InstancesV2  = &foreign{}
)

func load(file string) (*foreign, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading --cloud-config: %w", err)
	}
	f := &foreign{balancers: map[string]string{}}
	if err := json.Unmarshal(data, &f.config); err != nil {
		return nil, fmt.Errorf("reading --cloud-config %s: %w", file, err)
	}
	return f, f.writeBalancers()
}

// writeBalancers must be called with the lock held once the controllers run.
func (f *foreign) writeBalancers() error {
	services := slices.AppendSeq([]string{}, maps.Keys(f.balancers))
	slices.Sort(services)
	data, err := json.Marshal(services)
	if err != nil {
		return err
	}
	return os.WriteFile(f.config.Balancers, data, 0o644)
}

func (f *foreign) GetLoadBalancer(_ context.Context, _ string, svc *v1.Service) (*v1.LoadBalancerStatus, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ip, exists := f.balancers[key(svc)]
	return status(ip), exists, nil
}

func (f *foreign) GetLoadBalancerName(_ context.Context, _ string, svc *v1.Service) string {
	return "foreign-" + string(svc.UID)
}

// EnsureLoadBalancer assigns an address to each Service.
func (f *foreign) EnsureLoadBalancer(_ context.Context, _ string, svc *v1.Service, _ []*v1.Node) (*v1.LoadBalancerStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, exists := f.balancers[key(svc)]; !exists {
		f.assigned++
		f.balancers[key(svc)] = fmt.Sprintf("192.0.2.%d", 1+f.assigned%254)
	}
	return status(f.balancers[key(svc)]), f.writeBalancers()
}

func (f *foreign) UpdateLoadBalancer(context.Context, string, *v1.Service, []*v1.Node) error {
	return nil
}

func (f *foreign) EnsureLoadBalancerDeleted(_ context.Context, _ string, svc *v1.Service) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.balancers, key(svc))
	return f.writeBalancers()
}

func key(svc *v1.Service) string { return svc.Namespace + "/" + svc.Name }

func status(ip string) *v1.LoadBalancerStatus {
	mode := v1.LoadBalancerIPModeVIP
	return &v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: ip, IPMode: &mode}}}
}

func (f *foreign) InstanceExists(_ context.Context, node *v1.Node) (bool, error) {
	_, exists := f.find(node)
	return exists, nil
}

func (f *foreign) InstanceShutdown(context.Context, *v1.Node) (bool, error) { return false, nil }

func (f *foreign) InstanceMetadata(_ context.Context, node *v1.Node) (*cloudprovider.InstanceMetadata, error) {
	m, exists := f.find(node)
	if !exists {
		return nil, cloudprovider.InstanceNotFound
	}
	return &cloudprovider.InstanceMetadata{
		ProviderID: m.ProviderID, InstanceType: m.Type, Zone: m.Zone, Region: m.Region,
		NodeAddresses: m.addresses(),
	}, nil
}

func (f *foreign) find(node *v1.Node) (machine, bool) {
	i := slices.IndexFunc(f.config.Machines, func(m machine) bool { return m.Name == node.Name })
	if i < 0 {
		return machine{}, false
	}
	return f.config.Machines[i], true
}

func (m machine) addresses() []v1.NodeAddress {
	list := []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: m.ExternalIP}, {Type: v1.NodeHostName, Address: m.Name}}
	for _, ip := range m.InternalIPs {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	return list
}

func (f *foreign) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

func (f *foreign) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return f, true }

func (f *foreign) InstancesV2() (cloudprovider.InstancesV2, bool) { return f, true }

func (f *foreign) Instances() (cloudprovider.Instances, bool) { return nil, false }

func (f *foreign) Zones() (cloudprovider.Zones, bool) { return nil, false }

func (f *foreign) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

func (f *foreign) Routes() (cloudprovider.Routes, bool) { return nil, false }

func (f *foreign) ProviderName() string { return providerName }

func (f *foreign) HasClusterID() bool { return true }

package provider

import cloudprovider "k8s.io/cloud-provider"

// The rest of cloudprovider.Interface says what we have, and mostly that we
// have not.

// Initialize has nothing to do: see StartServiceController.
func (c *Cloud) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// LoadBalancer is available once the service controller is being started.
func (c *Cloud) LoadBalancer() (cloudprovider.LoadBalancer, bool) {
	return c.balancer, c.balancer != nil
}

// InstancesV2 knows the nodes' machines.
func (c *Cloud) InstancesV2() (cloudprovider.InstancesV2, bool) { return c.instances, true }

// Instances is the old interface, which InstancesV2 replaces.
func (c *Cloud) Instances() (cloudprovider.Instances, bool) { return nil, false }

// Zones is part of InstancesV2.
func (c *Cloud) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters is not supported.
func (c *Cloud) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes is not supported: pod routes are the network plugin's.
func (c *Cloud) Routes() (cloudprovider.Routes, bool) { return nil, false }

// ProviderName implements cloudprovider.Interface.
func (c *Cloud) ProviderName() string { return ProviderName }

// HasClusterID is always true: the config requires one.
func (c *Cloud) HasClusterID() bool { return true }

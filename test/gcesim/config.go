package gcesim

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Config is the initial state. As a file it is YAML or JSON.
type Config struct {
	// Project holds the instances. Default: "sandbox".
	Project string `json:"project,omitempty"`
	// NetworkProject holds the network and its firewall rules; it differs from
	// Project with a shared VPC. Default: Project.
	NetworkProject string `json:"networkProject,omitempty"`
	// Network is the network's name. Default: "default".
	Network string `json:"network,omitempty"`
	// Zones exist even without instances.
	Zones     []string   `json:"zones,omitempty"`
	Instances []Instance `json:"instances,omitempty"`
	Settings  `json:",inline"`
}

// Settings can change while the simulator runs.
type Settings struct {
	// FirewallQuota is how many rules a project may have. Default: 100.
	FirewallQuota *int `json:"firewallQuota,omitempty"`
	// OperationLatency is how long an operation takes. Default: 50 ms. With zero a
	// change is made at once, although the first reply has status PENDING.
	OperationLatency *metav1.Duration `json:"operationLatency,omitempty"`
}

// Instance is a VM.
type Instance struct {
	Name string `json:"name"`
	Zone string `json:"zone"`
	// MachineType is the type's name. Default: "e2-small".
	MachineType string `json:"machineType,omitempty"`
	// Status default: "RUNNING".
	Status   string   `json:"status,omitempty"`
	Hostname string   `json:"hostname,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	// Interface is the first network interface.
	Interface `json:",inline"`
	// MoreInterfaces are the others.
	MoreInterfaces []Interface `json:"moreInterfaces,omitempty"`
}

// Interface is a VM's place in a network.
type Interface struct {
	// Network is the network's name. Default: Config.Network.
	Network   string `json:"network,omitempty"`
	NetworkIP string `json:"networkIP,omitempty"`
	// NatIP is the external IPv4 address, mapped 1:1. Empty: none.
	NatIP string `json:"natIP,omitempty"`
	// IPv6Address is internal. ExternalIPv6 is external: the first address of a /96
	// on the VM's interface. Neither is translated.
	IPv6Address  string `json:"ipv6Address,omitempty"`
	ExternalIPv6 string `json:"externalIPv6,omitempty"`
}

const (
	defaultFirewallQuota    = 100
	defaultOperationLatency = 50 * time.Millisecond
)

// LoadConfig reads a file. Unknown fields are errors.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	var config Config
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return config, nil
}

// withDefaults fills in what is empty.
func (c Config) withDefaults() Config {
	c.Project = orElse(c.Project, "sandbox")
	c.NetworkProject = orElse(c.NetworkProject, c.Project)
	c.Network = orElse(c.Network, "default")
	c.Settings = Settings{
		FirewallQuota:    new(defaultFirewallQuota),
		OperationLatency: &metav1.Duration{Duration: defaultOperationLatency},
	}.with(c.Settings)
	c.Instances = slices.Clone(c.Instances)
	for n := range c.Instances {
		c.Instances[n] = c.Instances[n].withDefaults(c.Network)
	}
	return c
}

// with returns the settings with those of other that are not nil.
func (s Settings) with(other Settings) Settings {
	if other.FirewallQuota != nil {
		s.FirewallQuota = other.FirewallQuota
	}
	if other.OperationLatency != nil {
		s.OperationLatency = other.OperationLatency
	}
	return s
}

func (i Instance) withDefaults(network string) Instance {
	i.MachineType = orElse(i.MachineType, "e2-small")
	i.Status = orElse(i.Status, "RUNNING")
	i.Network = orElse(i.Network, network)
	i.MoreInterfaces = slices.Clone(i.MoreInterfaces)
	for n := range i.MoreInterfaces {
		i.MoreInterfaces[n].Network = orElse(i.MoreInterfaces[n].Network, network)
	}
	return i
}

// validate returns an error for names and addresses that are none.
func (i Instance) validate() error {
	if !namePattern.MatchString(i.Name) || !namePattern.MatchString(i.Zone) {
		return fmt.Errorf("instance %q in zone %q: not names of Compute Engine", i.Name, i.Zone)
	}
	for _, nic := range i.Interfaces() {
		for _, addr := range []string{nic.NetworkIP, nic.NatIP, nic.IPv6Address, nic.ExternalIPv6} {
			if addr != "" && !isAddress(addr) {
				return fmt.Errorf("instance %s: %q is not an IP address", i.Name, addr)
			}
		}
	}
	return nil
}

func orElse(value, otherwise string) string {
	if strings.TrimSpace(value) == "" {
		return otherwise
	}
	return value
}

// Interfaces returns all network interfaces in order.
func (i Instance) Interfaces() []Interface {
	return append([]Interface{i.Interface}, i.MoreInterfaces...)
}

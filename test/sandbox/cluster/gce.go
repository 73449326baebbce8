package cluster

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

// startSimulator starts the GCE simulator on the gateway, where it enforces firewall rules and the
// nodes' external addresses.
func (c *Cluster) startSimulator(ctx context.Context) error {
	binary := filepath.Join(c.dir, "bin", "gcesim")
	if err := c.goBuild(ctx, binary, "./test/gcesim/cmd/gcesim"); err != nil {
		return err
	}
	config, err := yaml.Marshal(c.simulatorConfig())
	if err != nil {
		return err
	}
	file := c.hostDir(Gateway, "gcesim.yaml")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return err
	}
	argv := []string{binary, "--config", file, "--listen", machineGateway + ":8080", "--listen", vpcGateway + ":8080", "--listen", metadataIP + ":80"}
	if c.shape.Profile != Simulated { // Its nodes get no packets.
		argv = append(argv, "--edge-internet", inetBridge, "--edge-vpc", vpcBridge)
	}
	if err := c.daemon(Gateway, "gcesim", argv...); err != nil {
		return err
	}
	return waitFor(ctx, 20*time.Second, "the GCE simulator, log "+c.logFile(Gateway, "gcesim"), func() error {
		_, err := Simulator().State(ctx)
		return err
	})
}

// simulatorConfig returns a project with one instance per node.
func (c *Cluster) simulatorConfig() gcesim.Config {
	config := gcesim.Config{Project: Project, Network: "default"}
	for _, n := range Nodes(c.shape.Profile) {
		config.Zones = append(config.Zones, n.Zone)
		instance := gcesim.Instance{
			Name: n.Name, Zone: n.Zone, MachineType: MachineType, Tags: []string{NodeTag},
			Interface: gcesim.Interface{NetworkIP: n.InternalIP, NatIP: n.ExternalIP},
		}
		if c.shape.IPFamily == DualStack {
			instance.ExternalIPv6 = n.IPv6
		}
		config.Instances = append(config.Instances, instance)
	}
	return config
}

// Simulator returns a client of the simulator's admin API.
func Simulator() gcesim.AdminClient { return gcesim.AdminClient{BaseURL: SimulatorURL} }

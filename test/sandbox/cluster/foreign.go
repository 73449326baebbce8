package cluster

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
)

const foreignProgram = "foreignccm"

// startForeign starts another provider's cloud controller manager on the control host: outside of
// the cluster, as in a managed cluster.
func (c *Cluster) startForeign(ctx context.Context) error {
	binary := filepath.Join(c.dir, "bin", foreignProgram)
	if err := c.goBuild(ctx, binary, "./test/foreignccm"); err != nil {
		return err
	}
	config, err := json.Marshal(c.foreignConfig())
	if err != nil {
		return err
	}
	file := c.hostDir(Control, foreignProgram+".json")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return err
	}
	return c.daemon(Control, foreignProgram, binary,
		"--cloud-config", file,
		"--kubeconfig", c.kubeconfig(foreignProgram),
		"--configure-cloud-routes=false",
		"--leader-elect=false",
		"--secure-port=0",
		"--v=2")
}

func (c *Cluster) foreignConfig() map[string]any {
	var machines []map[string]any
	for _, n := range Nodes(GKE) {
		machines = append(machines, map[string]any{
			"name": n.Name, "providerID": "gce://" + Project + "/" + n.Zone + "/" + n.Name, "type": MachineType,
			"zone": n.Zone, "region": Region, "externalIP": n.ExternalIP,
			// External IPv6 addresses too, as Google's controller has them.
			"internalIPs": c.shape.of(n.addresses()),
		})
	}
	return map[string]any{"machines": machines, "balancers": c.foreignBalancersFile()}
}

func (c *Cluster) foreignBalancersFile() string { return c.hostDir(Control, "balancers.json") }

// ForeignBalancers returns the Services, as namespace/name, with a load balancer of the other
// provider, which exists in profile GKE only.
func (c *Cluster) ForeignBalancers() ([]string, error) {
	data, err := os.ReadFile(c.foreignBalancersFile())
	if err != nil {
		return nil, err
	}
	var services []string
	return services, json.Unmarshal(data, &services)
}

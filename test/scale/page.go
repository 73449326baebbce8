package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hostport-ccm/hostport-ccm/test/hardware"
)

const pageFormat = `<!-- Written by ` + "`make scale`" + `. -->

# Many Services and nodes

` + "`make scale`" + ` (as root, on Linux with Go) measures how hostport-ccm copes with them. etcd, the API server, the scheduler, Kubernetes' controllers and hostport-ccm with provider ` + "`gce`" + ` and ` + "`gce.firewallLayout: shared`" + ` are real, with default settings, except that the clients of Kubernetes' controllers may send 500 requests per second. The nodes and their pods are simulated by [kwok](https://kwok.sigs.k8s.io), Compute Engine by the project's simulator, whose firewall operations take 50 ms. Simulated proxies are Ready at once.

Measured on %s: %s, %d cores, %d GiB, which etcd, API server, controllers and simulators share. All addresses of all Services, their mirrors, and the ports in the firewall were verified after each step, so a figure is only here if all were right. A direct Service publishes three nodes (` + "`hostport-ccm.io/max-nodes`" + `), one with proxies all nodes.

Times, CPU and memory are of one run on this machine, and differ by some 20 %% between runs; numbers of requests do not depend on it. A time ends when everything is as it has to be; CPU and requests are counted until hostport-ccm has written nothing for %s. Times of NotReady and deleted nodes count from the change of the Node, those of changed addresses from when the Node has the new one. With fewer Services than %d, the deleted namespace has all of them. Leases and watches are not counted.

## Figures

%s
## Growth

What the direct scenes measured, as a function of the numbers of Services and nodes: shares of each, without negative ones, with the least relative error. The last column is an extrapolation, not measured.

%s
![The figures of scenes with as many nodes as Services](scale.svg)
`

// page returns the page with the results.
func page(m hardware.Description, results []result) string {
	return fmt.Sprintf(pageFormat, m.Date.Format("2 January 2006"), m.CPU, m.Cores, m.Memory, quiet, perNamespace,
		markdown(table(results)), markdown(growthTable(results)))
}

// writePage writes scale.md and scale.svg.
func writePage(folder string, results []result) error {
	m, err := hardware.Describe()
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(folder, "scale.md"), []byte(page(m, results)), 0o644),
		os.WriteFile(filepath.Join(folder, "scale.svg"), []byte(plot("Services = nodes", panelsOf(results))), 0o644),
	)
}

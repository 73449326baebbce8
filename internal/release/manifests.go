package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// manifests writes install-<profile>.yaml for each overlay, and the package of the chart.
func (b build) manifests(ctx context.Context) error {
	overlays, err := os.ReadDir(filepath.Join(b.source, "manifests/overlays"))
	if err != nil {
		return err
	}
	for _, overlay := range overlays {
		err := step("install-"+overlay.Name()+".yaml", func() error {
			objects, err := b.tool(ctx, "kustomize", "build", "manifests/overlays/"+overlay.Name())
			if err != nil {
				return err
			}
			head, err := b.installHead(overlay.Name())
			if err != nil {
				return err
			}
			return b.write("install-"+overlay.Name()+".yaml", append([]byte(head), objects...))
		})
		if err != nil {
			return err
		}
	}
	return step("Helm chart", func() error {
		out, err := filepath.Abs(b.out)
		if err != nil {
			return err
		}
		_, err = b.tool(ctx, "helm", "package", "manifests/helm/hostport-ccm", "--destination", out)
		return err
	})
}

// tool returns what helm or kustomize prints. Both are built once, with the usual build cache, as they
// are no part of the release.
func (b build) tool(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=test/sandbox/tools/helm/go.mod", name}, args...)...)
	cmd.Dir = b.source
	// Without SOURCE_DATE_EPOCH, helm writes the times of the chart's files into the package.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS="+tools.Flags, "SOURCE_DATE_EPOCH="+strconv.FormatInt(b.date.Unix(), 10))
	return output(cmd)
}

// profiles says of each overlay for which clusters it is, the page about its installation, and what a
// user has to edit before.
var profiles = map[string]struct {
	cluster, page string
	edits         []string
}{
	"baremetal": {
		cluster: "without a cloud, whose kubelets run with --cloud-provider=external",
		page:    "bare-metal.md",
		edits:   []string{"clusterID: shows which cluster an object belongs to; choose one and never change it"},
	},
	"gce": {
		cluster: "on GCE virtual machines, as their cloud controller manager",
		page:    "gce.md",
		edits: []string{
			"clusterID: shows which cluster a firewall rule belongs to; choose one and never change it",
			"gce.nodeTags: a network tag that all nodes have, and no other machine",
		},
	},
	"gke": {
		cluster: "on GKE or GCE, beside another cloud controller manager",
		page:    "gke.md",
		edits: []string{
			"clusterID: shows which cluster a firewall rule belongs to; choose one and never change it",
			"gce.network: the network of the nodes",
		},
	},
}

// installHead returns the comment at the top of install-<profile>.yaml.
func (b build) installHead(profile string) (string, error) {
	p, ok := profiles[profile]
	if !ok {
		return "", fmt.Errorf("nothing is known about the overlay %s: add it to profiles in internal/release", profile)
	}
	file := "install-" + profile + ".yaml"
	return fmt.Sprintf(`# hostport-ccm %[1]s for clusters %[2]s.
#
# 1. Prepare the cluster:
#      https://github.com/hostport-ccm/hostport-ccm/blob/%[1]s/docs/how-to/%[3]s
# 2. Edit the cloud config, in the ConfigMap hostport-cloud-config-... below:
#    - %[4]s
# 3. If the images are in another registry than %[5]s:
#      sed -i 's|%[5]s/|registry.example/|' %[6]s
# 4. kubectl apply -f %[6]s
#
# After later changes of the cloud config, apply this file again and restart hostport-ccm, which reads it
# at its start only: kubectl -n hostport-system rollout restart deployment/hostport-ccm
`, b.version, p.cluster, p.page, strings.Join(p.edits, "\n#    - "), product.Registry, file), nil
}

package cluster

import (
	"context"
	"path/filepath"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// UpstreamTests builds Kubernetes' own end-to-end tests, if they are not built, and returns the path
// of the program.
func (c *Cluster) UpstreamTests(ctx context.Context) (string, error) {
	dirs, err := tools.Ensure(ctx, filepath.Join(c.source, "test", "sandbox", "tools"), tools.UpstreamTests, tools.KubernetesVersion, c.log.begin)
	if err != nil {
		return "", err
	}
	return filepath.Join(dirs[0], "e2e.test"), nil
}

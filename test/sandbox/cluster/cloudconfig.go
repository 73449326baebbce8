package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
)

// ErrNoChange is the error for a change that leaves the cloud-config as it is.
var ErrNoChange = errors.New("the change does not apply to the cloud-config")

// EditCloudConfig changes the cloud-config of hostport-ccm, restarts it, and returns the cloud-config
// from before.
func (c *Cluster) EditCloudConfig(ctx context.Context, change func(string) string) (before string, err error) {
	var d appsv1.Deployment
	if err := c.get(ctx, ProductDeployment, &d); err != nil {
		return "", err
	}
	volumes := d.Spec.Template.Spec.Volumes
	i := slices.IndexFunc(volumes, func(v v1.Volume) bool { return v.ConfigMap != nil })
	if i < 0 {
		return "", errors.New("hostport-ccm has no cloud-config")
	}
	var m v1.ConfigMap
	if err := c.get(ctx, "configmap/"+volumes[i].ConfigMap.Name, &m); err != nil {
		return "", err
	}
	for key := range m.Data { // There is one.
		before = m.Data[key]
		m.Data[key] = change(before)
		if m.Data[key] == before {
			return "", fmt.Errorf("%w:\n%s", ErrNoChange, before)
		}
	}
	written, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	if _, err := c.kubectlInput(ctx, strings.NewReader(string(written)), "replace", "-f", "-"); err != nil {
		return "", err
	}
	return before, c.restartProduct(ctx)
}

// get reads an object of the product's namespace.
func (c *Cluster) get(ctx context.Context, name string, object any) error {
	read, err := c.Kubectl(ctx, "-n", ProductNamespace, "get", name, "-o", "json")
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(read), object)
}

// restartProduct replaces the pods of hostport-ccm, and waits for the new ones.
func (c *Cluster) restartProduct(ctx context.Context) error {
	if _, err := c.Kubectl(ctx, "-n", ProductNamespace, "rollout", "restart", ProductDeployment); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "-n", ProductNamespace, "rollout", "status", ProductDeployment, "--timeout=120s")
	return err
}

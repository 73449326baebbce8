package cluster

import (
	"context"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/oci"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

// The images that the manifests of a website ask for.
const (
	TraefikImage     = "docker.io/library/traefik:v3.7.10"
	ExternalDNSImage = "registry.k8s.io/external-dns/external-dns:v0.22.0"
)

// Website is what a website needs beside the cluster.
type Website struct {
	// HTTP3 is the path of a client of HTTP/3 for the hosts.
	HTTP3 string
	// GatewayAPI is the path of the folder with the definitions of Gateway API's standard channel.
	GatewayAPI string
}

// Website builds Traefik and ExternalDNS, if they are not built, and loads their images on all nodes.
func (c *Cluster) Website(ctx context.Context) (Website, error) {
	source := filepath.Join(c.source, "test", "sandbox", "tools")
	dirs, err := tools.Ensure(ctx, source, tools.Website, tools.KubernetesVersion, c.log.begin)
	if err != nil {
		return Website{}, err
	}
	images := map[string]v1.Image{}
	for name, program := range map[string]string{TraefikImage: "traefik", ExternalDNSImage: "external-dns"} {
		if images[name], err = (programImage{name: name, program: filepath.Join(dirs[0], program)}).build(); err != nil {
			return Website{}, err
		}
	}
	archive := filepath.Join(c.dir, "website.tar")
	if err := oci.WriteFile(archive, images); err != nil {
		return Website{}, err
	}
	if err := c.importImages(ctx, archive); err != nil {
		return Website{}, err
	}
	gatewayAPI, err := tools.ModuleDir(ctx, filepath.Join(source, "website"), "sigs.k8s.io/gateway-api")
	return Website{
		HTTP3:      filepath.Join(dirs[0], "http3get"),
		GatewayAPI: filepath.Join(gatewayAPI, "config", "crd", "standard"),
	}, err
}

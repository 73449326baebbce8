package gce

import (
	"context"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"cloud.google.com/go/compute/metadata"
)

// metadataTimeout bounds the search for a metadata server. Off Google's cloud
// its address answers nothing and the library keeps trying.
const metadataTimeout = 5 * time.Second

// complete fills in what options leave empty.
func complete(ctx context.Context, o Options) (Options, error) {
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	server := metadata.NewClient(&http.Client{Timeout: metadataTimeout})
	if o.Project == "" {
		project, err := server.GetWithContext(ctx, "project/project-id")
		if err != nil {
			return o, notOnMetadataServer("project", err)
		}
		o.Project = project
	}
	if o.Network == "" {
		if err := completeNetwork(ctx, server, &o); err != nil {
			return o, notOnMetadataServer("network", err)
		}
	}
	if project, ok := projectOf(o.Network); ok && o.NetworkProject == "" {
		o.NetworkProject = project
	}
	if o.NetworkProject == "" {
		o.NetworkProject = o.Project
	}
	o.Network = path.Base(o.Network)
	return o, nil
}

// completeNetwork asks for the network of the VM's first interface. Metadata
// names projects by number there; the Compute API takes that too, but the id
// reads better where it is known.
func completeNetwork(ctx context.Context, server *metadata.Client, o *Options) error {
	network, err := server.GetWithContext(ctx, "instance/network-interfaces/0/network")
	if err != nil {
		return err
	}
	o.Network = path.Base(network)
	if o.NetworkProject != "" {
		return nil
	}
	number, err := server.GetWithContext(ctx, "project/numeric-project-id")
	if err != nil {
		return err
	}
	if host, ok := projectOf(network); ok && host != number {
		o.NetworkProject = host
	}
	return nil
}

// projectOf finds P in ".../projects/P/...".
func projectOf(url string) (string, bool) {
	_, rest, found := strings.Cut("/"+url, "/projects/")
	project, _, _ := strings.Cut(rest, "/")
	return project, found && project != ""
}

func notOnMetadataServer(field string, err error) error {
	return fmt.Errorf("gce.%s is not configured and the metadata server of Google Compute Engine does not say: %w; set gce.%s", field, err, field)
}

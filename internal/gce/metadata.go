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

// metadataTimeout bounds requests to the metadata server. Outside of Google's
// cloud its address does not answer and the library retries.
const metadataTimeout = 5 * time.Second

// complete returns the options with project and network.
func complete(ctx context.Context, o Options) (Options, error) {
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	server := metadata.NewClient(&http.Client{Timeout: metadataTimeout})
	if o.Project == "" {
		project, err := server.GetWithContext(ctx, "project/project-id")
		if err != nil {
			return o, notFromMetadata("project", err)
		}
		o.Project = project
	}
	if o.Network == "" {
		if err := completeNetwork(ctx, server, &o); err != nil {
			return o, notFromMetadata("network", err)
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

// completeNetwork reads the network of the VM's first interface. The metadata
// server identifies its project by number. The Compute API accepts numbers, but
// the id is used where it is known, as it is easier to read.
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

// projectOf returns P of ".../projects/P/...".
func projectOf(url string) (string, bool) {
	_, rest, found := strings.Cut("/"+url, "/projects/")
	project, _, _ := strings.Cut(rest, "/")
	return project, found && project != ""
}

func notFromMetadata(field string, err error) error {
	return fmt.Errorf("gce.%s is not configured and could not be read from the metadata server of Google Compute Engine: %w; set gce.%s", field, err, field)
}

package gce

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/api/compute/v1"
	"google.golang.org/api/option"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Options say which project to work in and how to reach it. The zero value
// finds everything on the metadata server of the VM it runs on.
type Options struct {
	// Project holds the instances. Empty: the VM's own.
	Project string
	// NetworkProject holds the network and its firewall rules: the host
	// project of a shared VPC. Empty: as Project, or what the metadata server
	// says about the VM's network if Network is empty too.
	NetworkProject string
	// Network is the VPC network's name, or its URL. Empty: that of the VM's
	// first interface.
	Network string
	// Endpoint replaces https://compute.googleapis.com. With http:// there is
	// no authentication: for simulators. Otherwise credentials are Google's
	// Application Default Credentials.
	Endpoint string
	// UserAgent goes into every request. May be empty.
	UserAgent string

	// HTTPClient replaces the transport and the credentials, in tests.
	HTTPClient *http.Client
	// Backoff is between the tries of one request; its Steps bound their
	// number. Zero: seven tries within about twenty seconds.
	Backoff wait.Backoff
	// RequestTimeout bounds one HTTP request. Zero: 30 s.
	RequestTimeout time.Duration
	// OperationTimeout bounds a change from the first request until its
	// operation is done. Zero: 3 minutes.
	OperationTimeout time.Duration
}

const (
	defaultRequestTimeout   = 30 * time.Second
	defaultOperationTimeout = 3 * time.Minute
	// waitTimeout is for globalOperations.wait, which answers "within about 2
	// minutes" by itself.
	waitTimeout = 150 * time.Second
)

var defaultBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 8 * time.Second}

// Client is a connection to the Compute API for one project and one network.
type Client struct {
	service *compute.Service
	options Options
}

// New completes options from the metadata server where they are empty, and
// prepares a client. It does not yet contact the Compute API.
func New(ctx context.Context, options Options) (*Client, error) {
	options, err := complete(ctx, options)
	if err != nil {
		return nil, err
	}
	service, err := compute.NewService(ctx, clientOptions(options)...)
	if err != nil {
		return nil, fmt.Errorf("preparing the Compute API client for project %s: %w (are there Application Default Credentials?)", options.Project, err)
	}
	return &Client{service: service, options: options}, nil
}

// Project is the project of the instances.
func (c *Client) Project() string { return c.options.Project }

// NetworkProject is the project of the network and its firewall rules.
func (c *Client) NetworkProject() string { return c.options.NetworkProject }

// Network is the network's name without path.
func (c *Client) Network() string { return c.options.Network }

func clientOptions(o Options) []option.ClientOption {
	options := []option.ClientOption{option.WithUserAgent(o.UserAgent)}
	if o.Endpoint != "" {
		options = append(options, option.WithEndpoint(basePath(o.Endpoint)))
	}
	switch {
	case o.HTTPClient != nil:
		return append(options, option.WithHTTPClient(o.HTTPClient))
	case strings.HasPrefix(o.Endpoint, "http://"):
		return append(options, option.WithoutAuthentication())
	}
	return append(options, option.WithScopes(compute.ComputeScope))
}

// basePath brings an endpoint into the form the generated client needs, which
// ends in a slash.
func basePath(endpoint string) string {
	endpoint = strings.TrimSuffix(endpoint, "/")
	return strings.TrimSuffix(endpoint, "/compute/v1") + "/compute/v1/"
}

// withDefaults fills in the durations.
func (o Options) withDefaults() Options {
	if o.Backoff.Steps == 0 {
		o.Backoff = defaultBackoff
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = defaultRequestTimeout
	}
	if o.OperationTimeout == 0 {
		o.OperationTimeout = defaultOperationTimeout
	}
	return o
}

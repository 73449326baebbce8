// Package gce is a client of the Compute Engine API for firewall rules and
// instances. It retries transient failures, makes every change idempotent by a
// request id, waits for operations to end, and returns errors with a Kind.
//
// Methods are safe for concurrent use and share no lock: a slow operation
// delays only its caller.
package gce

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/api/compute/v1"
	"google.golang.org/api/option"
	"k8s.io/apimachinery/pkg/util/wait"
)

// Options are the project and how to reach its API. The zero value takes
// everything from the metadata server of the VM on which the program runs.
type Options struct {
	// Project holds the instances. Empty: the VM's own.
	Project string
	// NetworkProject holds the network and its firewall rules: the host
	// project of a shared VPC. Empty: the project in Network; if Network is empty
	// too, that of the VM's first interface; otherwise Project.
	NetworkProject string
	// Network is the VPC network's name, or its URL. Empty: that of the VM's
	// first interface.
	Network string
	// Endpoint replaces https://compute.googleapis.com. Requests to http:// are not
	// authenticated: for simulators. All others carry Google's Application Default
	// Credentials.
	Endpoint string
	// UserAgent is sent with every request. May be empty.
	UserAgent string

	// HTTPClient replaces transport and credentials, in tests.
	HTTPClient *http.Client
	// Backoff is the pause between the tries of one request; its Steps are the
	// maximum number of tries. Zero: seven tries within about twenty seconds.
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
	// waitTimeout bounds globalOperations.wait, which returns "within about 2
	// minutes" in any case.
	waitTimeout = 150 * time.Second
)

var defaultBackoff = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 7, Cap: 8 * time.Second}

// Client calls the Compute API for one project and one network.
type Client struct {
	service *compute.Service
	options Options
}

// New returns a client. It takes empty options from the metadata server and does
// not contact the Compute API.
func New(ctx context.Context, options Options) (*Client, error) {
	if options.Backoff.Steps == 0 {
		options.Backoff = defaultBackoff
	}
	options.RequestTimeout = cmp.Or(options.RequestTimeout, defaultRequestTimeout)
	options.OperationTimeout = cmp.Or(options.OperationTimeout, defaultOperationTimeout)
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

// Project returns the project of the instances.
func (c *Client) Project() string { return c.options.Project }

// NetworkProject returns the project of the network and its firewall rules.
func (c *Client) NetworkProject() string { return c.options.NetworkProject }

// Network returns the network's name, without project.
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

// basePath returns an endpoint in the form that the generated client needs, which
// ends in a slash.
func basePath(endpoint string) string {
	endpoint = strings.TrimSuffix(endpoint, "/")
	return strings.TrimSuffix(endpoint, "/compute/v1") + "/compute/v1/"
}

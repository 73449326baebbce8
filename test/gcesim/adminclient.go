package gcesim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// AdminClient is a client of the admin API of a simulator that runs as a process.
type AdminClient struct {
	// BaseURL is the simulator's address: http://host:port.
	BaseURL string
	// HTTPClient default: http.DefaultClient.
	HTTPClient *http.Client
}

// State returns the current rules and instances.
func (c AdminClient) State(ctx context.Context) (Snapshot, error) {
	var state Snapshot
	return state, c.do(ctx, http.MethodGet, "state", nil, &state)
}

// Set changes the settings that are not nil.
func (c AdminClient) Set(ctx context.Context, settings Settings) error {
	return c.do(ctx, http.MethodPatch, "settings", settings, nil)
}

// PutInstance adds or replaces an instance.
func (c AdminClient) PutInstance(ctx context.Context, instance Instance) error {
	return c.do(ctx, http.MethodPut, "instances/"+instance.Zone+"/"+instance.Name, instance, nil)
}

// PatchInstance changes some fields of an instance, named as in Instance's JSON:
// {"natIP": "203.0.113.9"}. Null clears a field.
func (c AdminClient) PatchInstance(ctx context.Context, zone, name string, fields map[string]any) error {
	return c.do(ctx, http.MethodPatch, "instances/"+zone+"/"+name, fields, nil)
}

// RemoveInstance deletes an instance.
func (c AdminClient) RemoveInstance(ctx context.Context, zone, name string) error {
	return c.do(ctx, http.MethodDelete, "instances/"+zone+"/"+name, nil, nil)
}

// AddFault injects a fault.
func (c AdminClient) AddFault(ctx context.Context, fault Fault) error {
	return c.do(ctx, http.MethodPost, "faults", fault, nil)
}

// ClearFaults removes all faults.
func (c AdminClient) ClearFaults(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "faults", nil, nil)
}

// Requests returns the requests since the last ForgetRequests.
func (c AdminClient) Requests(ctx context.Context) ([]Request, error) {
	var requests []Request
	return requests, c.do(ctx, http.MethodGet, "requests", nil, &requests)
}

// ForgetRequests empties the log of requests.
func (c AdminClient) ForgetRequests(ctx context.Context) error {
	return c.do(ctx, http.MethodDelete, "requests", nil, nil)
}

// do sends in as JSON, and decodes the reply into out unless it is nil.
func (c AdminClient) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	url := strings.TrimSuffix(c.BaseURL, "/") + AdminPath + path
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := c.HTTPClient
	if client == nil {
		client = http.DefaultClient
	}
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(reply.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, url, err)
	}
	if reply.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s: %s", method, url, reply.Status, strings.TrimSpace(string(data)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

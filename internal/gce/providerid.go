package gce

import (
	"fmt"
	"regexp"
	"strings"
)

// ProviderID identifies an instance as a Node's spec.providerID does.
type ProviderID struct{ Project, Zone, Name string }

// String returns gce://project/zone/name.
func (id ProviderID) String() string {
	return "gce://" + id.Project + "/" + id.Zone + "/" + id.Name
}

// Old projects have a domain as prefix: "example.com:project".
var providerIDPattern = regexp.MustCompile(`^gce://([a-z0-9][-a-z0-9.]*(?::[-a-z0-9]+)?)/([a-z][-a-z0-9]*)/([a-z][-a-z0-9]*)$`)

// ParseProviderID parses what String returns.
func ParseProviderID(s string) (ProviderID, error) {
	parts := providerIDPattern.FindStringSubmatch(s)
	if parts == nil {
		return ProviderID{}, fmt.Errorf("provider id %q is not of the form gce://project/zone/instance", s)
	}
	return ProviderID{Project: parts[1], Zone: parts[2], Name: parts[3]}, nil
}

// Region returns the zone without its last part: europe-west1-b is in europe-west1.
func (id ProviderID) Region() string {
	if i := strings.LastIndex(id.Zone, "-"); i > 0 {
		return id.Zone[:i]
	}
	return id.Zone
}

// Package none implements firewall.Firewall where there are no rules that the
// program could change: on bare metal, or where administrators manage all rules.
package none

import (
	"context"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Firewall has no rules and makes none.
type Firewall struct{}

var _ firewall.Firewall = Firewall{}

// Ensure does nothing.
func (Firewall) Ensure(context.Context, firewall.Spec) ([]string, error) { return nil, nil }

// Delete does nothing.
func (Firewall) Delete(context.Context, firewall.Owner) error { return nil }

// Release does nothing.
func (Firewall) Release(context.Context, firewall.Owner) error { return nil }

// Exists returns false.
func (Firewall) Exists(context.Context, firewall.Owner) (bool, error) { return false, nil }

// Owners returns none.
func (Firewall) Owners(context.Context, string) ([]firewall.Owner, error) { return nil, nil }

// Drifted returns none.
func (Firewall) Drifted(context.Context) ([]firewall.Owner, error) { return nil, nil }

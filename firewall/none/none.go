// Package none is the firewall where nothing guards the edge that this program
// could open: bare metal, or a network whose rules are kept by hand.
package none

import (
	"context"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// Firewall leaves everything as it is.
type Firewall struct{}

var _ firewall.Firewall = Firewall{}

// Ensure has nothing to change.
func (Firewall) Ensure(context.Context, firewall.Spec) ([]string, error) { return nil, nil }

// Delete has nothing to close.
func (Firewall) Delete(context.Context, firewall.Owner) error { return nil }

// Abandon has nothing to say.
func (Firewall) Abandon(context.Context, firewall.Owner) error { return nil }

// Exists is always false: nothing was opened.
func (Firewall) Exists(context.Context, firewall.Owner) (bool, error) { return false, nil }

// Owners is always empty, for the same reason.
func (Firewall) Owners(context.Context, string) ([]firewall.Owner, error) { return nil, nil }

// Drifted is always empty: nothing is looked after.
func (Firewall) Drifted(context.Context) ([]firewall.Owner, error) { return nil, nil }

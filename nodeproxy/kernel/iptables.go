// Package kernel reaches the network namespace the process runs in: iptables of
// either flavour, forwarding, addresses, connection tracking. It decides
// nothing; package nodeproxy does. NET_ADMIN and NET_RAW are all it needs.
package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// The two flavours of iptables: over nf_tables, and over the kernel's older
// x_tables, which some kernels do not have any more.
const (
	NFT    = "nft"
	Legacy = "legacy"
)

const (
	// lockSeconds is how long iptables-legacy waits for its lock.
	lockSeconds = 5
	// execTimeout ends an iptables that hangs in the kernel.
	execTimeout = 10 * time.Second
)

// Kernel is the kernel of the network namespace the process runs in.
type Kernel struct {
	// Flavours of iptables to try, in this order.
	Flavours []string
}

// New returns a Kernel that prefers nft to legacy.
func New() *Kernel { return &Kernel{Flavours: []string{NFT, Legacy}} }

// Iptables finds the first flavour whose every needed match and target the
// kernel accepts, by trying: a list of loaded modules lacks those built in.
func (k *Kernel) Iptables(ctx context.Context, family config.Family) (nodeproxy.Iptables, error) {
	var failures []error
	for _, flavour := range k.Flavours {
		tables, err := open(family, flavour)
		if err == nil {
			err = tables.probe(ctx, family)
		}
		if err == nil {
			return tables, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", flavour, err))
	}
	return nil, fmt.Errorf("no iptables works for %s in this pod; the container needs the capabilities NET_ADMIN and NET_RAW, and the kernel conntrack, DNAT, MASQUERADE and TCPMSS: %w",
		family, errors.Join(failures...))
}

// tables is one flavour for one family. go-iptables has no restore, which alone
// changes many rules in one step, so restore and save are run beside it.
type tables struct {
	*iptables.IPTables
	flavour, restore, save string
}

func open(family config.Family, flavour string) (*tables, error) {
	name, proto := "iptables-"+flavour, iptables.ProtocolIPv4
	if family == config.IPv6 {
		name, proto = "ip6tables-"+flavour, iptables.ProtocolIPv6
	}
	handle, err := iptables.New(iptables.Path(name), iptables.IPFamily(proto), iptables.Timeout(lockSeconds))
	if err != nil {
		return nil, err
	}
	return &tables{IPTables: handle, flavour: flavour, restore: name + "-restore", save: name + "-save"}, nil
}

// Flavour is nft or legacy.
func (t *tables) Flavour() string { return t.flavour }

// Save returns the output of iptables-save -c.
func (t *tables) Save(ctx context.Context) (string, error) { return run(ctx, "", t.save, "-c") }

// Restore feeds iptables-restore --noflush.
func (t *tables) Restore(ctx context.Context, text string) error {
	_, err := run(ctx, text, t.restore, "--noflush", fmt.Sprintf("--wait=%d", lockSeconds))
	return err
}

// probe installs sample rules where no packet comes by, looks whether they are
// there, and removes them.
func (t *tables) probe(ctx context.Context, family config.Family) error {
	sample := rules.Probe(family)
	if err := t.Restore(ctx, sample.Restore(nil)); err != nil {
		return err
	}
	text, err := t.Save(ctx)
	if err != nil {
		return err
	}
	installed, err := rules.ParseSave(text)
	if err != nil {
		return err
	}
	if missing := sample.Differences(installed); len(missing) > 0 {
		return errors.New("after installing sample rules, " + strings.Join(missing, "; "))
	}
	return t.Restore(ctx, sample.Remove())
}

// run returns what the command prints; what it says on stderr becomes the error.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// A helper left behind must not keep the output open, and so us waiting.
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("running %s: %w: %s", strings.Join(slices.Concat([]string{name}, args), " "), err, oneLine(stderr.String()))
	}
	return stdout.String(), nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

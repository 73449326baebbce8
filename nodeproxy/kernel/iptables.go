// Package kernel accesses the network namespace of the process: iptables of
// either flavour, forwarding, addresses, and connection tracking. Package
// nodeproxy decides what to do with them. The process needs the capabilities
// NET_ADMIN and NET_RAW, and no others.
package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink/nl"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

// The two flavours of iptables. NFT uses nf_tables; Legacy uses x_tables, which
// some kernels no longer have.
const (
	NFT    = "nft"
	Legacy = "legacy"
)

const (
	// lockSeconds is how long iptables-legacy waits for its lock.
	lockSeconds = 5
	// execTimeout is how long an iptables program may run.
	execTimeout = 10 * time.Second
)

// Kernel is the kernel, as seen from the network namespace of the process.
type Kernel struct {
	// Flavours are the flavours of iptables to try, in this order.
	Flavours []string
	// messages hears of changes of the network, nil before the first call of NetworkChanged.
	messages *nl.NetlinkSocket
}

// New returns a Kernel that prefers nft to legacy.
func New() *Kernel { return &Kernel{Flavours: []string{NFT, Legacy}} }

// Iptables returns the first flavour with which the kernel supports all needed
// matches and targets. It tries them, since a list of loaded modules lacks those
// that are built in.
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

// tables is one flavour for one family. It runs iptables-restore and
// iptables-save itself, since go-iptables does not, and only a restore changes
// many rules in one step.
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

// probe installs sample rules that no packet meets, verifies them, and deletes
// them.
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

// Flavour returns nft or legacy.
func (t *tables) Flavour() string { return t.flavour }

// Generation returns the number of the state of nf_tables. x_tables, which flavour legacy uses, has
// none.
func (t *tables) Generation() (n uint32, known bool) {
	if t.flavour != NFT {
		return 0, false
	}
	n, err := generation()
	return n, err == nil
}

// Save returns the output of iptables-save -c.
func (t *tables) Save(ctx context.Context) (string, error) { return run(ctx, "", t.save, "-c") }

// Restore runs iptables-restore --noflush with the text as its input.
func (t *tables) Restore(ctx context.Context, text string) error {
	_, err := run(ctx, text, t.restore, "--noflush", fmt.Sprintf("--wait=%d", lockSeconds))
	return err
}

// run returns the command's standard output. Its error contains the standard
// error in one line.
func run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	// A child of the command can keep its output open after the command ends.
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("running %s %s: %w: %s", name, strings.Join(args, " "), err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return stdout.String(), nil
}

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// wanted are the programs and headers of the machine that the sandbox needs, and their Debian
// packages.
var wanted = []struct{ item, pkg string }{
	{"ip", "iproute2"},
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"curl", "curl"},
	{"wget", "wget"},
	{"nc", "netcat-openbsd"},
	{"ping", "iputils-ping"},
	{"nsenter", "util-linux"},
	{"mount", "mount"},
	{"gcc", "gcc"},
	{"/usr/include/stdio.h", "libc6-dev"},
	{"pkg-config", "pkg-config"},
	{"/usr/include/seccomp.h", "libseccomp-dev"},
}

// installPackages installs missing packages if there is apt-get.
func installPackages(ctx context.Context, log *progress) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("missing on this machine: %s (names of Debian packages: install the equivalent ones)", strings.Join(missing, " "))
	}
	return log.step("installing "+strings.Join(missing, " "), func() error {
		if err := aptGet(ctx, "update"); err != nil {
			return err
		}
		return aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
	})
}

func missingPackages() []string {
	var missing []string
	for _, w := range wanted {
		_, err := exec.LookPath(w.item)
		if strings.HasPrefix(w.item, "/") {
			_, err = os.Stat(w.item)
		}
		if err != nil && !slices.Contains(missing, w.pkg) {
			missing = append(missing, w.pkg)
		}
	}
	return missing
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	_, err := output(cmd, "apt-get "+args[0])
	return err
}

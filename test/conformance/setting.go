package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// setting is how a cluster and hostport-ccm are set up.
type setting struct {
	Profile       cluster.Profile
	KubeProxyMode cluster.KubeProxyMode
	// Datapath is the one of Services without an annotation.
	Datapath options.DatapathChoice
}

// allSettings returns every setting.
func allSettings() (all []setting) {
	for _, profile := range []cluster.Profile{cluster.GCE, cluster.BareMetal} {
		for _, mode := range []cluster.KubeProxyMode{cluster.IPTables, cluster.NFTables} {
			for _, datapath := range []options.DatapathChoice{options.DatapathProxy, options.DatapathDirect, options.DatapathAuto} {
				all = append(all, setting{profile, mode, datapath})
			}
		}
	}
	return all
}

// String returns the setting as the flag has it.
func (s setting) String() string {
	return fmt.Sprintf("%s/%s/%s", s.Profile, s.KubeProxyMode, s.Datapath)
}

func (s setting) fileName() string { return strings.ReplaceAll(s.String(), "/", "-") }

// parseSettings returns the settings of these names, or all if there is none.
func parseSettings(names []string) ([]setting, error) {
	all := allSettings()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []setting
	for _, name := range names {
		i := slices.IndexFunc(all, func(s setting) bool { return s.String() == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown setting %q: choose from %v", name, all)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

const pageFormat = `<!-- Written by ` + "`make conformance`" + `. -->

# Kubernetes' own tests of load balancers

` + "`make conformance`" + ` (as root, on Linux with Go) builds the end-to-end tests of Kubernetes %s, unmodified, and runs all specs ` + "`%s`" + ` from the host ` + "`internet`" + ` of the [sandbox](../../CONTRIBUTING.md#build-and-test), whose API server, kubelets, kube-proxies and iptables are real. It fails if a spec fails that is not in [exceptions.yaml](../../test/conformance/exceptions.yaml), and also if one of those passes. To run one setting: ` + "`go run ./test/conformance -settings gce/iptables/direct`" + `. A setting takes from 10 to 30 minutes, and the two specs with rolling updates, which replace three pods five times and wait 60 seconds for the end of each, 30 more. ` + "`-match`" + ` with a regular expression chooses specs; results of earlier runs are kept.

A column is a [setting](../../test/conformance/setting.go): profile of the sandbox (gce: 1:1 NAT and firewall; baremetal: the nodes' addresses are reached directly), mode of kube-proxy, and datapath of Services without an annotation.

%s
%s`

// page returns the page about the results of settings.
func page(records []record, all []exception) string {
	return fmt.Sprintf(pageFormat, tools.KubernetesVersion, prefix, table(records, all), reasons(records, all))
}

// table returns the outcome of each spec in each setting.
func table(records []record, all []exception) string {
	header, line := "| spec |", "| --- |"
	for _, r := range records {
		header += fmt.Sprintf(" %s %s %s |", r.Setting.Profile, r.Setting.KubeProxyMode, r.Setting.Datapath)
		line += " --- |"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", header, line)
	row := func(name string, cell func(record) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, r := range records {
			fmt.Fprintf(&b, " %s |", cell(r))
		}
		fmt.Fprintln(&b)
	}
	for _, spec := range specsOf(records) {
		row(title(spec), func(r record) string {
			one := r.resultOf(spec)
			if one == nil {
				return "not run"
			}
			cell := string(one.Outcome)
			if i := exceptionFor(r.Setting, spec, all); i >= 0 {
				cell += fmt.Sprintf(" (%d)", i+1)
			}
			if len(one.Rates) > 0 {
				cell += fmt.Sprintf(", %.2f %%", slices.Min(one.Rates))
			}
			return cell
		})
	}
	row("**passed**", func(r record) string {
		count := 0
		for _, one := range r.Results {
			if one.Outcome == passed {
				count++
			}
		}
		return fmt.Sprintf("**%d of %d**", count, len(r.Specs))
	})
	row("run on", func(r record) string { return r.Date.Format(time.DateOnly) })
	row("client's address that a backend sees with policy Local", func(r record) string {
		for _, one := range r.Results {
			if one.ClientIP != "" {
				return one.ClientIP
			}
		}
		return "not run"
	})
	return b.String()
}

// title returns a spec's short name with the policy that its group is about.
func title(spec string) string {
	return strings.Replace(shortName(spec), "ExternalTrafficPolicy: Local", "policy Local:", 1)
}

// reasons lists the exceptions that concern the settings.
func reasons(records []record, all []exception) string {
	var b strings.Builder
	for i, e := range all {
		if slices.ContainsFunc(records, func(r record) bool { return slices.Contains(e.Datapaths, r.Setting.Datapath) }) {
			fmt.Fprintf(&b, "(%d) %s\n\n", i+1, strings.TrimSpace(e.Reason))
		}
	}
	return b.String()
}

// specsOf returns the specs of all records, in alphabetical order.
func specsOf(records []record) []string {
	var specs []string
	for _, r := range records {
		specs = append(specs, r.Specs...)
	}
	slices.Sort(specs)
	return slices.Compact(specs)
}

// resultOf returns the result of a spec; nil if it was not run.
func (r record) resultOf(spec string) *result {
	i := slices.IndexFunc(r.Results, func(one result) bool { return one.Spec == spec })
	if i < 0 {
		return nil
	}
	return &r.Results[i]
}

// writePage writes the page about the settings that have results in a folder.
func writePage(folder, file string) error {
	var records []record
	for _, s := range allSettings() {
		r, err := load(folder, s)
		if err != nil {
			return err
		}
		if len(r.Results) == 0 {
			continue
		}
		records = append(records, r)
	}
	return os.WriteFile(file, []byte(page(records, exceptions)), 0o644)
}

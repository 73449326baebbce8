package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// exception is why some specs cannot pass with some datapaths.
type exception struct {
	Specs     []string                 `json:"specs"`
	Datapaths []options.DatapathChoice `json:"datapaths"`
	// Outcome is failed or skipped.
	Outcome outcome `json:"outcome"`
	Reason  string  `json:"reason"`
}

//go:embed exceptions.yaml
var exceptionsFile []byte

var exceptions = mustParse(exceptionsFile)

func mustParse(file []byte) (all []exception) {
	if err := yaml.UnmarshalStrict(file, &all); err != nil {
		panic(fmt.Sprintf("exceptions.yaml: %v", err))
	}
	return all
}

// exceptionFor returns the index of the exception for a spec in a setting; -1 if it has to pass.
func exceptionFor(s setting, spec string, all []exception) int {
	return slices.IndexFunc(all, func(e exception) bool {
		return slices.Contains(e.Specs, spec) && slices.Contains(e.Datapaths, s.Datapath)
	})
}

// leastRate is the least percentage of requests that succeed during a rolling update. The specs
// themselves accept less.
const leastRate = 99.9

// violations describes what is otherwise than it has to be.
func violations(s setting, results []result, all []exception) []string {
	var wrong []string
	add := func(r result, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("%s: %s", r.Spec, fmt.Sprintf(format, args...)))
	}
	for _, r := range results {
		e := exceptionFor(s, r.Spec, all)
		switch {
		case e < 0 && r.Outcome != passed:
			add(r, "it %s: %s", r.Outcome, r.Message)
		case e >= 0 && r.Outcome != all[e].Outcome:
			add(r, "it %s, and exceptions.yaml has it as %s", r.Outcome, all[e].Outcome)
		}
		for i, rate := range r.Rates {
			if e < 0 && rate < leastRate {
				add(r, "only %.2f %% of the requests during rolling update %d succeeded", rate, i+1)
			}
		}
		if r.ClientIP != "" && s.Datapath != options.DatapathProxy && r.ClientIP != cluster.InternetIP {
			add(r, "the backend saw the client as %s, not %s", r.ClientIP, cluster.InternetIP)
		}
	}
	return wrong
}

// shortName returns a spec's name without what all have and without labels.
func shortName(spec string) string {
	var words []string
	for word := range strings.FieldsSeq(strings.TrimPrefix(spec, prefix)) {
		if !strings.HasPrefix(word, "[") {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

package options

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/nearest"
)

// Error is an annotation that cannot be read.
type Error struct {
	Annotation, Value string
	// Want says what is expected instead.
	Want string
}

// Error names the annotation, its value, and what is expected.
func (e *Error) Error() string {
	return fmt.Sprintf("annotation %s: %q is not valid, expected %s", e.Annotation, e.Value, e.Want)
}

// parser reads one value into options. Its error is what was expected.
type parser func(value string, o *Options) error

var parsers = map[string]parser{
	NodeSelector:      parseNodeSelector,
	MaxNodes:          parseMaxNodes,
	NodeAddresses:     parseAddresses,
	Tolerations:       parseTolerations,
	PriorityClassName: parsePriorityClassName,
	Firewall:          parseFirewall,
	Datapath:          parseDatapath,
	DrainSeconds:      parseDrainSeconds,
}

// Known returns the annotations that Parse understands, sorted.
func Known() []string { return slices.Sorted(maps.Keys(parsers)) }

// Parse reads a Service's annotations over the given defaults. The error holds
// an *Error for every broken annotation, and the options are of no use then.
func Parse(annotations map[string]string, defaults Options) (Options, error) {
	parsed := defaults
	var broken []error
	for _, name := range Known() {
		value, there := annotations[name]
		if !there {
			continue
		}
		if err := parsers[name](value, &parsed); err != nil {
			broken = append(broken, &Error{Annotation: name, Value: value, Want: err.Error()})
		}
	}
	return parsed, errors.Join(broken...)
}

// Unknown returns one sentence for every annotation that carries our prefix
// and means nothing to us, naming the nearest that does.
func Unknown(annotations map[string]string) []string {
	var sentences []string
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		if _, known := parsers[name]; known || !strings.HasPrefix(name, Prefix) {
			continue
		}
		sentences = append(sentences, fmt.Sprintf("annotation %s is unknown and has no effect%s", name, hint(name)))
	}
	return sentences
}

// hint compares what follows the prefix, which all names share.
func hint(name string) string {
	var known []string
	for _, k := range Known() {
		known = append(known, strings.TrimPrefix(k, Prefix))
	}
	if meant, ok := nearest.To(strings.TrimPrefix(name, Prefix), known); ok {
		return fmt.Sprintf(", did you mean %s%s?", Prefix, meant)
	}
	return "; known are " + strings.Join(known, ", ")
}

func parseNodeSelector(value string, o *Options) error {
	selector, err := labels.Parse(value)
	if err != nil {
		return fmt.Errorf(`a label selector such as "pool=edge,!slow" (%w)`, err)
	}
	o.NodeSelector = selector
	return nil
}

func parseMaxNodes(value string, o *Options) error {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 {
		return errors.New("a whole number of at least 1")
	}
	o.MaxNodes = int(n)
	return nil
}

func parseDrainSeconds(value string, o *Options) error {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n > nodeproxy.MaxDrainSeconds {
		return fmt.Errorf("a whole number of seconds from 0 to %d", nodeproxy.MaxDrainSeconds)
	}
	o.DrainSeconds = int(n)
	return nil
}

func parseAddresses(value string, o *Options) error {
	o.Addresses = Addresses(value)
	return o.Addresses.Validate()
}

// Validate returns an error that says what is expected.
func (a Addresses) Validate() error {
	return oneOf(a, External, Internal, ExternalOrInternal)
}

func parseFirewall(value string, o *Options) error {
	o.Firewall = FirewallMode(value)
	return o.Firewall.Validate()
}

// Validate returns an error that says what is expected.
func (m FirewallMode) Validate() error {
	return oneOf(m, FirewallManaged, FirewallReport, FirewallNone)
}

func parseDatapath(value string, o *Options) error {
	o.Datapath = DatapathChoice(value)
	return o.Datapath.Validate()
}

// Validate returns an error that says what is expected.
func (c DatapathChoice) Validate() error {
	return oneOf(c, DatapathProxy, DatapathDirect, DatapathAuto)
}

func parsePriorityClassName(value string, o *Options) error {
	o.PriorityClassName = value
	return ValidatePriorityClassName(value)
}

// ValidatePriorityClassName returns an error that says what is expected.
func ValidatePriorityClassName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("the name of a PriorityClass (%s)", problems[0])
	}
	return nil
}

func parseTolerations(value string, o *Options) error {
	var list []v1.Toleration
	if err := yaml.UnmarshalStrict([]byte(value), &list); err != nil {
		return fmt.Errorf(`a JSON or YAML list of tolerations such as [{"key": "edge", "operator": "Exists"}] (%w)`, err)
	}
	o.Tolerations = list
	return ValidateTolerations(list)
}

// ValidateTolerations returns an error that says what is expected of the first
// toleration that the API server would refuse in a DaemonSet.
func ValidateTolerations(list []v1.Toleration) error {
	for i, t := range list {
		if err := validateToleration(t); err != nil {
			return fmt.Errorf("in toleration %d %w", i+1, err)
		}
	}
	return nil
}

func validateToleration(t v1.Toleration) error {
	if err := oneOf(t.Operator, "", v1.TolerationOpEqual, v1.TolerationOpExists); err != nil {
		return fmt.Errorf("as operator %w", err)
	}
	if err := oneOf(t.Effect, "", v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute); err != nil {
		return fmt.Errorf("as effect %w", err)
	}
	switch {
	case t.Key != "" && len(validation.IsQualifiedName(t.Key)) > 0:
		return fmt.Errorf("as key a label name, not %q", t.Key)
	case t.Key == "" && t.Operator != v1.TolerationOpExists:
		return errors.New("operator Exists, as there is no key")
	case t.Operator == v1.TolerationOpExists && t.Value != "":
		return errors.New("no value, as the operator is Exists")
	case len(validation.IsValidLabelValue(t.Value)) > 0:
		return fmt.Errorf("as value a label value, not %q", t.Value)
	case t.TolerationSeconds != nil && t.Effect != v1.TaintEffectNoExecute:
		return errors.New("effect NoExecute, as there are tolerationSeconds")
	}
	return nil
}

func oneOf[T ~string](value T, allowed ...T) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	var words []string
	for _, a := range allowed {
		if a != "" {
			words = append(words, string(a))
		}
	}
	return fmt.Errorf("one of %s", strings.Join(words, ", "))
}

package options

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// Error is an annotation whose value is not valid.
type Error struct {
	Annotation, Value string
	// Want describes the valid values.
	Want string
}

// Error names the annotation, its value, and the valid values.
func (e *Error) Error() string {
	return fmt.Sprintf("annotation %s: %s is not valid, expected %s", e.Annotation, Quote(e.Value), e.Want)
}

// parsers parse the values of the annotations into options. Their errors describe the valid values.
var parsers = map[string]func(value string, o *Options) error{
	NodeSelector:  parseNodeSelector,
	MaxNodes:      parseMaxNodes,
	NodeAddresses: func(value string, o *Options) error { o.Addresses = Addresses(value); return o.Addresses.Validate() },
	Tolerations:   parseTolerations,
	PriorityClassName: func(value string, o *Options) error {
		o.PriorityClassName = value
		return ValidatePriorityClassName(value)
	},
	Firewall: func(value string, o *Options) error {
		o.Firewall = firewall.Mode(value)
		return ValidateFirewall(o.Firewall)
	},
	Datapath:                func(value string, o *Options) error { o.Datapath = DatapathChoice(value); return o.Datapath.Validate() },
	DrainSeconds:            parseDrainSeconds,
	MaxConnectionsPerClient: parseMaxConnectionsPerClient,
}

// Known returns the names of all annotations, sorted.
func Known() []string { return slices.Sorted(maps.Keys(parsers)) }

// Parse returns the defaults with the values of a Service's annotations. The error holds an *Error
// for every annotation that is not valid; the options are not to be used then.
func Parse(annotations map[string]string, defaults Options) (Options, error) {
	parsed := defaults
	var invalid []error
	for _, name := range Known() {
		value, found := annotations[name]
		if !found {
			continue
		}
		if err := parse(name, value, &parsed); err != nil {
			invalid = append(invalid, &Error{Annotation: name, Value: value, Want: err.Error()})
		}
	}
	return parsed, errors.Join(invalid...)
}

// parse parses the value of one annotation. Its error describes the valid values.
func parse(name, value string, o *Options) error {
	if len(value) > maxValueBytes {
		return fmt.Errorf("at most %d bytes, not %d", maxValueBytes, len(value))
	}
	return parsers[name](value, o)
}

// Unknown returns a sentence for every annotation with Prefix that does not exist, which suggests
// the one with the nearest name, or all. After the first few, one sentence counts the others.
func Unknown(annotations map[string]string) []string {
	var known, sentences []string
	unknown := 0
	for _, name := range Known() {
		known = append(known, strings.TrimPrefix(name, Prefix))
	}
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		suffix, ours := strings.CutPrefix(name, Prefix)
		if !ours || slices.Contains(known, suffix) {
			continue
		}
		if unknown++; unknown > maxUnknown {
			continue
		}
		suggestion := "; known are " + strings.Join(known, ", ")
		if nearest := Nearest(suffix, known); nearest != "" {
			suggestion = fmt.Sprintf(", did you mean %s%s?", Prefix, nearest)
		}
		sentences = append(sentences, fmt.Sprintf("annotation %s is unknown and has no effect%s", name, suggestion))
	}
	if more := unknown - maxUnknown; more > 0 {
		sentences = append(sentences, fmt.Sprintf("%d more annotations that begin with %s are unknown and have no effect", more, Prefix))
	}
	return sentences
}

func parseNodeSelector(value string, o *Options) error {
	if err := checkSelector(value); err != nil {
		return err
	}
	selector, err := labels.Parse(value)
	if err != nil {
		return fmt.Errorf(`a label selector such as "pool=edge,!slow" (%s)`, cause(err))
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
	if err != nil || n > proxyconfig.MaxDrainSeconds {
		return fmt.Errorf("a whole number of seconds from 0 to %d", proxyconfig.MaxDrainSeconds)
	}
	o.DrainSeconds = int(n)
	return nil
}

func parseMaxConnectionsPerClient(value string, o *Options) error {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil || n == 0 || n > proxyconfig.MaxConnections {
		return fmt.Errorf("a whole number from 1 to %d", proxyconfig.MaxConnections)
	}
	o.MaxConnectionsPerClient = int(n)
	return nil
}

func parseTolerations(value string, o *Options) error {
	var list []v1.Toleration
	if err := yaml.UnmarshalStrict([]byte(value), &list); err != nil {
		return fmt.Errorf(`a JSON or YAML list of tolerations such as [{"key": "edge", "operator": "Exists"}] (%s)`, cause(err))
	}
	o.Tolerations = list
	return cmp.Or(checkTolerations(list), ValidateTolerations(list))
}

// Validate returns an error that describes the valid values.
func (a Addresses) Validate() error { return oneOf(a, External, Internal, ExternalOrInternal) }

// ValidateFirewall returns an error that describes the valid modes.
func ValidateFirewall(m firewall.Mode) error { return oneOf(m, firewall.Modes()...) }

// Validate returns an error that describes the valid values.
func (c DatapathChoice) Validate() error {
	return oneOf(c, DatapathProxy, DatapathDirect, DatapathAuto)
}

// ValidatePriorityClassName returns an error that describes the valid values.
func ValidatePriorityClassName(name string) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("the name of a PriorityClass (%s)", problems[0])
	}
	return nil
}

// ValidateTolerations returns an error that describes what is expected of the first toleration that
// the API server would reject in a DaemonSet.
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
		return fmt.Errorf("as key a label name, not %s", Quote(t.Key))
	case t.Key == "" && t.Operator != v1.TolerationOpExists:
		return errors.New("operator Exists, as there is no key")
	case t.Operator == v1.TolerationOpExists && t.Value != "":
		return errors.New("no value, as the operator is Exists")
	case len(validation.IsValidLabelValue(t.Value)) > 0:
		return fmt.Errorf("as value a label value, not %s", Quote(t.Value))
	case t.TolerationSeconds != nil && t.Effect != v1.TaintEffectNoExecute:
		return errors.New("effect NoExecute, as there are tolerationSeconds")
	}
	return nil
}

// oneOf returns an error that lists the allowed values unless value is one of them.
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

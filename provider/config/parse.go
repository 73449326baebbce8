package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// Load reads and validates a cloud config file. Its error is one line that names the file, the
// fields, and the valid values.
func Load(path string) (*CloudConfig, error) {
	if path == "" {
		return nil, errors.New("no cloud config: set --cloud-config to a file of kind CloudConfig")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cloud config: %w", err)
	}
	cfg, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("cloud config %s: %w", path, err)
	}
	return cfg, nil
}

var unknownField = regexp.MustCompile(`^unknown field "(.*)"$`)

// Parse reads a cloud config in YAML or JSON, sets defaults and validates it. Its error is one
// line.
func Parse(data []byte) (*CloudConfig, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, oneLine(err)
	}
	var cfg CloudConfig
	// Unlike encoding/json, this decoder is case-sensitive and reports the path of an unknown field.
	strict, err := kjson.UnmarshalStrict(asJSON, &cfg)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return nil, fmt.Errorf("%s: expected %s, not %s; quote a word that YAML does not read as a string", wrongType.Field, describeType(wrongType.Type), wrongType.Value)
	}
	if err != nil {
		return nil, oneLine(err)
	}
	if len(strict) > 0 {
		var lines []string
		for _, err := range strict {
			line := err.Error()
			if match := unknownField.FindStringSubmatch(line); match != nil {
				line += suggestion(match[1])
			}
			lines = append(lines, line)
		}
		return nil, oneLine(errors.New(strings.Join(lines, "; ")))
	}
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &cfg, nil
}

// describeType names a type in terms of the file.
func describeType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "fields"
	}
	return "a " + t.Kind().String()
}

// suggestion returns `, did you mean "x"?` if the struct that holds the unknown field has one with
// a similar name, else "".
func suggestion(path string) string {
	parts := strings.Split(path, ".")
	last := len(parts) - 1
	parent := reflect.TypeFor[CloudConfig]()
	for _, part := range parts[:last] {
		name, _, _ := strings.Cut(part, "[")
		parent = fields(parent)[name]
		for parent != nil && parent.Kind() == reflect.Slice {
			parent = parent.Elem()
		}
	}
	if name := options.Nearest(parts[last], slices.Sorted(maps.Keys(fields(parent)))); name != "" {
		return fmt.Sprintf(", did you mean %q?", name)
	}
	return ""
}

// fields returns the types of a struct's fields by their names in the file, nothing for other
// types.
func fields(t reflect.Type) map[string]reflect.Type {
	types := map[string]reflect.Type{}
	if t == nil || t.Kind() != reflect.Struct {
		return types
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		types[name] = field.Type
	}
	return types
}

// oneLine joins the lines of a parser's error and drops its prefixes, which mention JSON where the
// user wrote YAML.
func oneLine(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "json: ", "yaml: unmarshal errors: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New(text)
}

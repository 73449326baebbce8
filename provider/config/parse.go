package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/hostport-ccm/hostport-ccm/provider/nearest"
)

// Load reads and checks a cloud config file. Its error is one line that names
// the file, the fields, and what to write instead.
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

// Parse reads a cloud config in YAML or JSON, fills in defaults and checks it.
func Parse(data []byte) (*CloudConfig, error) {
	asJSON, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, oneLine(err)
	}
	var cfg CloudConfig
	// Unlike encoding/json this decoder takes case seriously and tells the
	// path of an unknown field.
	strict, err := kjson.UnmarshalStrict(asJSON, &cfg)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return nil, fmt.Errorf("%s: expected %s, not %s; where YAML takes a word for something else, quote it", wrongType.Field, article(wrongType.Type), wrongType.Value)
	}
	if err != nil {
		return nil, oneLine(err)
	}
	if len(strict) > 0 {
		return nil, describe(strict)
	}
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &cfg, nil
}

var unknownField = regexp.MustCompile(`^unknown field "(.*)"$`)

func describe(strict []error) error {
	var lines []string
	for _, err := range strict {
		line := err.Error()
		if match := unknownField.FindStringSubmatch(line); match != nil {
			line += hint(match[1])
		}
		lines = append(lines, line)
	}
	return oneLine(errors.New(strings.Join(lines, "; ")))
}

// article names a type as the file knows it.
func article(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "fields"
	}
	return "a " + t.Kind().String()
}

// hint suggests a field of the struct that the unknown field was written in.
func hint(path string) string {
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
	var known []string
	if parent != nil && parent.Kind() == reflect.Struct {
		for i := range parent.NumField() {
			known = append(known, jsonName(parent.Field(i)))
		}
	}
	return nearest.Hint(parts[last], known)
}

// fields maps the fields' names in the file to their types.
func fields(t reflect.Type) map[string]reflect.Type {
	types := map[string]reflect.Type{}
	if t == nil || t.Kind() != reflect.Struct {
		return types
	}
	for i := range t.NumField() {
		types[jsonName(t.Field(i))] = t.Field(i).Type
	}
	return types
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// oneLine joins the lines of a parser's error and drops its prefixes, which
// speak of JSON where the user wrote YAML.
func oneLine(err error) error {
	text := strings.Join(strings.Fields(err.Error()), " ")
	for _, prefix := range []string{"error converting YAML to JSON: ", "json: ", "yaml: unmarshal errors: "} {
		text = strings.TrimPrefix(text, prefix)
	}
	return errors.New(text)
}

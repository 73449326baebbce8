package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// schema is a JSON schema, draft 7.
type schema map[string]any

// enums are the values of the types of fields that have few.
var enums = map[reflect.Type]any{
	reflect.TypeFor[config.Provider]():        []config.Provider{config.ProviderGCE, config.ProviderNone},
	reflect.TypeFor[config.Classes]():         []config.Classes{config.ClassesBoth, config.ClassesClass, config.ClassesNone},
	reflect.TypeFor[config.Failover]():        []config.Failover{config.FailoverFast, config.FailoverKubernetes},
	reflect.TypeFor[config.KubeProxyMode]():   []config.KubeProxyMode{config.KubeProxyIPTables, config.KubeProxyNFTables, config.KubeProxyIPVS, config.KubeProxyNone},
	reflect.TypeFor[options.Addresses]():      []options.Addresses{options.External, options.Internal, options.ExternalOrInternal},
	reflect.TypeFor[options.DatapathChoice](): []options.DatapathChoice{options.DatapathProxy, options.DatapathDirect, options.DatapathAuto},
	reflect.TypeFor[firewall.Mode]():          firewall.Modes(),
	reflect.TypeFor[firewall.Layout]():        []firewall.Layout{firewall.PerService, firewall.Shared},
	reflect.TypeFor[v1.PullPolicy]():          []v1.PullPolicy{v1.PullAlways, v1.PullIfNotPresent, v1.PullNever},
	reflect.TypeFor[v1.LoadBalancerIPMode]():  []v1.LoadBalancerIPMode{v1.LoadBalancerIPModeVIP, v1.LoadBalancerIPModeProxy},
}

// ofTheChart are the fields of the cloud config that the Helm chart adds itself.
var ofTheChart = map[string]bool{"apiVersion": true, "kind": true, "loadBalancer.proxyImage": true, "loadBalancer.namespace": true}

const (
	dnsLabel = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
	ports    = "^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?(/(TCP|UDP|SCTP))?$"
)

// limits are what the schema says of the values of fields, beside their types. The rest, such as the order of the
// ports of a range, is for hostport-ccm to validate at its start.
var limits = map[string]schema{
	"clusterID":                                   {"pattern": "^[a-z0-9]([-a-z0-9]{0,24}[a-z0-9])?$"},
	"loadBalancer.internalRanges":                 {"minItems": 1},
	"loadBalancer.reservedPorts[]":                {"pattern": ports},
	"loadBalancer.nodePortRange":                  {"pattern": "^([1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?|none)$"},
	"loadBalancer.policy.maxDrainSeconds":         {"minimum": 0, "maximum": proxyconfig.MaxDrainSeconds},
	"loadBalancer.policy.maxPorts":                {"minimum": 0},
	"loadBalancer.policy.maxSourceRanges":         {"minimum": 0, "maximum": options.MaxSourceRanges},
	"loadBalancer.policy.maxServicesPerNamespace": {"minimum": 0},
	"loadBalancer.policy.ports[].ports":           {"minItems": 1},
	"loadBalancer.policy.ports[].ports[]":         {"pattern": ports},
	"loadBalancer.policy.ports[].namespaces[]":    {"pattern": dnsLabel},
	"loadBalancer.policy.directNamespaces[]":      {"pattern": dnsLabel},
	"loadBalancer.policy.firewallNamespaces[]":    {"pattern": dnsLabel},
	"gce.nodeTags[]":                              {"pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"},
	"gce.instanceCacheTTL":                        {"pattern": "^([0-9.]+(ns|us|ms|s|m|h))+$"},
	"gce.firewallCheckPeriod":                     {"pattern": "^([0-9.]+(ns|us|ms|s|m|h))+$"},
}

// chartValues returns the schema of the values of the Helm chart. Its cloud config has the fields of
// config.CloudConfig, with their doc comments.
func chartValues(module string) (string, error) {
	f, err := parseFile(module, "provider/config/config.go")
	if err != nil {
		return "", err
	}
	fields, err := structFields(f, "CloudConfig", "")
	if err != nil {
		return "", err
	}
	docs := map[string]string{}
	for _, field := range fields {
		docs[field.Name] = field.Doc
	}
	cloudConfig := schemaOf(reflect.TypeFor[config.CloudConfig](), "", docs)
	cloudConfig["required"] = []string{"clusterID", "provider"}
	cloudConfig["if"] = schema{"properties": schema{"provider": schema{"const": config.ProviderNone}}}
	cloudConfig["then"] = schema{"properties": schema{"gce": schema{"maxProperties": 0}}}

	text, number, flag, pullPolicies := schema{"type": "string"}, schema{"type": "integer", "minimum": 0}, schema{"type": "boolean"}, enums[reflect.TypeFor[v1.PullPolicy]()]
	list, fieldsOf, texts := schema{"type": "array"}, schema{"type": "object"}, schema{"type": "object", "additionalProperties": text}
	enabled := object(schema{"enabled": flag})
	// Without a tag and a digest, which are in the value tag.
	repository := schema{"type": "string", "pattern": `^([^\s@:/]+(:[0-9]+)?/)?[^\s@:]+$`}
	values := object(schema{
		"cloudConfig": cloudConfig, "initializeNodes": flag, "direct": enabled, "admission": enabled, "monitoring": enabled,
		"image":      object(schema{"repository": repository, "tag": text, "pullPolicy": schema{"type": "string", "enum": pullPolicies}}),
		"proxyImage": object(schema{"repository": repository, "tag": text}), "imagePullSecrets": list, "replicas": number, "logLevel": number,
		"extraArgs": schema{"type": "array", "items": text}, "env": list, "serviceAccount": object(schema{"annotations": texts}), "podAnnotations": texts,
		"priorityClassName": text, "hostNetwork": flag,
		"dnsPolicy": schema{"type": "string", "enum": []v1.DNSPolicy{v1.DNSDefault, v1.DNSClusterFirst, v1.DNSClusterFirstWithHostNet}},
		"resources": fieldsOf, "nodeSelector": texts, "affinity": fieldsOf, "tolerations": list,
	})
	// All have defaults. One that is null is missing.
	values["required"] = slices.Sorted(maps.Keys(values["properties"].(schema)))
	// Helm's own: values of charts that have this one as a dependency.
	values["properties"].(schema)["global"] = fieldsOf
	values["$schema"] = "http://json-schema.org/draft-07/schema#"
	values["$comment"] = "Generated by `go run ./internal/reference`."
	out, err := json.MarshalIndent(values, "", "  ")
	return string(out) + "\n", err
}

// object returns the schema of an object with these properties and no others.
func object(properties schema) schema {
	return schema{"type": "object", "properties": properties, "additionalProperties": false}
}

// schemaOf returns the schema of a type of the cloud config. name is the field's name in docs, with
// the names of the fields that it is in.
func schemaOf(t reflect.Type, name string, docs map[string]string) schema {
	s := schema{}
	switch {
	case t == reflect.TypeFor[metav1.Duration]():
		s["type"] = "string"
	case t == reflect.TypeFor[v1.Toleration]():
		s["type"] = "object"
	case t.Kind() == reflect.Struct:
		properties := schema{}
		for field := range t.Fields() {
			key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if full := strings.TrimPrefix(name+"."+key, "."); !ofTheChart[full] {
				properties[key] = schemaOf(field.Type, full, docs)
			}
		}
		s = object(properties)
	case t.Kind() == reflect.Slice:
		s["type"], s["items"] = "array", schemaOf(t.Elem(), name+"[]", docs)
	case t.Kind() == reflect.String:
		s["type"] = "string"
		if values, ok := enums[t]; ok {
			s["enum"] = values
		}
	case t.Kind() == reflect.Bool:
		s["type"] = "boolean"
	case t.Kind() == reflect.Int:
		s["type"] = "integer"
	default:
		panic(fmt.Sprintf("%s has type %s, for which there is no schema", name, t))
	}
	if doc := docs[name]; doc != "" {
		s["description"] = doc
	}
	maps.Copy(s, limits[name])
	return s
}

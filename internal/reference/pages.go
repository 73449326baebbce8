package main

import (
	"fmt"
	"strings"
)

const generated = "<!-- Made by `go run ./internal/reference` from the sources' comments; edit those. -->\n\n"

const annotationsHead = `# Annotations of a Service

All are optional, and all begin with ` + "`hostport-ccm.io/`" + `. Where a Service says nothing, the [cloud config](cloud-config.md) holds.

A value that cannot be read gives a Warning event that names the annotation, the value and what is expected; the Service then stays as it was until the value is corrected. A name under the prefix that is not listed here has no effect, and gives a Warning event that names the nearest known one.

They are annotations, not labels, because the service controller does not notice changes of labels.

`

func annotations(module string) (string, error) {
	const source = "provider/options/options.go"
	f, err := file(module, source)
	if err != nil {
		return "", err
	}
	known := prefixed(f)
	if len(known) == 0 {
		return "", fmt.Errorf("%s has no constants Prefix + \"name\"", source)
	}
	var b strings.Builder
	b.WriteString(generated + annotationsHead)
	for _, a := range known {
		fmt.Fprintf(&b, "## `hostport-ccm.io/%s`\n\n%s\n\n", a.Name, a.Doc)
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

const cloudConfigHead = `# The cloud config

The file that ` + "`hostport-ccm --cloud-config`" + ` reads, in YAML or JSON. In the manifests it is ` + "`cloud-config.yaml`" + ` of an overlay.

A field that is not listed here, or a value that is not valid, stops hostport-ccm at its start with one line that names the file, the field, and what to write instead. The file is read at the start only; with the manifests, changing it replaces the pods.

A minimal one:

` + "```yaml" + `
apiVersion: hostport-ccm.io/v1alpha1
kind: CloudConfig
clusterID: my-cluster
provider: none
loadBalancer:
  proxyImage: ghcr.io/hostport-ccm/hostport-nodeproxy:v0.1.0-dev
` + "```" + `

`

func cloudConfig(module string) (string, error) {
	f, err := file(module, "provider/config/config.go")
	if err != nil {
		return "", err
	}
	all, err := fields(f, "CloudConfig", "")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(generated + cloudConfigHead + "| field | type | meaning |\n| --- | --- | --- |\n")
	for _, e := range all {
		if e.Doc == "" {
			continue // apiVersion and kind, which the example shows
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.Name, e.Type, strings.ReplaceAll(e.Doc, "|", `\|`))
	}
	return b.String(), nil
}

// Command reference generates reference pages and the schema of the Helm chart's values from the
// annotations and config fields and their doc comments. Run it in the root directory of the module:
//
//	go run ./internal/reference
//
// A test fails if a page is not up to date.
package main

import (
	"fmt"
	"os"
)

// pages are the generated files. render reads the sources in the module's root directory.
var pages = []struct {
	path   string
	render func(module string) (string, error)
}{
	{"docs/reference/annotations.md", annotations},
	{"docs/reference/cloud-config.md", cloudConfig},
	{"manifests/helm/hostport-ccm/values.schema.json", chartValues},
}

func main() {
	for _, p := range pages {
		text, err := p.render(".")
		if err == nil {
			err = os.WriteFile(p.path, []byte(text), 0o644)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "generating %s: %v\n", p.path, err)
			os.Exit(1)
		}
	}
}

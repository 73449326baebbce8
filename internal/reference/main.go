// Command reference writes the reference pages that are made from the sources'
// doc comments, so that what a page says and what the code knows are one text:
//
//	go run ./internal/reference
//
// run in the module's folder. A test fails while a page is out of date.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// page is one generated file.
type page struct {
	path   string
	render func(module string) (string, error)
}

var pages = []page{
	{"docs/reference/annotations.md", annotations},
	{"docs/reference/cloud-config.md", cloudConfig},
}

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "reference:", err)
		os.Exit(1)
	}
}

func write(module string) error {
	for _, p := range pages {
		text, err := p.render(module)
		if err != nil {
			return fmt.Errorf("rendering %s: %w", p.path, err)
		}
		if err := os.WriteFile(filepath.Join(module, p.path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/internal/version"
)

// changes returns the section of this version in the changelog.
func (b build) changes() (string, error) {
	const changelog = "CHANGELOG.md"
	data, err := os.ReadFile(filepath.Join(b.source, changelog))
	if err != nil {
		return "", err
	}
	if text, ok := section(string(data), strings.TrimPrefix(b.version, "v")); ok {
		return text, nil
	}
	const unreleased = "Unreleased"
	if text, ok := section(string(data), unreleased); ok && version.IsPrerelease(b.version) {
		return text, nil
	}
	return "", fmt.Errorf("%s has no section [%s]: rename [%s] to it, with the date, and commit that; only a version such as %[4]s-rc.1 is made from [%[3]s]",
		changelog, strings.TrimPrefix(b.version, "v"), unreleased, b.version)
}

var (
	sectionHeading = regexp.MustCompile(`(?m)^## \[([^\]]+)\].*$`)
	linkTargets    = regexp.MustCompile(`(?m)^\[[^\]]+\]: .*$`)
)

// section returns the text below the heading `## [name]` of a changelog, which a date may follow, up to
// the next heading of that level, without the targets of links that Keep a Changelog has at the end.
func section(changelog, name string) (string, bool) {
	headings := sectionHeading.FindAllStringSubmatchIndex(changelog, -1)
	for i, h := range headings {
		if changelog[h[2]:h[3]] != name {
			continue
		}
		end := len(changelog)
		if i+1 < len(headings) {
			end = headings[i+1][0]
		}
		return strings.TrimSpace(linkTargets.ReplaceAllString(changelog[h[1]:end], "")), true
	}
	return "", false
}

// notes returns the release notes.
func (b build) notes(changes string, digests map[string]v1.Hash) []byte {
	var notes strings.Builder
	fmt.Fprintf(&notes, "# hostport-ccm %s\n\n%s\n\n### Images\n\nFor %s. Built twice from commit %s, with the same bytes.\n\n",
		b.version, changes, strings.Join(architectures, " and "), b.revision)
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		fmt.Fprintf(&notes, "- `%s/%s:%s@%s`\n", product.Registry, name, b.version, digests[name])
	}
	return []byte(notes.String())
}

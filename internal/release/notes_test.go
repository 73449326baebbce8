package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const changelog = `# Changelog

Words about the format.

## [Unreleased]

### Added

- New.

## [1.1.0] - 2026-02-03

### Fixed

- A fault.

## [1.0.0]

- First.

[Unreleased]: https://example.com/compare/v1.1.0...HEAD
[1.1.0]: https://example.com/tree/v1.1.0
`

func TestChangesAreThoseOfTheVersion(t *testing.T) {
	for _, tt := range []struct {
		version, changelog, want, err string
	}{
		{version: "v1.1.0", changelog: changelog, want: "### Fixed\n\n- A fault."},
		{version: "v1.0.0", changelog: changelog, want: "- First."},
		{version: "v1.2.0-rc.1", changelog: changelog, want: "### Added\n\n- New."},
		{version: "v1.2.0-rc.1", changelog: "## [1.2.0-rc.1]\n\n- Candidate.\n\n## [Unreleased]\n", want: "- Candidate."},
		{version: "v1.2.0", changelog: changelog, err: "CHANGELOG.md has no section [1.2.0]: rename [Unreleased] to it, with the date, and commit that; only a version such as v1.2.0-rc.1 is made from [Unreleased]"},
		{version: "v1.2.0-rc.1", changelog: "# Changelog\n", err: "CHANGELOG.md has no section [1.2.0-rc.1]"},
		{version: "v1.1", changelog: changelog, err: "CHANGELOG.md has no section [1.1]"},
	} {
		t.Run(tt.version, func(t *testing.T) {
			b := build{version: tt.version, source: t.TempDir()}
			write(t, b.source, "CHANGELOG.md", tt.changelog)
			got, err := b.changes()
			if (err == nil) != (tt.err == "") || (err != nil && !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("changes() error = %v, want %q", err, tt.err)
			}
			if got != tt.want {
				t.Errorf("changes() = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNotesHaveChangesAndDigests(t *testing.T) {
	b := build{version: "v1.1.0", commit: commit{revision: "0123abc"}}
	digest := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	want := `# hostport-ccm v1.1.0

- A fault.

### Images

For amd64 and arm64. Built twice from commit 0123abc, with the same bytes.

- ` + "`ghcr.io/hostport-ccm/a:v1.1.0@" + digest.String() + "`" + `
- ` + "`ghcr.io/hostport-ccm/b:v1.1.0@" + digest.String() + "`" + `
`
	if diff := cmp.Diff(want, string(b.notes("- A fault.", map[string]v1.Hash{"b": digest, "a": digest}))); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

// Package version has the version of this tree. What cannot read it here, such as manifests and
// pages, repeats it: Written finds these places, and Set changes them all.
package version

import (
	"fmt"
	"strings"

	semver "k8s.io/apimachinery/pkg/util/version"
)

// Current is the version of this tree. `make set-version` changes it and all places that repeat it.
const Current = "v0.1.0-dev"

// Check returns an error if the version is not a semantic version with a leading v. Build metadata
// is refused, because the plus sign before it is not allowed in the tag of an image.
func Check(version string) error {
	parsed, err := semver.ParseSemantic(version)
	if err != nil {
		return fmt.Errorf("version %q: want a semantic version with a leading v, such as v0.2.0 or v0.2.0-rc.1: %w", version, err)
	}
	if "v"+parsed.String() != version || parsed.BuildMetadata() != "" {
		return fmt.Errorf("version %q: want a leading v and no build metadata, such as v0.2.0 or v0.2.0-rc.1", version)
	}
	return nil
}

// IsPrerelease reports whether a version that Check accepts comes before a release, as v0.2.0-rc.1
// does.
func IsPrerelease(version string) bool { return strings.Contains(version, "-") }

package version

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// folders have the files that repeat the version.
var folders = []string{"docs", "internal/version", "manifests", "test/sandbox/manifests"}

// written matches a version of hostport-ccm and, in its first group, what stands before it. Only the
// version of a chart has no v.
var written = regexp.MustCompile(`(?m)(ghcr\.io/hostport-ccm/hostport-(?:ccm|nodeproxy):|newTag: |appVersion: |^version: |^const Current = ")(v?\d+\.\d+\.\d+(?:-\w+(?:[.-]\w+)*)?)`)

// Written returns the versions in the tree at root, with a leading v, by the files that they are in.
func Written(root string) (map[string][]string, error) {
	found := map[string][]string{}
	err := eachFile(root, func(path string) error {
		data, err := os.ReadFile(filepath.Join(root, path))
		for _, match := range written.FindAllStringSubmatch(string(data), -1) {
			found[path] = append(found[path], "v"+strings.TrimPrefix(match[2], "v"))
		}
		return err
	})
	return found, err
}

// Set writes the version into all files of the tree at root that repeat it.
func Set(root, version string) error {
	found, err := Written(root)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(found)) {
		path = filepath.Join(root, path)
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		changed := written.ReplaceAllStringFunc(string(data), func(old string) string {
			match := written.FindStringSubmatch(old)
			if strings.HasPrefix(match[2], "v") {
				return match[1] + version
			}
			return match[1] + strings.TrimPrefix(version, "v")
		})
		if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// eachFile calls visit with the path, relative to root, of each file that may repeat the version.
// Tests have other versions in them.
func eachFile(root string, visit func(path string) error) error {
	for _, folder := range folders {
		err := fs.WalkDir(os.DirFS(root), folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return visit(path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

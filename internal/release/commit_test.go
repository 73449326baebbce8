package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACommitThatIsNotWhatItSeemsIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		// change is done to a repository whose only commit has the tag v1.0.0.
		change        func(t *testing.T, dir string)
		version, want string
	}{
		{"no change", func(*testing.T, string) {}, "v1.0.0", ""},
		{"another version", func(*testing.T, string) {}, "v1.1.0", ""},
		{"a changed file", func(t *testing.T, dir string) { write(t, dir, "file", "changed") }, "v1.0.0", "has changes that no commit has"},
		{"a new file", func(t *testing.T, dir string) { write(t, dir, "other", "new") }, "v1.0.0", "?? other"},
		{"a later commit", func(t *testing.T, dir string) { commitFile(t, dir, "other") }, "v1.0.0", "tag v1.0.0 is not on commit "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			gitTo(t, dir, "init", "-q")
			commitFile(t, dir, "file")
			gitTo(t, dir, "tag", "v1.0.0")
			tt.change(t, dir)
			_, err := head(t.Context(), dir, tt.version)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("head() error = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestAnAnnotatedTagIsOnItsCommit(t *testing.T) {
	dir := t.TempDir()
	gitTo(t, dir, "init", "-q")
	commitFile(t, dir, "file")
	gitTo(t, dir, "-c", "user.name=nobody", "-c", "user.email=nobody@example.com", "tag", "-a", "-m", "v1.0.0", "v1.0.0")
	if _, err := head(t.Context(), dir, "v1.0.0"); err != nil {
		t.Error(err)
	}
}

func TestACheckoutHasOnlyFilesOfTheCommit(t *testing.T) {
	dir := t.TempDir()
	gitTo(t, dir, "init", "-q")
	write(t, dir, ".gitignore", "ignored\n")
	commitFile(t, dir, "file")
	write(t, dir, "ignored", "")
	write(t, dir, "file", "changed")
	c, err := head(t.Context(), dir, "v1.0.0")
	if err == nil {
		t.Error("a work tree with changes is accepted")
	}
	c.revision = "HEAD"
	target := filepath.Join(t.TempDir(), "copy")
	if err := c.checkout(t.Context(), dir, target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "ignored")); err == nil || read(t, filepath.Join(target, "file")) != "content" {
		t.Error("the copy has what no commit has")
	}
}

// commitFile commits a file, and all that is there.
func commitFile(t *testing.T, dir, name string) {
	t.Helper()
	write(t, dir, name, "content")
	gitTo(t, dir, "add", ".")
	gitTo(t, dir, "-c", "user.name=nobody", "-c", "user.email=nobody@example.com", "commit", "-q", "-m", "Add a file")
}

func gitTo(t *testing.T, dir string, args ...string) {
	t.Helper()
	if _, err := git(t.Context(), dir, args...); err != nil {
		t.Fatal(err)
	}
}

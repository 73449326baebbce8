package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// commit is what a release is made from.
type commit struct {
	revision string
	// date is that of the committer. It stands for the time of the build, which a second one cannot have.
	date time.Time
}

// head returns the commit that the work tree has. It returns an error if the work tree has changes,
// or if the tag of the version is on another commit: the release would not be what they say.
func head(ctx context.Context, dir, version string) (commit, error) {
	changes, err := git(ctx, dir, "status", "--porcelain")
	if err != nil {
		return commit{}, err
	}
	if changes != "" {
		return commit{}, fmt.Errorf("the work tree has changes that no commit has; commit or remove them first:\n%s", changes)
	}
	found, err := git(ctx, dir, "show", "--no-patch", "--format=%H %ct", "HEAD")
	if err != nil {
		return commit{}, err
	}
	revision, date, _ := strings.Cut(found, " ")
	seconds, err := strconv.ParseInt(date, 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("date of commit %s: %w", revision, err)
	}
	tagged, err := git(ctx, dir, "for-each-ref", "--format=%(objectname) %(*objectname)", "refs/tags/"+version)
	if err != nil {
		return commit{}, err
	}
	if tagged != "" && !strings.Contains(tagged, revision) {
		return commit{}, fmt.Errorf("tag %s is not on commit %s of the work tree; run git checkout %[1]s first, or choose another version", version, revision)
	}
	return commit{revision: revision, date: time.Unix(seconds, 0).UTC()}, nil
}

// checkout copies the files of the commit, without what git ignores or does not know, into a folder.
func (c commit) checkout(ctx context.Context, dir, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	archive := target + ".tar"
	defer os.Remove(archive)
	absolute, err := filepath.Abs(archive)
	if err != nil {
		return err
	}
	if _, err := git(ctx, dir, "archive", "--format=tar", "--output="+absolute, c.revision); err != nil {
		return err
	}
	_, err = output(exec.CommandContext(ctx, "tar", "-xf", absolute, "-C", target))
	return err
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := output(exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...))
	return strings.TrimSpace(string(out)), err
}

// output returns what a command prints, and its messages as an error if it fails.
func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, exit.Stderr)
	}
	return out, err
}

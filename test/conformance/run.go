package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// runner runs the specs in a sandbox that is running.
type runner struct {
	cluster *cluster.Cluster
	setting setting
	// out is the folder for what is kept of all settings.
	out string
	log io.Writer
}

// folder returns the folder for what is kept of the setting.
func (r runner) folder() string { return filepath.Join(r.out, r.setting.fileName()) }

// run sets the datapath of Services without an annotation and runs the specs that match, one by one,
// as all their Services have the same port.
func (r runner) run(ctx context.Context, match string) (results []result, err error) {
	before, err := r.cluster.EditCloudConfig(ctx, func(content string) string {
		return strings.Replace(content, "\nloadBalancer:\n", "\nloadBalancer:\n  datapath: "+string(r.setting.Datapath)+"\n", 1)
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		_, undoErr := r.cluster.EditCloudConfig(context.WithoutCancel(ctx), func(string) string { return before })
		err = errors.Join(err, undoErr)
	}()
	return r.specs(ctx, match)
}

// specs runs the specs that match, and keeps each result.
func (r runner) specs(ctx context.Context, match string) ([]result, error) {
	pattern, err := regexp.Compile(match)
	if err != nil {
		return nil, err
	}
	program, err := r.cluster.UpstreamTests(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(r.folder(), 0o755); err != nil {
		return nil, err
	}
	kept, err := load(r.out, r.setting)
	if err != nil {
		return nil, err
	}
	images, err := exec.CommandContext(ctx, program, "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("list the images: %w", err)
	}
	if !strings.Contains(string(images), cluster.AgnhostImage+"\n") {
		return nil, fmt.Errorf("the sandbox has the image %s, not the one that the specs use: correct its name in package cluster", cluster.AgnhostImage)
	}
	list, err := exec.CommandContext(ctx, program, "--list-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the specs: %w", err)
	}
	all := specsIn(string(list))
	var results []result
	for _, spec := range all {
		if !pattern.MatchString(spec) {
			continue
		}
		one, err := r.spec(ctx, program, spec)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(r.log, "%-7s %5.0fs  %s  %s\n", one.Outcome, one.Took.Seconds(), r.setting, shortName(spec))
		results = append(results, one)
		kept = kept.with(time.Now(), all, one)
		if err := kept.save(r.out); err != nil {
			return nil, err
		}
	}
	if len(results) == 0 {
		return nil, fmt.Errorf("no spec matches %q", match)
	}
	return results, nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// spec runs one spec on the internet host. Its failure is no error.
func (r runner) spec(ctx context.Context, program, spec string) (result, error) {
	name := strings.Trim(notInNames.ReplaceAllString(shortName(spec), "-"), "-")
	reports := filepath.Join(r.folder(), name)
	if err := os.RemoveAll(reports); err != nil { // An earlier run's report is not this one's.
		return result{}, err
	}
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return result{}, err
	}
	absolute, err := filepath.Abs(reports)
	if err != nil {
		return result{}, err
	}
	cmd, err := r.cluster.Command(ctx, cluster.Internet, program, "--provider", "skeleton", "--kubeconfig", r.cluster.Kubeconfig(),
		"--kubectl-path", r.cluster.KubectlPath(), "--report-dir", absolute,
		"--ginkgo.focus", regexp.QuoteMeta(spec)+"$", "--ginkgo.v", "--ginkgo.no-color", "--ginkgo.timeout", "40m")
	if err != nil {
		return result{}, err
	}
	output, err := cmd.CombinedOutput()
	if writeErr := os.WriteFile(filepath.Join(reports, "log.txt"), output, 0o644); writeErr != nil {
		return result{}, writeErr
	}
	if ctx.Err() != nil {
		return result{}, context.Cause(ctx)
	}
	report, readErr := os.ReadFile(filepath.Join(reports, "junit_01.xml"))
	if readErr != nil {
		return result{}, fmt.Errorf("%s: it wrote no report: %w", spec, errors.Join(err, readErr))
	}
	return parseResult(spec, report, output)
}

// record is what is kept of a setting.
type record struct {
	Setting setting
	// Date is that of the last result.
	Date time.Time
	// Specs are all that there are, Results those of the ones that were run.
	Specs   []string
	Results []result
}

// with returns the record with these results in place of earlier ones.
func (r record) with(date time.Time, all []string, results ...result) record {
	merged := record{Setting: r.Setting, Date: date, Specs: all, Results: slices.Clone(r.Results)}
	for _, one := range results {
		if i := slices.IndexFunc(merged.Results, func(have result) bool { return have.Spec == one.Spec }); i >= 0 {
			merged.Results[i] = one
		} else {
			merged.Results = append(merged.Results, one)
		}
	}
	return merged
}

const recordFile = "results.json"

// load reads the record of a setting from a folder. It is empty if there is none.
func load(folder string, s setting) (record, error) {
	r := record{Setting: s}
	written, err := os.ReadFile(filepath.Join(folder, s.fileName(), recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(written, &r)
	}
	return r, err
}

func (r record) save(folder string) error {
	written, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, r.Setting.fileName(), recordFile), written, 0o644)
}

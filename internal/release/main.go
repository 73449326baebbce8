// Command release makes what a release consists of: both images for all architectures, an SBOM of
// each, the manifests of each overlay, the Helm chart, release notes and checksums. It builds all of
// it twice, from copies of the commit in two folders and with an empty build cache the second time,
// and fails if a file differs.
//
// It does not push, tag or sign anything.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/product"
	"github.com/hostport-ccm/hostport-ccm/internal/version"
)

func main() {
	r := release{module: ".", products: product.All}
	flag.StringVar(&r.out, "out", "dist", "folder for the folder of the release")
	flag.StringVar(&r.version, "version", version.Current, "version of the release")
	set := flag.Bool("set", false, "only write the version into manifests, chart and pages of the work tree")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := version.Check(r.version)
	switch {
	case err != nil:
	case *set:
		err = version.Set(r.module, r.version)
	default:
		err = r.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is what to make, and from what.
type release struct {
	// module is the folder of the work tree, out that for the folder of the release.
	module, out string
	version     string
	products    []product.Product
}

// run makes the release in out/release-<version>, which it replaces only by a complete one.
func (r release) run(ctx context.Context) error {
	c, err := head(ctx, r.module, r.version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return err
	}
	results, err := os.MkdirTemp(r.out, ".release-*")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hostport-release-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	first := build{commit: c, version: r.version, products: r.products, source: filepath.Join(work, "first"), out: filepath.Join(results, "first")}
	second := first
	second.source, second.out = filepath.Join(work, "the-second-source"), filepath.Join(results, "second")
	second.env = []string{"GOCACHE=" + filepath.Join(work, "cache")}
	for _, b := range []build{first, second} {
		if err := b.fromCommit(ctx, r.module); err != nil {
			return errors.Join(err, os.RemoveAll(results))
		}
	}
	if err := compare(first.out, second.out); err != nil {
		return fmt.Errorf("two builds of commit %s differ; they stay in %s to be compared: %w", c.revision, results, err)
	}
	defer os.RemoveAll(results)
	target := filepath.Join(r.out, "release-"+r.version)
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	if err := os.Rename(first.out, target); err != nil {
		return err
	}
	fmt.Printf("both builds have the same bytes; the release is in %s\n", target)
	return nil
}

// step runs a step of a build, and prints how long it took.
func step(what string, do func() error) error {
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("  %-45s %7s\n", what, time.Since(start).Round(100*time.Millisecond))
	return nil
}

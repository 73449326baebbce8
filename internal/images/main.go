// Command images builds hostport-ccm's two container images without a container
// engine: Go programs from this module, and what else they need from Debian
// packages. It writes an archive of each, prints what came out, and fails when
// an image is larger than it may be.
//
// Pushing the archives to a registry is left to tools made for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var o options
	dir := flag.String("out", "dist", "folder for the archives")
	flag.StringVar(&o.version, "version", "v0.1.0-dev", "tag of the images, and what their programs report")
	flag.StringVar(&o.arch, "arch", "amd64", "architecture, as Go names it")
	flag.StringVar(&o.module, "module", ".", "this module's folder")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, dir string) error {
	const row = "%-30s %-52s %10s %8s  %s\n"
	fmt.Printf(row, "ARCHIVE", "IMAGE", "COMPRESSED", "TOOK", "DIGEST")
	var tooLarge []error
	err := writeAll(ctx, o, dir, func(b built) {
		fmt.Printf(row, b.archive, b.Name, fmt.Sprintf("%.1f MiB", float64(b.Size)/(1<<20)), b.took.Round(100*time.Millisecond), b.Digest)
		tooLarge = append(tooLarge, b.err())
	})
	return errors.Join(err, errors.Join(tooLarge...))
}

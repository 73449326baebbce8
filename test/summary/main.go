// Command summary reads the output of `go test -json`, shows the progress of the tests on standard
// error, and writes one line to standard output at the end:
//
//	12 passed, 0 failed
//
// It fails if a test failed, a package did not build, or no test ran. It shows the output of failed
// tests only, and lists them again before the last line.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	each := flag.Bool("each", false, "show every test, not only every package")
	flag.Parse()
	ok, err := summarize(os.Stdin, os.Stderr, os.Stdout, *each)
	if err != nil {
		fmt.Fprintln(os.Stderr, "summary:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func summarize(events io.Reader, progress, result io.Writer, each bool) (ok bool, err error) {
	r := newReport(progress, each)
	err = r.read(events)
	r.showFailures()
	fmt.Fprintln(result, r.total())
	return err == nil && r.failed == 0 && r.passed > 0, err
}

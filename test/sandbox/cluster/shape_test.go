package cluster

import (
	"flag"
	"io"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/tools"
)

func TestFlagKubernetes(t *testing.T) {
	for written, want := range map[string]string{"": tools.KubernetesVersion, "1.36.3": "v1.36.3", "v1.30.14": "v1.30.14", "1.36": "", "latest": ""} {
		var shape Shape
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		shape.AddFlags(flags)
		var args []string
		if written != "" {
			args = []string{"-kubernetes", written}
		}
		err := flags.Parse(args)
		if (err != nil) != (want == "") || err == nil && shape.kubernetes() != want {
			t.Errorf("%q: got %s, %v, want %q", written, shape.kubernetes(), err, want)
		}
	}
}

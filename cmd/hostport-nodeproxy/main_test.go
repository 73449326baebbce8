package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

func TestInvalidInputIsReportedInOneLineThatNamesIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), config.FileName)
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		config string
		args   []string
		want   []string
	}{
		"an unknown flag":                    {service(anySource, clusterIP), []string{"--confg-file=x"}, []string{"--confg-file"}},
		"an argument that is not a flag":     {service(anySource, clusterIP), []string{"config.json"}, []string{`"config.json"`, "--help"}},
		"a sync period of 0":                 {service(anySource, clusterIP), []string{"--sync-period=0"}, []string{"--sync-period", "100ms"}},
		"a health address without a port":    {service(anySource, clusterIP), []string{"--health-address=localhost"}, []string{"--health-address", ":10271"}},
		"a health port that is a name":       {service(anySource, clusterIP), []string{"--health-address=:health"}, []string{"--health-address", "1 to 65535"}},
		"a health port of the Service":       {service(anySource, clusterIP), []string{"--health-address=:80"}, []string{file, "--health-address", "TCP port 80"}},
		"a metrics address without a port":   {service(anySource, clusterIP), []string{"--metrics-address=localhost"}, []string{"--metrics-address", ":10270"}},
		"a metrics port of the Service":      {service(anySource, clusterIP), []string{"--metrics-address=:80"}, []string{file, "--metrics-address", "TCP port 80"}},
		"one port for health and metrics":    {service(anySource, clusterIP), []string{"--metrics-address=:10271"}, []string{"--metrics-address", "--health-address"}},
		"only IPv6, which a flag leaves out": {service(anySource, "fd00:96::7"), []string{config.WithoutIPv6}, []string{file, "clusterIPs", config.WithoutIPv6}},
		"no config file":                     {"", []string{"--config-file=/nowhere/config.json"}, []string{"/nowhere/config.json", "ConfigMap"}},
		"a misspelt field in the config":     {`{"port":[]}`, nil, []string{file, `unknown field "port"`}},
		"an invalid source range":            {service(`"10.0.0.0/33"`, clusterIP), nil, []string{file, "sourceRanges[0]", `"10.0.0.0/33"`}},
	} {
		t.Run(name, func(t *testing.T) {
			write(tc.config)
			var stdout, stderr bytes.Buffer
			code := run(append([]string{"--config-file=" + file}, tc.args...), &stdout, &stderr)
			line := strings.TrimSuffix(stderr.String(), "\n")
			if code != exitUsage || strings.Contains(line, "\n") || stdout.Len() > 0 {
				t.Errorf("exit code %d, stdout %q, stderr %q; want %d and one line on stderr", code, stdout.String(), line, exitUsage)
			}
			for _, want := range tc.want {
				if !strings.Contains(line, want) {
					t.Errorf("stderr %q lacks %q", line, want)
				}
			}
		})
	}
}

func TestFlags(t *testing.T) {
	s, err := parse([]string{"--config-file=/a/b", "--health-address=127.0.0.1:99", "--metrics-address=:98", "--health-token=x", "--sync-period=5s", "-v=2"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.proxy.ConfigFile != "/a/b" || s.proxy.HealthPort != 99 || s.proxy.MetricsPort != 98 || s.proxy.HealthToken != "x" || s.proxy.SyncPeriod != 5*time.Second {
		t.Errorf("settings are %+v", s)
	}
	if s, err = parse(nil, io.Discard); err != nil || s.proxy.ConfigFile != config.DefaultFile || s.proxy.HealthPort != config.DefaultHealthPort || s.proxy.MetricsPort != config.DefaultMetricsPort {
		t.Errorf("defaults are %+v, %v", s, err)
	}
}

func TestVersionAndHelpNeedNoConfig(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"--version"}, &stdout, &stderr); code != exitOK || stdout.String() != "hostport-nodeproxy unknown\n" {
		t.Errorf("--version gave %d, %q, %q", code, stdout.String(), stderr.String())
	}
	if code := run([]string{"--help"}, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "--config-file") {
		t.Errorf("--help gave %d, %q", code, stdout.String())
	}
}

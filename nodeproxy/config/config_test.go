package config_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

const good = `{"service":"default/web","ports":[{"port":80},{"protocol":"UDP","port":53}],
	"clusterIPs":["10.96.0.7","fd00:96::7"],"sourceRanges":["0.0.0.0/0","::/0"],"drainSeconds":30,"maxConnectionsPerClient":100}`

func TestParse(t *testing.T) {
	got, err := config.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		Service:      "default/web",
		Ports:        []config.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}},
		ClusterIPs:   []string{"10.96.0.7", "fd00:96::7"},
		SourceRanges: []string{"0.0.0.0/0", "::/0"},
		DrainSeconds: 30,

		MaxConnectionsPerClient: 100,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("parsed config (-want +got):\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, tc := range map[string]struct{ json, want string }{
		"an empty file":                           {"", "it is empty"},
		"a truncated file":                        {good[:40], "ends in the middle"},
		"a misspelt field":                        {replace("sourceRanges", "sourceRange"), `unknown field "sourceRange"`},
		"a second object":                         {good + good, "something follows"},
		"a stray comma":                           {replace(`"ports":[`, `"ports":[,`), "at byte"},
		"a port that is text":                     {replace("80", `"http"`), "field ports.port is a string, want uint16"},
		"a port above 65535":                      {replace("80", "80000"), "field ports.port is a number 80000, want uint16"},
		"port 0":                                  {replace("80", "0"), "ports[0].port: is missing or 0"},
		"a protocol in lower case":                {replace("UDP", "udp"), `ports[1].protocol: "udp" is none of TCP, UDP, SCTP`},
		"the same port twice":                     {replace(`"protocol":"UDP","port":53`, `"port":80`), "ports[1]: TCP port 80 is listed twice"},
		"no ports":                                {`{"clusterIPs":["10.96.0.7"]}`, "ports: is empty"},
		"no cluster IP":                           {`{"ports":[{"port":80}]}`, "clusterIPs: is empty"},
		"a headless Service":                      {replace("10.96.0.7", "None"), `clusterIPs[0]: "None" is not a unicast IP address`},
		"a loopback cluster IP":                   {replace("10.96.0.7", "127.0.0.1"), `clusterIPs[0]: "127.0.0.1"`},
		"two cluster IPs of one family":           {replace("fd00:96::7", "10.96.0.8"), "clusterIPs[1]: 10.96.0.8 is a second IPv4 address"},
		"a source range that is an address":       {replace("0.0.0.0/0", "192.0.2.1"), `sourceRanges[0]: "192.0.2.1" is not a CIDR range`},
		"an IPv4-mapped IPv6 range":               {replace("::/0", "::ffff:192.0.2.0/120"), "sourceRanges[1]"},
		"a negative drain time":                   {replace(":30", ":-1"), "drainSeconds: -1 is out of range"},
		"a drain time above the limit":            {replace(":30", ":3601"), "use 0 to 3600"},
		"a negative limit per client":             {replace(":100", ":-1"), "maxConnectionsPerClient: -1 is out of range"},
		"a limit per client above the ceiling":    {replace(":100", ":64513"), "use 1 to 64512, or 0 for no limit"},
		"two invalid fields, which it both names": {`{}`, "ports: is empty; name at least one port; clusterIPs"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse([]byte(tc.json))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse returned error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestParseReturnsEveryValidConfigThatWasMarshalled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := config.Config{
			Service: rapid.StringMatching(`[a-z]{1,9}/[a-z]{1,9}`).Draw(t, "service"),
			Ports: rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) config.Port {
				return config.Port{Protocol: rapid.SampledFrom([]string{"TCP", "UDP", "SCTP"}).Draw(t, "protocol"), Port: rapid.Uint16Min(1).Draw(t, "port")}
			}), 1, 20, rapid.ID[config.Port]).Draw(t, "ports"),
			ClusterIPs:   []string{"10.96.0.7"},
			SourceRanges: rapid.SliceOf(rapid.SampledFrom([]string{"192.0.2.1/24", "::/0", "10.0.0.0/8"})).Draw(t, "ranges"),
		}
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := config.Parse(data)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("config (-written +parsed):\n%s", diff)
		}
	})
}

func TestParseOfDamagedJSONFailsOrReturnsAValidConfig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := []byte(good)
		at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		data[at] = rapid.Byte().Draw(t, "byte")
		c, err := config.Parse(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := config.Parse(again); err != nil {
			t.Errorf("Parse(%s) returned an invalid config: %v", data, err)
		}
	})
}

func TestAccessorsOfOneFamilyIgnoreTheOther(t *testing.T) {
	c := config.Config{
		Ports:        []config.Port{{Protocol: "UDP", Port: 53}},
		ClusterIPs:   []string{"fd00:96::7"},
		SourceRanges: []string{"192.0.2.9/24", "192.0.2.0/24", "::/0", "10.0.0.0/8"},
	}
	if _, ok := c.ClusterIP(config.IPv4); ok {
		t.Error("an IPv4 cluster IP was found in an IPv6 Service")
	}
	if got, ok := c.ClusterIP(config.IPv6); !ok || got != netip.MustParseAddr("fd00:96::7") {
		t.Errorf("IPv6 cluster IP = %v, %v", got, ok)
	}
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	if diff := cmp.Diff(want, c.Sources(config.IPv4), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("IPv4 sources (-want +got):\n%s", diff)
	}
	if !c.Has("UDP", 53) || c.Has("TCP", 53) {
		t.Error("Has(UDP, 53) must be true and Has(TCP, 53) false")
	}
}

package nodeproxytest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/nodeproxytest"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

func TestRestoreRefusesWhatIptablesRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a rule in a missing chain":  "*nat\n-A NONE -j DROP\nCOMMIT\n",
		"a jump to a missing chain":  "*nat\n-A OUTPUT -j HOSTPORT-X\nCOMMIT\n",
		"deleting a missing rule":    "*nat\n-D OUTPUT -j DROP\nCOMMIT\n",
		"flushing a missing chain":   "*nat\n-F NONE\nCOMMIT\n",
		"deleting a chain in use":    "*nat\n:HOSTPORT-X - [0:0]\n-A OUTPUT -j HOSTPORT-X\n-X HOSTPORT-X\nCOMMIT\n",
		"deleting a chain with rule": "*nat\n:HOSTPORT-X - [0:0]\n-A HOSTPORT-X -j DROP\n-X HOSTPORT-X\nCOMMIT\n",
		"deleting a built-in chain":  "*nat\n-X OUTPUT\nCOMMIT\n",
		"an unknown command":         "*nat\n-Q OUTPUT\nCOMMIT\n",
		"an unknown table":           "*none\nCOMMIT\n",
		"a table without commit":     "*nat\n-A OUTPUT -j DROP\n",
		"a rule outside of a table":  "-A OUTPUT -j DROP\n",
		"an error after a change":    "*nat\n-A OUTPUT -j DROP\n-A NONE -j DROP\nCOMMIT\n",
	} {
		t.Run(name, func(t *testing.T) {
			iptables := nodeproxytest.NewIptables()
			before := save(t, iptables)
			if err := iptables.Restore(t.Context(), text); err == nil {
				t.Error("no error")
			}
			if diff := cmp.Diff(before, save(t, iptables)); diff != "" {
				t.Errorf("tables changed despite the error (-before +after):\n%s", diff)
			}
		})
	}
}

func TestRestoreAppliesCommandsAndKeepsTheRest(t *testing.T) {
	iptables := nodeproxytest.NewIptables()
	for _, text := range []string{
		"*nat\n:HOSTPORT-X - [0:0]\n-A HOSTPORT-X -p tcp -j ACCEPT\n-A OUTPUT -j DROP\n-I OUTPUT 1 -j HOSTPORT-X\nCOMMIT\n",
		"*filter\n-A INPUT -j DROP\n-A INPUT -j ACCEPT\n-D INPUT -j DROP\nCOMMIT\n",
		"*nat\n:OUTPUT - [0:0]\n:HOSTPORT-X - [0:0]\n-A HOSTPORT-X -p udp -j ACCEPT\nCOMMIT\n",
	} {
		if err := iptables.Restore(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	iptables.Count("nat", "OUTPUT", "-j", rules.Count{Packets: 2, Bytes: 80})
	got, err := rules.ParseSave(save(t, iptables))
	if err != nil {
		t.Fatal(err)
	}
	counted := rules.Count{Packets: 2, Bytes: 80}
	want := map[string][]rules.InstalledRule{
		"OUTPUT":     {{Spec: "-j HOSTPORT-X", Count: counted}, {Spec: "-j DROP", Count: counted}},
		"HOSTPORT-X": {{Spec: "-p udp -j ACCEPT"}},
		"PREROUTING": nil, "INPUT": nil, "POSTROUTING": nil,
	}
	if diff := cmp.Diff(want, got["nat"]); diff != "" {
		t.Errorf("table nat (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]rules.InstalledRule{{Spec: "-j ACCEPT"}}, got["filter"]["INPUT"]); diff != "" {
		t.Errorf("chain INPUT (-want +got):\n%s", diff)
	}
	for spec, want := range map[string]bool{"DROP": true, "ACCEPT": false} {
		if ok, err := iptables.Exists("nat", "OUTPUT", "-j", spec); ok != want || err != nil {
			t.Errorf("Exists(-j %s) = %v, %v, want %v", spec, ok, err, want)
		}
	}
}

func save(t *testing.T, iptables *nodeproxytest.Iptables) string {
	t.Helper()
	text, err := iptables.Save(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

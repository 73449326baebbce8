package firewall

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsAreThoseOfGcloud(t *testing.T) {
	want := wanted(t)
	edited, denied, old := want, want, want
	old.DestinationRanges = nil
	edited.TargetTags, edited.Disabled, edited.SourceTags = nil, true, []string{"x"}
	denied.Denied = []Allow{{"all", 0, 0}}
	create := "gcloud compute firewall-rules create " + want.Name + " --project=p --network=vpc --direction=INGRESS '--description=" + want.Description +
		"' --priority=1000 --allow=tcp:80,tcp:443,udp:443 --source-ranges=0.0.0.0/0 --destination-ranges=10.0.0.1/32,203.0.113.1/32 --target-tags=node"
	remove := "gcloud compute firewall-rules delete " + want.Name + " --project=p --quiet"
	for name, c := range map[string]struct {
		have, want []Rule
		commands   []string
	}{
		"nothing there":                {nil, []Rule{want}, []string{create}},
		"edited":                       {[]Rule{edited}, []Rule{want}, []string{"gcloud compute firewall-rules update " + want.Name + " --project=p --no-disabled --source-tags= --target-tags=node"}},
		"of an older version":          {[]Rule{old}, []Rule{want}, []string{"gcloud compute firewall-rules update " + want.Name + " --project=p --destination-ranges=10.0.0.1/32,203.0.113.1/32"}},
		"with too many addresses":      {[]Rule{want}, []Rule{old}, []string{"gcloud compute firewall-rules update " + want.Name + " --project=p --destination-ranges="}},
		"with too many addresses, new": {nil, []Rule{old}, []string{strings.Replace(create, " --destination-ranges=10.0.0.1/32,203.0.113.1/32", "", 1)}},
		"denying":                      {[]Rule{denied}, []Rule{want}, []string{remove + " && " + create}},
		"not wanted":                   {[]Rule{want}, nil, []string{remove}},
		"already allowed":              {[]Rule{manualRule()}, []Rule{want}, nil},
		"as it should be":              {[]Rule{want}, []Rule{want}, nil},
	} {
		changes, err := MissingChanges(owner(), c.have, c.want, target.NodeTags)
		if diff := cmp.Diff(c.commands, Gcloud("p", changes)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	foreign := want
	foreign.Description, foreign.Allowed = "created by an administrator", []Allow{{"icmp", 0, 0}}
	var notOurs *NotOursError
	if _, err := MissingChanges(owner(), []Rule{foreign}, []Rule{want}, target.NodeTags); !errors.As(err, &notOurs) {
		t.Errorf("a rule of the name without our mark: %v", err)
	}
}

func TestWordsAreQuotedForAShell(t *testing.T) {
	for word, want := range map[string]string{"a-b": "a-b", "--x=tcp:80,udp": "--x=tcp:80,udp", "": "''", "a b": "'a b'", `it's "`: `'it'\''s "'`, "$x": "'$x'"} {
		if got := quote(word); got != want {
			t.Errorf("%s: %s", word, got)
		}
	}
}

package gcloud

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandsBecomeRequests(t *testing.T) {
	for command, want := range map[string]Request{
		"gcloud compute firewall-rules create r --project=p --network=n --priority=0 --allow=tcp:80-90,icmp '--description={\"a\": \"b c\"}'": {
			"POST", "p", "r", map[string]any{
				"name": "r", "network": "global/networks/n", "priority": 0, "description": `{"a": "b c"}`,
				"allowed": []map[string]any{{"IPProtocol": "tcp", "ports": []string{"80-90"}}, {"IPProtocol": "icmp"}},
			}},
		"gcloud compute firewall-rules update r --project=p --no-disabled --source-tags= --target-tags=a,b": {
			"PATCH", "p", "r", map[string]any{"disabled": false, "sourceTags": nil, "targetTags": []string{"a", "b"}}},
		"gcloud compute firewall-rules delete r --project=p --quiet": {"DELETE", "p", "r", map[string]any{}},
	} {
		got, err := Parse(command)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", command, err, diff)
		}
	}
}

func TestCommandsThatShellOrGcloudRefusesAreRefused(t *testing.T) {
	for _, command := range []string{
		"", "gcloud compute instances delete r --project=p --quiet", "gcloud compute firewall-rules create r",
		"gcloud compute firewall-rules update r --project=p --network=n", "gcloud compute firewall-rules delete r --project=p --priority=1",
		"gcloud compute firewall-rules create r --project=p --bogus=1", "gcloud compute firewall-rules create r --project=p --priority=x",
		`gcloud compute firewall-rules create r --project=p --description={"a":"b"}`, "gcloud compute firewall-rules create r --project=$P",
		"gcloud compute firewall-rules create r --project='p", "gcloud compute firewall-rules create r --project=p --target-tags=x",
		"gcloud compute firewall-rules create r --project=p --allow=tcp:80 --target-tags=", "gcloud compute firewall-rules create r --project=p --allow=tcp:80-",
		"gcloud compute firewall-rules create r --project=p --allow=tcp:80 --direction=in", "gcloud compute firewall-rules update r --project=p",
		"gcloud compute firewall-rules update r --project=p --priority=65536", "gcloud compute firewall-rules update r --project=p --priority",
		"gcloud compute firewall-rules update r --project=p --disabled=true", "gcloud compute firewall-rules delete r r2 --project=p",
		"gcloud compute firewall-rules delete r --project=p --project=q", "gcloud compute firewall-rules delete r --project=p --quiet=yes",
	} {
		if got, err := Parse(command); err == nil {
			t.Errorf("%s was accepted: %+v", command, got)
		}
	}
}

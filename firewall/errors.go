package firewall

import (
	"fmt"
	"strings"
)

// NotOursError says that a rule stands where one of ours should be and does
// not carry our mark. It is left as it is.
type NotOursError struct {
	Rule  string
	Owner Owner
	// Mark is the description that ours has. Empty: that of the owner.
	Mark string
}

// Error names the rule, the cause and the way out.
func (e *NotOursError) Error() string {
	mark := e.Mark
	if mark == "" {
		mark = FormatMark(e.Owner)
	}
	return fmt.Sprintf("firewall rule %s, wanted for Service %s, exists already and does not carry our mark, so it is left as it is: "+
		"delete or rename it (gcloud compute firewall-rules delete %s), or give it back its description %s",
		e.Rule, e.Owner.Service, e.Rule, mark)
}

func byName(a, b Rule) int { return strings.Compare(a.Name, b.Name) }

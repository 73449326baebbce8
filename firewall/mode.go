package firewall

// Mode is how far the program may go to change the firewall.
type Mode string

// The modes, from the one that does most to the one that does least.
const (
	// Managed creates, updates and deletes rules.
	Managed Mode = "managed"
	// Report changes nothing and returns the commands for an administrator in a
	// *ManualChangeError.
	Report Mode = "report"
	// None creates no rules. As a Service's mode it deletes those that the Service has; as the
	// cloud config's mode it leaves them, as no firewall is configured then.
	None Mode = "none"
)

// Modes returns all modes.
func Modes() []Mode { return []Mode{Managed, Report, None} }

// Exceeds reports whether m changes more than other does.
func (m Mode) Exceeds(other Mode) bool {
	rank := map[Mode]int{None: 0, Report: 1, Managed: 2}
	return rank[m] > rank[other]
}

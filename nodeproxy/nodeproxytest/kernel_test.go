package nodeproxytest_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/nodeproxytest"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/rules"
)

func TestForwardSwitchesOnIPv4AndOnlyChecksIPv6(t *testing.T) {
	k := nodeproxytest.NewKernel()
	for _, want := range []int{1, 0} {
		if changed, err := k.Forward(config.IPv4); len(changed) != want || err != nil {
			t.Errorf("Forward(IPv4) = %v, %v, want %d interfaces", changed, err, want)
		}
	}
	if _, err := k.Forward(config.IPv6); err == nil {
		t.Error("IPv6 forwarding was switched on")
	}
	k.Forwards[config.IPv6] = true
	if changed, err := k.Forward(config.IPv6); len(changed) > 0 || err != nil {
		t.Errorf("Forward(IPv6) = %v, %v while it is on", changed, err)
	}
}

func TestIptablesRefusesAFamilyWithoutTables(t *testing.T) {
	k := nodeproxytest.NewKernel()
	delete(k.Tables, config.IPv6)
	if _, err := k.Iptables(t.Context(), config.IPv6); err == nil {
		t.Error("no error")
	}
	if _, err := k.Iptables(t.Context(), config.IPv4); err != nil {
		t.Error(err)
	}
}

func TestFailRestoreAppliesToAllTablesUntilItIsNil(t *testing.T) {
	k := nodeproxytest.NewKernel()
	for _, want := range []error{errors.New("a fault"), nil} {
		k.FailRestore(want)
		for family, table := range k.Tables {
			if err := table.Restore(t.Context(), "*nat\nCOMMIT\n"); !errors.Is(err, want) {
				t.Errorf("%s: error %v, want %v", family, err, want)
			}
		}
	}
}

func TestFlowsAndFlushConcernOneFamily(t *testing.T) {
	k := nodeproxytest.NewKernel()
	for _, dst := range []string{"10.1.0.5", "fd00:1::5"} {
		for _, protocol := range []string{"TCP", "UDP"} {
			k.Tracked = append(k.Tracked, rules.Flow{Protocol: protocol, OrigDst: netip.MustParseAddr(dst)})
		}
	}
	visited := 0
	if err := k.Flows(config.IPv6, func(rules.Flow) { visited++ }); err != nil || visited != 2 {
		t.Errorf("Flows visits %d flows, %v, want 2", visited, err)
	}
	n, err := k.Flush(config.IPv4, func(flow rules.Flow) bool { return flow.Protocol == "UDP" })
	if n != 1 || len(k.Tracked) != 3 || err != nil {
		t.Errorf("Flush = %d, %v, with %d flows after it; want 1 and 3", n, err, len(k.Tracked))
	}
	k.FlowsErr, k.FlushErr = errors.New("a fault"), errors.New("another fault")
	if err := k.Flows(config.IPv6, func(rules.Flow) { t.Error("a flow is visited") }); !errors.Is(err, k.FlowsErr) {
		t.Errorf("Flows: error %v, want the fault", err)
	}
	if n, err := k.Flush(config.IPv6, func(rules.Flow) bool { return true }); n != 0 || !errors.Is(err, k.FlushErr) {
		t.Errorf("Flush = %d, %v, want the fault", n, err)
	}
}

func TestTimeoutsStayAsTheyAreWhenSettingThemFails(t *testing.T) {
	k := nodeproxytest.NewKernel()
	want := rules.TCPTimeouts{SynSent: time.Second}
	if err := k.SetTCPTimeouts(want); err != nil {
		t.Error(err)
	}
	k.TimeoutsErr = errors.New("a fault")
	if err := k.SetTCPTimeouts(rules.TCPTimeouts{}); !errors.Is(err, k.TimeoutsErr) || k.TCPTimeouts != want {
		t.Errorf("error %v, timeouts %+v; want the fault and %+v", err, k.TCPTimeouts, want)
	}
}

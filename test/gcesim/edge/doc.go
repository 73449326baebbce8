// Package edge enforces a simulated project's external addresses and firewall rules on the host
// between the "internet" and the VPC: 1:1 NAT and a stateful packet filter in nftables. Compute
// Engine has them around every VM.
//
// Traffic between VMs on internal addresses is always allowed, and egress rules are not enforced.
// IPv6 is not translated, and filtered only between the internet and the VPC: VMs reach each other
// without this host.
//
// A rule that allows applies to a VM only if its destination ranges have both addresses of the VM,
// internal and external; for a rule that denies, one is enough: it is not documented with which of
// them Compute Engine compares destination ranges.
package edge
